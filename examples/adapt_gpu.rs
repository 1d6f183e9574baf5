//! The whole workflow in one file: freeze a small pretrained GPT, insert adapters, and train only those on a new kind of text.
//!
//! `cargo run --release --example adapt_gpu` adapts a base that has only ever read the King James Bible to this project's own source code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use graftling::generate::Generator;
use graftling::gpu::{Device, Memory};
use graftling::model::{AdapterConfig, Base, BaseDropout, BaseIdentity, Config, Model, SavedAdapter, Trains, is_adapter, write_adapter};
use graftling::ops::optimizer::Adam;
use graftling::sampling::Sampling;
use graftling::text::{Batch, Tokenizer, cut, shuffled};
use graftling::train::{Evaluator, Schedule, Shape, TrainOptions, Trainer};
use graftling::weights::Weights;
use graftling::{Error, Result};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

/// Prints a line. A closed pipe is not an error: training continues and saves its result.
macro_rules! say {
    ($($what:tt)*) => { drop(writeln!(std::io::stdout(), $($what)*)) };
}

/// Trains adapters in a small frozen GPT on the GPU.
#[derive(Parser)]
struct Options {
    /// A text to adapt to; by default, Graftling's source code.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// The base model: a directory with config.json, model.safetensors and tokenizer.json.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/base"))]
    model: PathBuf,
    /// Where to save the adapter.
    #[arg(long, value_name = "DIR", default_value = "adapt_gpu-out")]
    out: PathBuf,
    /// Steps with a frozen base; the default takes about a minute on a software device.
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// First trains everything for STEPS steps, then freezes the changed base and continues with the adapters.
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    full_steps: u64,
    /// Parts of the base that train along with the adapters.
    #[arg(long, value_delimiter = ',')]
    train: Vec<Part>,
    /// Rows of text per step.
    #[arg(long, default_value_t = 4)]
    batch_size: usize,
    /// Peak learning rate; higher than the library's default of 1e-3, since the run is short.
    #[arg(long, default_value_t = 8e-3)]
    learning_rate: f64,
    /// Seed of the adapters' initial weights, the order of the text, the dropout masks and the samples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A device, by number or part of its name; by default, the best one.
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// Prints the result as one JSON object on the last line of standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    Head,
    Embeddings,
    Norms,
}

fn main() -> ExitCode {
    // SAFETY: no other thread has been started yet.
    unsafe { graftling::gpu::set_runtime_directory() };
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let base = Base::open(&options.model)?;
    let length = base.config.context as usize;
    let tokens = base.tokenizer.encode(&text(options)?)?;
    let data = Data::new(&tokens, length, options)?;
    let device = Device::open(options.device.as_deref())?;
    say!("device     {}", device.info());

    let trains = Trains {
        head: options.train.contains(&Part::Head),
        embeddings: options.train.contains(&Part::Embeddings),
        norms: options.train.contains(&Part::Norms),
        base: false,
    };
    // The base uses no dropout, neither while it trains nor while it is adapted; the adapters have their own.
    let config = Config { dropout: BaseDropout::default(), ..base.config.clone() };
    let adapters = AdapterConfig::default();
    let mut weights = base.weights;
    let before = measure(&device, &config, &weights, &data)?;

    if options.full_steps > 0 {
        let model = Model::new(&config, &[&weights], Some(&adapters), Trains::everything())?;
        let memory = model.upload(&device, &[&weights], options.seed, true)?;
        say!("first      {} steps train all {} parameters", options.full_steps, HumanCount(model.parameters.total()));
        // Training all weights needs a lower rate than training the small adapters.
        train(&device, &model, &memory, &data, options.full_steps, options.learning_rate / 8.0, options)?;
        let loss = Evaluator::new(&device, &model, &memory).loss(&data.held_out_batches)?;
        say!("then       held-out loss {loss:.3}; the changed base is frozen from here on");
        weights = model.download(&device, &memory, |_| true)?;
    }

    let model = Model::new(&config, &[&weights], Some(&adapters), trains)?;
    let memory = model.upload(&device, &[&weights], options.seed, true)?;
    let (total, trainable) = (model.parameters.total(), model.parameters.trainable());
    let share = 100.0 * trainable as f64 / total as f64;
    say!("parameters {} in all, {} trainable ({share:.1} %)", HumanCount(total), HumanCount(trainable));
    let prompt = data.prompt(&base.tokenizer, length / 4)?;
    say!("\nbefore     held-out loss {before:.3}; the frozen base continues the text:\n");
    show(&device, &model, &memory, &base.tokenizer, &prompt, options)?;

    let frozen = model.frozen_fingerprint(&device, &memory)?;
    let speed = train(&device, &model, &memory, &data, options.steps, options.learning_rate, options)?;
    let after = Evaluator::new(&device, &model, &memory).loss(&data.held_out_batches)?;
    say!("\nafter      held-out loss {after:.3} ({:+.0} %); the adapted model continues the text:\n", 100.0 * (after / before - 1.0));
    show(&device, &model, &memory, &base.tokenizer, &prompt, options)?;

    let unchanged = model.frozen_fingerprint(&device, &memory)? == frozen;
    say!("frozen     {}", if unchanged { "not one byte of the frozen weights has changed" } else { "THE FROZEN WEIGHTS HAVE CHANGED" });
    let identity = BaseIdentity::of(&config, &weights, &options.model.display().to_string());
    save(&device, &model, &memory, trains, &identity, options)?;
    let seconds = started.elapsed().as_secs_f64();
    say!("time       {seconds:.0} s in all, {speed:.0} tokens/s in training");
    if options.json {
        let result = serde_json::json!({
            "device": device.info().name, "backend": device.info().backend, "total_params": total, "trainable_params": trainable,
            "loss_before": before, "loss_after": after, "frozen_unchanged": unchanged, "seconds": seconds, "tokens_per_second": speed,
        });
        say!("{result}");
    }
    Ok(())
}

