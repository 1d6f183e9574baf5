//! A training step broken down by kernel: `cargo bench --bench step -- --model PATH`. Device timestamps measure each dispatch, each in its
//! own pass. Times are summed over the variants of a kernel; `--all` lists the dispatches instead. The column `limit` is the share of the
//! device's peak that a kernel reaches: the operations per second of a large product or the bytes per second of a large sum, whichever
//! share is larger. Both peaks are measured first, with this project's own kernels.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use graftling::Result;
use graftling::gpu::Device;
use graftling::graph::{DType, Parameters};
use graftling::measure::{self, NUMBERS, Product};
use graftling::model::{AdapterConfig, Base, Model, Trains};
use graftling::ops;
use graftling::train::{TrainOptions, Trainer};

#[derive(Parser)]
struct Options {
    /// A directory in Hugging Face format, a .gguf file, or builtin
    #[arg(long, default_value = "builtin")]
    model: PathBuf,
    #[arg(long, value_name = "SPEC", default_value = "identity_bn")]
    adapter: String,
    #[arg(long, default_value_t = 1)]
    batch_size: u32,
    #[arg(long, default_value_t = 128)]
    max_length: u32,
    #[arg(long)]
    device: Option<String>,
    /// Lists the dispatches by label instead of the sums by kernel
    #[arg(long)]
    all: bool,
    /// Rows, inputs and outputs of the product that measures peak operations
    #[arg(long, default_value_t = 1024)]
    size: u32,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Default)]
struct Sum {
    count: u32,
    seconds: f64,
    bytes: u64,
    operations: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let started = Instant::now();
    let base = Base::open(&options.model)?;
    let adapter = AdapterConfig::parse(&options.adapter)?;
    let device = Device::open(options.device.as_deref())?;
    println!("{}", device.info());
    let sources = [&base.weights];
    let model = Model::new(&base.config, &sources, Some(&adapter), Trains::adapters())?;
    let memory = model.upload(&device, &sources, 0, true)?;
    let mut trainer = Trainer::new(&device, &model, &memory, TrainOptions::default())?;
    println!("{:.2} s to load, record and compile", started.elapsed().as_secs_f64());
    let Options { batch_size, max_length, .. } = options;
    let batch = measure::batch(batch_size, max_length, base.config.vocab_size);
    let mut times = Vec::new();
    for _ in 0..6 {
        let started = Instant::now();
        trainer.step(std::slice::from_ref(&batch))?;
        let host = started.elapsed();
        while trainer.finish()?.is_some() {}
        times.push((started.elapsed(), host));
    }
    println!("{:.2} s for the first step", times[0].0.as_secs_f64());
    let (best, host) = times[3..].iter().min().expect("steps were timed");
    let seconds = best.as_secs_f64();
    println!(
        "{seconds:.4} s per step, {:.1} ms of it to submit everything (software drivers execute during submission); {:.0} tokens/s",
        host.as_secs_f64() * 1e3,
        batch.tokens.len() as f64 / seconds
    );

    let most_operations = Product::Forward.speed(&device, device.traits(), [options.size; 3], DType::F32)?;
    let most_bytes = bytes_in_a_second(&device)?;
    println!("limits: {:.1} GFLOP/s, {:.2} GB/s", most_operations / 1e9, most_bytes / 1e9);
    let timings = trainer.time(&batch)?;
    let total: f64 = timings.iter().map(|t| t.seconds).sum();
    println!("{total:.4} s in {} dispatches\n", timings.len());
    println!("{:>6} {:>7} {:>10} {:>9} {:>8} {:>6}  kernel", "share", "count", "ms", "GFLOP/s", "GB/s", "limit");
    let mut sums: HashMap<&str, Sum> = HashMap::new();
    for t in &timings {
        let sum = sums.entry(if options.all { &t.label } else { &t.kernel }).or_default();
        sum.count += 1;
        sum.seconds += t.seconds;
        sum.bytes += t.bytes;
        sum.operations += t.operations;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    for (kernel, Sum { count, seconds, bytes, operations }) in sums {
        let (operations, bytes) = (operations as f64 / seconds.max(1e-9), bytes as f64 / seconds.max(1e-9));
        let limit = (operations / most_operations).max(bytes / most_bytes);
        println!(
            "{:>5.1}% {count:>7} {:>10.2} {:>9.1} {:>8.2} {:>5.0}%  {kernel}",
            100.0 * seconds / total,
            seconds * 1e3,
            operations / 1e9,
            bytes / 1e9,
            100.0 * limit,
        );
    }
    Ok(())
}

/// The bytes per second that a sum of two 16 MiB tensors reads and writes.
fn bytes_in_a_second(device: &Device) -> Result<f64> {
    const LEN: u32 = 4 << 20;
    let seconds = measure::recording(device, device.traits(), &Parameters::default(), |g| {
        let (a, b) = (g.input("a", [LEN], DType::F32), g.input("b", [LEN], DType::F32));
        let sum = ops::add(g, a, b);
        g.keep(sum);
        vec![(a, NUMBERS), (b, NUMBERS)]
    })?;
    Ok(f64::from(LEN) * 12.0 / seconds)
}
