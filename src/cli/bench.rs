//! `graftling bench`: how fast this device computes matrix products and whole training steps.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use graftling::Result;
use graftling::gpu::Device;
use graftling::measure::{self, Product, ROUNDS, best};
use graftling::model::{AdapterConfig, Trains};
use graftling::train::{TrainOptions, Trainer};
use graftling::weights::GgmlType;
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::Common;
use super::setup::{Setup, max_length, open_device};

/// Times matrix products and whole training steps on this device
#[derive(Args)]
#[command(after_help = "Example:\n  graftling bench --model SmolLM2-135M-Instruct.Q4_1.gguf --batch-size 1 --max-length 128")]
pub struct Bench {
    /// The model whose training steps are timed: a directory in Hugging Face format, a .gguf file, or builtin
    #[arg(long, default_value = "builtin")]
    model: PathBuf,
    /// The adapter to train: PRESET[key=value,…]
    #[arg(long, value_name = "SPEC", default_value = "identity_bn")]
    adapter: String,
    /// Sequences per batch
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Tokens per sequence [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<u32>,
    /// As in `train`: recompute the activations inside each block in the backward pass
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    gradient_checkpointing: bool,
    /// The rows, inputs and outputs of the matrix products
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=8192))]
    size: u32,
    /// The weight formats of the matrix products, as GGUF names them
    #[arg(long, value_delimiter = ',', value_name = "FORMAT", default_value = "f32,f16,q8_0,q4_0,q4_1,q4_k,q6_k")]
    formats: Vec<GgmlType>,
    /// Time only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
}

/// What can be timed.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// Matrix products
    Matmul,
    /// Whole training steps
    Train,
}

impl Bench {
    pub fn run(&self, common: &Common) -> Result<()> {
        let started = Instant::now();
        let (mut lines, mut train, mut products) = (Vec::new(), Vec::new(), Vec::new());
        let wanted = |part| self.only.is_none_or(|only| only == part);
        let adapter = AdapterConfig::parse(&self.adapter)?;
        let setup = wanted(Part::Train).then(|| Setup::read(common, &self.model, None)).transpose()?;
        let length = setup.as_ref().map(|setup| max_length(&setup.base.config, self.max_length)).transpose()?;
        let device = open_device(common)?;
        // Training comes first, so that the time to the first step is the same as in a run.
        if let Some((setup, length)) = setup.zip(length) {
            let steps = self.steps(&setup, &device, &adapter, length, started)?;
            lines.push(format!(
                "{}, {adapter}, {} × {length} tokens: {:.0} tokens/s, {} of GPU memory, {:.2} s from the start to the end of the first step",
                self.model.display(),
                self.batch_size,
                steps["tokens_per_second"].as_f64().unwrap_or(0.0),
                BinaryBytes(steps["gpu_bytes"].as_u64().unwrap_or(0)),
                steps["first_step_seconds"].as_f64().unwrap_or(0.0),
            ));
            train.push(steps);
        }
        if wanted(Part::Matmul) {
            let size = self.size;
            lines.push(format!("{size} × {size} × {size}, GFLOP/s, the best of {ROUNDS}"));
            for product in Product::ALL {
                for format in &self.formats {
                    // Rows consist of whole blocks, and not every format can be trained.
                    if !product.takes(format.dtype()) || !(size as usize).is_multiple_of(format.block_len()) {
                        continue;
                    }
                    let gflops = product.speed(&device, device.traits(), [size; 3], format.dtype())? / 1e9;
                    let word = format.dtype().word();
                    lines.push(format!("  {product:15}  {word:5}  {gflops:8.1}"));
                    let direction = product.to_string();
                    products.push(json!({ "m": size, "n": size, "k": size, "format": word, "direction": direction, "gflops": gflops }));
                }
            }
        }
        common.result(lines.join("\n"), json!({ "device": device.info().to_string(), "matmul": products, "train": train }));
        Ok(())
    }

    /// Times whole training steps on meaningless tokens.
    fn steps(&self, setup: &Setup, device: &Device, adapter: &AdapterConfig, length: u32, started: Instant) -> Result<Value> {
        let model = setup.model(&setup.base.config, Some(adapter), Trains::adapters())?;
        let memory = setup.upload(device, &model, 0, true)?;
        let options = TrainOptions { checkpointing: self.gradient_checkpointing, ..TrainOptions::default() };
        let mut trainer = Trainer::new(device, &model, &memory, options)?;
        let batch = measure::batch(self.batch_size, length, setup.base.config.vocab_size);
        let mut first = None;
        let seconds = best(|| {
            measure::step(&mut trainer, &batch)?;
            first.get_or_insert_with(|| started.elapsed().as_secs_f64());
            Ok(())
        })?;
        Ok(json!({
            "model": self.model, "adapter": adapter.to_string(), "batch_size": self.batch_size, "length": length,
            "tokens_per_second": batch.tokens.len() as f64 / seconds, "gpu_bytes": memory.bytes() + trainer.bytes(), "first_step_seconds": first,
        }))
    }
}