/// The text to adapt to: a file, or all of this project's Rust and WGSL.
fn text(options: &Options) -> Result<String> {
    let read =
        |path: &Path| std::fs::read_to_string(path).map_err(|e| Error::file(path, format!("cannot be read as text ({e}); check the path")));
    if let Some(path) = &options.text {
        return read(path);
    }
    let mut files = Vec::new();
    for directory in ["src", "shaders"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut files)?;
    }
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |e| Error::file(directory, format!("cannot be listed ({e}); run this from a checkout of the project"));
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Sequences to train on, and every tenth held out to evaluate on.
struct Data<'a> {
    train: Vec<&'a [u32]>,
    held_out: Vec<&'a [u32]>,
    held_out_batches: Vec<Batch>,
}

impl<'a> Data<'a> {
    fn new(tokens: &'a [u32], length: usize, options: &Options) -> Result<Data<'a>> {
        let sequences = cut(tokens, length);
        let path = options.text.clone().unwrap_or_else(|| "src".into());
        if tokens.is_empty() {
            return Err(Error::file(path, "is empty; give a text to adapt to"));
        }
        if sequences.len() < 10 {
            return Err(Error::file(path, format!("has only {} tokens; give a text of at least {}", tokens.len(), 10 * length)));
        }
        let (held_out, train): (Vec<_>, Vec<_>) = sequences.into_iter().enumerate().partition(|(i, _)| i % 10 == 9);
        let [held_out, train] = [held_out, train].map(|v| v.into_iter().map(|(_, s)| s).collect::<Vec<_>>());
        let held_out_batches = held_out.chunks(options.batch_size.max(1)).map(Batch::new).collect();
        Ok(Data { train, held_out, held_out_batches })
    }

    /// The start of a line of held-out text, for the model to continue.
    fn prompt(&self, tokenizer: &Tokenizer, most: usize) -> Result<Vec<u32>> {
        let sequence = self.held_out[self.held_out.len() / 2];
        let text = tokenizer.decode(sequence);
        let line = text.find('\n').map_or(text.as_str(), |end| &text[end + 1..]);
        let mut prompt = tokenizer.encode(line)?;
        prompt.truncate(most);
        Ok(if prompt.is_empty() { sequence[..1].to_vec() } else { prompt })
    }
}

/// The held-out loss of the base without adapters.
fn measure(device: &Device, config: &Config, weights: &Weights, data: &Data) -> Result<f64> {
    let model = Model::new(config, &[weights], None, Trains::adapters())?;
    let memory = model.upload(device, &[weights], 0, false)?;
    Evaluator::new(device, &model, &memory).loss(&data.held_out_batches)
}

/// Trains for `steps` steps with the peak learning rate `peak`; returns the tokens per second.
fn train(device: &Device, model: &Model, memory: &Memory, data: &Data, steps: u64, peak: f64, options: &Options) -> Result<f64> {
    let schedule = Schedule { peak, shape: Shape::Cosine, warmup_steps: (steps / 20).min(20), steps };
    let adam = Adam { clip_norm: Some(1.0), ..Adam::default() };
    let mut trainer =
        Trainer::new(device, model, memory, TrainOptions { adam, schedule, seed: options.seed as u32, ..TrainOptions::default() })?;
    let style = "{bar:30} step {pos}/{len}  {msg}  {elapsed} elapsed, {eta} left";
    let bar = ProgressBar::new(steps).with_style(ProgressStyle::with_template(style).expect("a valid template"));
    let started = Instant::now();
    let mut tokens = 0;
    let mut tell = |report: graftling::train::Report| {
        tokens += report.targets;
        let message = format!("loss {:.3}  {:.0} tokens/s", report.loss, tokens as f64 / started.elapsed().as_secs_f64());
        // If standard error is not a terminal, there is no bar; print a line now and then.
        if bar.is_hidden() && (report.step + 1).is_multiple_of((steps / 10).max(1)) {
            eprintln!("step {}/{steps}  {message}", report.step + 1);
        }
        bar.set_message(message);
        bar.inc(1);
    };
    let rows = options.batch_size.clamp(1, data.train.len());
    let per_epoch = (data.train.len() / rows) as u64;
    let mut order = Vec::new();
    for step in 0..steps {
        if step % per_epoch == 0 {
            order = shuffled(data.train.len(), options.seed, step / per_epoch);
        }
        let first = (step % per_epoch) as usize * rows;
        let batch: Vec<_> = order[first..first + rows].iter().map(|&i| data.train[i]).collect();
        trainer.step(&[Batch::new(&batch)])?.into_iter().for_each(&mut tell);
    }
    while let Some(report) = trainer.finish()? {
        tell(report);
    }
    bar.finish_and_clear();
    Ok(tokens as f64 / started.elapsed().as_secs_f64())
}

/// Prints the model's continuation of a prompt.
fn show(device: &Device, model: &Model, memory: &Memory, tokenizer: &Tokenizer, prompt: &[u32], options: &Options) -> Result<()> {
    let mut generator = Generator::new(device, model, memory, model.config.context)?;
    let sampling = Sampling { temperature: 0.7, top_k: 40, top_p: 1.0, seed: options.seed };
    let sample = generator.generate(prompt, 200, sampling, &[], |_| true)?;
    let text = format!("{}│{}", tokenizer.decode(prompt), tokenizer.decode(&sample));
    for line in text.lines() {
        say!("    {}", line.replace(|c: char| c.is_control(), " "));
    }
    say!();
    Ok(())
}

/// Saves the adapter, with the head if that trained, and the whole base if any of it changed.
fn save(device: &Device, model: &Model, memory: &Memory, trains: Trains, identity: &BaseIdentity, options: &Options) -> Result<()> {
    let directory = options.out.join("adapter");
    let trained = model.download(device, memory, |name| model.trains(name))?;
    write_adapter(&directory, &SavedAdapter::of(model, &trained, "default", identity)?)?;
    say!("saved      the adapter in {}", directory.display());
    if trains.any_of_base() || options.full_steps > 0 {
        let directory = options.out.join("base");
        let path = options.model.join("tokenizer.json");
        let tokenizer = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, format!("cannot be read ({e}); check the path")))?;
        let changed = model.download(device, memory, |name| !is_adapter(name))?;
        Base::write(&directory, &model.config, &changed, &tokenizer)?;
        say!("saved      the changed base in {}", directory.display());
    }
    Ok(())
}
