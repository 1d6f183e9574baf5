//! Trains the small base of `adapt_gpu` from nothing on a text file: `assets/README.md` has the recipe.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use graftling::gpu::Device;
use graftling::model::{Base, BaseDropout, Config, Model, Trains};
use graftling::ops::optimizer::Adam;
use graftling::text::{Batch, Tokenizer, cut, shuffled};
use graftling::train::{Evaluator, Schedule, Shape, TrainOptions, Trainer};
use graftling::weights::{Weight, Weights};
use graftling::{Error, Result};

/// Trains a small byte-level GPT on a text file.
#[derive(Parser)]
struct Options {
    /// The text, as UTF-8.
    #[arg(long)]
    text: PathBuf,
    /// The directory for config.json, model.safetensors (f16) and tokenizer.json.
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 128)]
    hidden: u32,
    #[arg(long, default_value_t = 4)]
    layers: u32,
    /// The longest sequence in bytes.
    #[arg(long, default_value_t = 128)]
    context: u32,
    #[arg(long, default_value_t = 3000)]
    steps: u64,
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f64,
    /// The base is small and sees its text only once or twice, so it needs no dropout.
    #[arg(long, default_value_t = 0.0)]
    dropout: f32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Writes the model each time that so many steps are done.
    #[arg(long, default_value_t = 500)]
    save_every: u64,
    /// A device by number or name.
    #[arg(long)]
    device: Option<String>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let text = std::fs::read(&options.text).map_err(|e| Error::file(&options.text, format!("cannot be read ({e}); check the path")))?;
    let tokens: Vec<u32> = text.into_iter().map(u32::from).collect();
    let length = options.context as usize;
    let (train, held_out) = tokens.split_at(tokens.len() / 50 * 49);
    let (train, held_out) = (cut(train, length), cut(held_out, length));
    if train.is_empty() || held_out.is_empty() {
        return Err(Error::file(&options.text, format!("has fewer than {} bytes; use a longer text", 50 * length)));
    }

    let dropout = BaseDropout { attention: options.dropout, ffn_output: options.dropout, ..BaseDropout::default() };
    let config = Config { dropout, ..Config::gpt(256, options.context, options.hidden, options.layers) };
    config.check().map_err(Error::Usage)?;
    let device = Device::open(options.device.as_deref())?;
    let model = Model::new(&config, &[], None, Trains::everything())?;
    let memory = model.upload(&device, &[], options.seed, true)?;
    eprintln!("{}: {} parameters, {} sequences of {length} bytes", device.info(), model.parameters.total(), train.len());

    let schedule = Schedule { peak: options.learning_rate, shape: Shape::Cosine, warmup_steps: 100, steps: options.steps };
    let adam = Adam { weight_decay: 0.01, decoupled: true, clip_norm: Some(1.0), ..Adam::default() };
    let mut trainer = Trainer::new(&device, &model, &memory, TrainOptions { adam, schedule, seed: options.seed as u32 })?;
    let mut evaluator = Evaluator::new(&device, &model, &memory);
    let held_out: Vec<Batch> = held_out.chunks(options.batch_size).map(Batch::new).take(20).collect();

    let started = Instant::now();
    let per_epoch = (train.len() / options.batch_size).max(1) as u64;
    let mut order = Vec::new();
    for step in 0..options.steps {
        if step % per_epoch == 0 {
            order = shuffled(train.len(), options.seed, step / per_epoch);
        }
        let at = (step % per_epoch) as usize * options.batch_size;
        let rows: Vec<_> = order[at..].iter().take(options.batch_size).map(|&i| train[i]).collect();
        if let Some(report) = trainer.step(&[Batch::new(&rows)])?
            && report.step % 50 == 0
        {
            let tokens = (report.step + 1) as f64 * (options.batch_size * length) as f64;
            let speed = tokens / started.elapsed().as_secs_f64();
            eprintln!("step {} loss {:.4} gradient norm {:.3} {speed:.0} tokens/s", report.step, report.loss, report.gradient_norm);
        }
        if (step + 1) % options.save_every == 0 || step + 1 == options.steps {
            let loss = evaluator.loss(&held_out)?;
            println!("step {} held-out loss {loss:.4}", step + 1);
            let trained = model.download(&device, &memory, |_| true)?;
            Base::write(&options.out, &config, &narrowed(&trained), &Tokenizer::bytes_json())?;
        }
    }
    Ok(())
}

/// The matrices rounded to f16, the vectors as they are.
fn narrowed(weights: &Weights) -> Weights {
    let mut narrow = Weights::default();
    for (name, weight) in &weights.tensors {
        let mut weight = weight.clone();
        if weight.shape.axes().len() > 1 {
            let dtype = graftling::graph::DType::F16;
            weight = Weight::new(dtype, weight.shape.clone(), weight.in_format(dtype).into_owned());
        }
        narrow.tensors.insert(name.clone(), weight);
    }
    narrow
}
