//! `graftling bench`: how fast this device is, in products and in whole steps.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use graftling::Result;
use graftling::gpu::{Device, Memory, Program};
use graftling::graph::{DType, Graph, Parameters};
use graftling::model::{AdapterConfig, Trains};
use graftling::ops::{Linear, matmul};
use graftling::text::Batch;
use graftling::train::{TrainOptions, Trainer};
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::Common;
use super::setup::{Setup, max_length, open_device};

/// Times products of matrices and whole training steps on this device
#[derive(Args)]
#[command(after_help = "Example:\n  graftling bench --model SmolLM2-135M-Instruct.Q4_1.gguf --batch-size 1 --max-length 128")]
pub struct Bench {
    /// The model whose steps are timed: a directory in Hugging Face form, a .gguf file, or builtin
    #[arg(long, default_value = "builtin")]
    model: PathBuf,
    /// The adapter that is trained: PRESET[key=value,…]
    #[arg(long, value_name = "SPEC", default_value = "identity_bn")]
    adapter: String,
    /// Sequences of a batch
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// The tokens of a sequence [default: 512, or the model's context where that is shorter]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<u32>,
    /// The rows, inputs and outputs of the products
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=8192))]
    size: u32,
}

/// What is timed of a layer, and the formats of its weights.
const PRODUCTS: [(&str, &[DType]); 3] = [
    ("forward", &[DType::F32, DType::F16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q4K, DType::Q6K]),
    ("input gradient", &[DType::F32, DType::F16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q4K, DType::Q6K]),
    ("weight gradient", &[DType::F32]),
];

/// Rounds before anything counts: drivers compile late, and the submissions' length is found in the first ones.
const WARM_UP: usize = 3;
/// Rounds of which the best counts, since the machine may be shared.
const ROUNDS: usize = 5;

impl Bench {
    pub fn run(&self, common: &Common) -> Result<()> {
        let adapter = AdapterConfig::parse(&self.adapter)?;
        let setup = Setup::read(&self.model, None)?;
        let length = max_length(&setup.base.config, self.max_length)?;
        let device = open_device(common)?;
        let size = self.size;
        let mut products = Vec::new();
        let mut lines = vec![format!("{size} × {size} × {size}, GFLOP/s, the best of {ROUNDS}")];
        for (direction, formats) in PRODUCTS {
            for &format in formats {
                // A row of blocks has whole blocks.
                if format.group_len() > 1 && !size.is_multiple_of(256) {
                    continue;
                }
                let gflops = product(&device, size, format, direction)?;
                lines.push(format!("  {direction:15}  {:5}  {gflops:8.1}", format.word()));
                let json = json!({ "m": size, "n": size, "k": size, "format": format.word(), "direction": direction, "gflops": gflops });
                products.push(json);
            }
        }
        let train = self.steps(&setup, &device, &adapter, length)?;
        lines.push(format!(
            "{}, {adapter}, {} × {length} tokens: {:.0} tokens/s, {} of GPU memory",
            self.model.display(),
            self.batch_size,
            train["tokens_per_second"].as_f64().unwrap_or(0.0),
            BinaryBytes(train["gpu_bytes"].as_u64().unwrap_or(0)),
        ));
        common.result(lines.join("\n"), json!({ "device": device.info().to_string(), "matmul": products, "train": [train] }));
        Ok(())
    }

    /// Whole steps of training on tokens that mean nothing.
    fn steps(&self, setup: &Setup, device: &Device, adapter: &AdapterConfig, length: u32) -> Result<Value> {
        let model = setup.model(&setup.base.config, Some(adapter), Trains::adapters())?;
        let memory = setup.upload(device, &model, 0, true)?;
        let mut trainer = Trainer::new(device, &model, &memory, TrainOptions::default())?;
        let tokens: Vec<u32> =
            (0..self.batch_size * length).map(|i| i.wrapping_mul(2_654_435_761) % setup.base.config.vocab_size).collect();
        let batch = [Batch::new(&tokens.chunks(length as usize).collect::<Vec<_>>())];
        let mut best = f64::INFINITY;
        for round in 0..WARM_UP + ROUNDS {
            let started = Instant::now();
            trainer.step(&batch)?;
            while trainer.finish()?.is_some() {}
            if round >= WARM_UP {
                best = best.min(started.elapsed().as_secs_f64());
            }
        }
        Ok(json!({
            "model": self.model, "adapter": adapter.to_string(), "batch_size": self.batch_size, "length": length,
            "tokens_per_second": tokens.len() as f64 / best, "gpu_bytes": memory.bytes() + trainer.bytes(),
        }))
    }
}

/// GFLOP/s of one product of a layer.
fn product(device: &Device, size: u32, format: DType, direction: &str) -> Result<f64> {
    let mut parameters = Parameters::default();
    let weight = parameters.add("weight", [size, size], format, direction == "weight gradient");
    let mut g = Graph::new(device.traits(), &parameters, true);
    let (x, dy) = (g.input("x", [size, size], DType::F32), g.input("dy", [size, size], DType::F32));
    let layer = Linear::new(weight, None);
    match direction {
        "forward" => drop(matmul::forward(&mut g, x, &layer, size, None)),
        "input gradient" => drop(matmul::input_gradient(&mut g, dy, &layer, None)),
        _ => matmul::layer_gradients(&mut g, dy, x, &layer),
    }
    let memory = Memory::new(device, &parameters, true)?;
    let mut program = Program::new(device, &memory, &g)?;
    let numbers: Vec<f32> = (0..size * size).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.5).collect();
    program.write(device, x, &numbers);
    program.write(device, dy, &numbers);
    // In every format these bytes are numbers of ordinary size.
    memory.write(device, weight, &vec![0x3a; format.bytes(u64::from(size) * u64::from(size)) as usize]);
    let mut best = f64::INFINITY;
    for round in 0..WARM_UP + ROUNDS {
        let started = Instant::now();
        program.run(device)?;
        memory.read(device, memory.arenas().metrics)?; // waits
        if round >= WARM_UP {
            best = best.min(started.elapsed().as_secs_f64());
        }
    }
    Ok(2.0 * f64::from(size).powi(3) / best / 1e9)
}
