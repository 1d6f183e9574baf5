//! How a step's cost grows with the sequence length and the vocabulary: `cargo bench --bench growth`. The model has SmolLM2's shape, but
//! fewer layers and random weights; its adapters are double_seq_bn with a bottleneck of 64.

use clap::Parser;
use graftling::Result;
use graftling::gpu::Device;
use graftling::measure::{self, best};
use graftling::model::{AdapterConfig, BaseDropout, Biases, Config, Family, Model, NormKind, Positions, Trains};
use graftling::ops::{Activation, RopePairs, RopeScaling};
use graftling::train::{TrainOptions, Trainer};

#[derive(Parser)]
struct Options {
    #[arg(long, value_delimiter = ',', default_value = "128,256,512,1024,2048,4096")]
    lengths: Vec<u32>,
    #[arg(long, value_delimiter = ',', default_value = "5000,50000,150000")]
    vocabularies: Vec<u32>,
    #[arg(long, default_value_t = 2)]
    layers: u32,
    #[arg(long, default_value_t = 576)]
    hidden: u32,
    /// Recomputes the activations inside each block in the backward pass
    #[arg(long)]
    checkpointing: bool,
    #[arg(long)]
    device: Option<String>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = Device::open(options.device.as_deref())?;
    println!("{}", device.info());
    println!(
        "one sequence, {} layers, hidden size {}; activations are all of a step's memory except weights and optimizer state",
        options.layers, options.hidden
    );
    println!("\n| length | vocabulary | tokens/s | activations, MiB | KiB/token |\n|---|---|---|---|---|");
    let least = options.vocabularies.iter().copied().min().unwrap_or(5000);
    for &length in &options.lengths {
        row(&device, &options, length, least)?;
    }
    for &vocabulary in options.vocabularies.iter().filter(|&&v| v != least) {
        row(&device, &options, options.lengths[0], vocabulary)?;
    }
    Ok(())
}

fn row(device: &Device, options: &Options, length: u32, vocab_size: u32) -> Result<()> {
    let heads = options.hidden / 64;
    let config = Config {
        family: Family::Llama,
        vocab_size,
        context: length,
        hidden_size: options.hidden,
        layers: options.layers,
        heads,
        key_value_heads: if heads.is_multiple_of(3) { heads / 3 } else { heads },
        head_size: 64,
        intermediate_size: options.hidden * 8 / 3,
        activation: Activation::Silu,
        gated: true,
        norm: NormKind::RmsNorm,
        norm_first: true,
        epsilon: 1e-5,
        positions: Positions::Rotary { theta: 1e5, scaling: RopeScaling::None, pairs: RopePairs::Halves },
        head_norm: false,
        biases: Biases::default(),
        tied: true,
        dropout: BaseDropout::default(),
        encoder: None,
    };
    let adapter = AdapterConfig::parse(&format!("double_seq_bn[reduction_factor={}]", f64::from(options.hidden) / 64.0))?;
    let model = Model::new(&config, &[], Some(&adapter), Trains::adapters())?;
    let memory = model.upload(device, &[], 0, true)?;
    let before = memory.bytes();
    let train = TrainOptions { checkpointing: options.checkpointing, ..TrainOptions::default() };
    let mut trainer = Trainer::new(device, &model, &memory, train)?;
    let batch = measure::batch(1, length, vocab_size);
    let seconds = best(|| measure::step(&mut trainer, &batch))?;
    let activations = memory.bytes() - before;
    println!(
        "| {length} | {vocab_size} | {:.0} | {:.1} | {:.0} |",
        f64::from(length) / seconds,
        activations as f64 / f64::from(1 << 20),
        activations as f64 / 1024.0 / f64::from(length),
    );
    Ok(())
}
