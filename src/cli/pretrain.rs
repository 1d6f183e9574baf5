//! `graftling pretrain`: training a model from scratch.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use graftling::gpu::{Device, Memory};
use graftling::graph::DType;
use graftling::model::{Base, Model, Trains};
use graftling::text::{Batch, Batches, DataOptions, Splits, Task, Tokenizer, round_length};
use graftling::train::{Estimate, Evaluation, Evaluator, Recipe, TrainOptions, Trainer, Vocabulary, recordings};
use graftling::weights::{Weight, Weights};
use graftling::words::count;
use graftling::{Error, Result, plot};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;

use super::Common;
use super::bar::Bar;
use super::options::name_of;
use super::progress::Progress;
use super::setup::{check_kernels, cut_batch, open_device, smaller_step};

/// Trains a model from scratch
#[derive(Args)]
#[command(after_help = "Example:
  graftling pretrain --config small.toml --data corpus.txt --out small

with a small.toml such as

  layers = 4
  hidden = 128
  heads = 4
  context = 256
  tokenizer = { bpe = 2048 }
  steps = 2000

The first four keys are required. The others, each with its default first:

  tokenizer = \"bytes\" | { bpe = SIZE }, with SIZE tokens, trained on the data
  key-value-heads = heads, head-size = hidden / heads
  feed-forward = 8/3 hidden with a gate | 4 hidden without
  gated = true | false, activation = \"silu\" with a gate | \"gelu\" without
  norm = \"rms\" | \"layer\", norm-position = \"pre\" | \"post\", norm-epsilon = 1e-5
  positions = \"rotary\" | \"learned\", rope-theta = 10000, head-norm = false | true
  biases = false | true | { qkv, attention-output, feed-forward, head }
  dropout = 0 | { embedding, attention, attention-output, feed-forward }
  tied-head = true | false, format = \"f16\" | \"f32\"
  schedule = \"cosine\" | \"linear\" | \"constant\", beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8
  held-out = 0.02, the fraction of the data to validate on if there is no validation file
  and the flags from --steps to --save-every above, by name")]
pub struct Pretrain {
    /// A TOML file that describes the model and its training
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A .jsonl or .txt file, or a directory with train.jsonl or train.txt, and optionally valid.jsonl or valid.txt
    #[arg(long)]
    data: PathBuf,
    /// The directory for the model, which must be new
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Optimizer steps [default: 1000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Sequences per batch, each up to the context long [default: 8]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: Option<u32>,
    /// Batches per step [default: 1]
    #[arg(long, value_name = "BATCHES", value_parser = clap::value_parser!(u32).range(1..=65536))]
    grad_accumulation: Option<u32>,
    /// The peak learning rate [default: 1e-3]
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Steps of linear warm-up [default: a tenth of all steps, at most 100]
    #[arg(long, value_name = "STEPS")]
    warmup_steps: Option<u64>,
    /// Weight decay [default: 0.01]
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Clip the norm of the gradient to this value; 0 disables clipping [default: 1]
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,
    /// Seed for the initial weights, the order of the data and dropout [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Save the model and measure its loss every STEPS steps, as well as after the last [default: 500]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    save_every: Option<u64>,
    /// Log every STEPS steps; without it, metrics.jsonl gets every step and standard error a few
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    log_every: Option<u64>,
}

impl Pretrain {
    pub fn run(&self, common: &Common) -> Result<()> {
        let started = Instant::now();
        let recipe = self.recipe()?;
        let config = &recipe.config;
        if self.out.join("config.json").exists() {
            return Err(Error::Usage(format!("{} already contains a model; give another --out", self.out.display())));
        }
        let tokenizer_json = match recipe.vocabulary {
            Vocabulary::Bytes => Tokenizer::bytes_json(),
            Vocabulary::Bpe(size) => Tokenizer::train_bpe(&self.data, size)?,
        };
        let tokenizer = Tokenizer::from_json(&tokenizer_json)?;
        let options = DataOptions { max_length: config.context as usize, train_on_prompt: true, task: Task::Language };
        let Splits { train: mut data, valid, .. } = Splits::read(&self.data, &tokenizer, &options)?;
        let held_out = valid.or_else(|| data.hold_out(recipe.held_out, None));
        let held_out: Vec<Batch> = held_out.iter().flat_map(|data| data.batches(recipe.batch_size as usize)).collect();

        let mut device = open_device(common)?;
        let model = Model::new(config, &[], None, Trains::everything())?.with_half_activations(common.half());
        let total = model.parameters.total();
        common.note(format!("model      {} parameters, all trainable", HumanCount(total)));
        let tokens: usize = data.sequences.iter().map(|s| s.tokens.len()).sum();
        let measured: u64 = held_out.iter().map(Batch::targets).sum();
        let sequences = data.sequences.len();
        let (tokens, measured) = (count(tokens, "token"), count(measured, "token"));
        common.note(format!("data       {}, {tokens}; held out: {measured}", count(sequences, "sequence")));
        let longest = data.sequences.iter().map(|s| s.tokens.len()).max().unwrap_or(1);
        let (rows, length) = (recipe.batch_size.min(sequences as u32), round_length(longest, config.context as usize) as u32);
        let warnings = check_kernels(common, &mut device, |traits| recordings(&model, traits, [rows, length], true))?;
        let estimate = Estimate::new(&model, device.traits(), rows, length, false)?;
        if let Some(cut) = cut_batch([rows, length], estimate.micro_batch) {
            common.note(format!("batch      {cut}"));
        }
        common.note(format!("memory     up to {} on the device", BinaryBytes(estimate.total())));

        let memory = model.upload(&device, &[], recipe.seed, true)?;
        let options = TrainOptions { adam: recipe.adam, schedule: recipe.schedule(), seed: recipe.seed as u32, ..TrainOptions::default() };
        let bar = Bar::new(common, recipe.steps);
        let compiling = bar.compiling(&device);
        let mut trainer = Trainer::new(&device, &model, &memory, options)?;
        let others = [(!common.half()).then_some("--precision f16"), Some("a shorter context")];
        let smaller = || smaller_step(rows, recipe.grad_accumulation.into(), estimate.micro_batch, &others);
        trainer.prepare(rows, length).map_err(|error| error.advised(smaller))?;
        compiling.over();
        let mut evaluator = Evaluator::new(&device, &model, &memory);
        let mut batches = Batches::new(&data, recipe.batch_size as usize, Some(recipe.seed));
        let mut progress = Progress::new(&bar, &self.out, recipe.steps, self.log_every)?;
        progress.keep(&warnings);
        for done in 1..=recipe.steps {
            let accumulated: Vec<_> = batches.by_ref().take(recipe.grad_accumulation as usize).collect();
            progress.started(&batches, &accumulated);
            if let Some(report) = trainer.step(&accumulated)? {
                progress.finished(&report, memory.bytes() + trainer.bytes())?;
            }
            if done % recipe.save_every == 0 || done == recipe.steps {
                while let Some(report) = trainer.finish()? {
                    progress.finished(&report, memory.bytes() + trainer.bytes())?;
                }
                self.save(&recipe, &device, &model, &memory, &tokenizer_json)?;
                if !held_out.is_empty() && done < recipe.steps {
                    progress.evaluates();
                    progress.evaluated(done, evaluator.evaluate(&held_out)?)?;
                }
            }
        }
        drop((trainer, evaluator));
        drop(memory);
        progress.evaluates();
        let evaluation = if held_out.is_empty() { None } else { Some(measure(&self.out, &device, &held_out)?) };
        let eval_loss = evaluation.as_ref().map(|evaluation| evaluation.loss);
        evaluation.map_or(Ok(()), |evaluation| progress.evaluated(recipe.steps, evaluation))?;
        bar.clear();
        plot::write(&self.out, &format!("{}, {} parameters from scratch", name_of(&self.out), HumanCount(total)))?;
        progress.conclude("model", "an untrained one", None);

        let summary = progress.summary();
        let measured = eval_loss.map_or(String::new(), |loss| format!(", validation {loss:.4}"));
        let (first, loss) = (summary.first, summary.last);
        let text = format!("saved {} after {}: loss {first:.4} to {loss:.4}{measured}", self.out.display(), count(recipe.steps, "step"));
        let json = json!({
            "model": self.out, "steps": recipe.steps, "loss": loss, "eval_loss": eval_loss, "eval_perplexity": eval_loss.map(f64::exp),
            "total_params": total, "vocab_size": config.vocab_size, "tokens_per_second": summary.tokens_per_second,
            "seconds": started.elapsed().as_secs_f64(), "skipped_steps": summary.skipped, "warnings": progress.warnings(),
        });
        common.result(text, json);
        Ok(())
    }

    /// The recipe in the file, with the flags applied.
    fn recipe(&self) -> Result<Recipe> {
        let not_negative =
            [("--learning-rate", self.learning_rate), ("--weight-decay", self.weight_decay), ("--clip-norm", self.clip_norm)];
        for (name, value) in not_negative {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
                return Err(Error::Usage(format!("{name} is {value}; it must be a number from 0 up")));
            }
        }
        let mut recipe = Recipe::read(&self.config)?;
        recipe.steps = self.steps.unwrap_or(recipe.steps);
        recipe.batch_size = self.batch_size.unwrap_or(recipe.batch_size);
        recipe.grad_accumulation = self.grad_accumulation.unwrap_or(recipe.grad_accumulation);
        recipe.learning_rate = self.learning_rate.unwrap_or(recipe.learning_rate);
        recipe.warmup_steps = self.warmup_steps.or(recipe.warmup_steps);
        recipe.adam.weight_decay = self.weight_decay.unwrap_or(recipe.adam.weight_decay);
        recipe.adam.clip_norm = self.clip_norm.map_or(recipe.adam.clip_norm, |norm| Some(norm).filter(|&norm| norm > 0.0));
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        recipe.save_every = self.save_every.unwrap_or(recipe.save_every);
        recipe.check().map_err(|problem| Error::file(&self.config, problem))?;
        Ok(recipe)
    }

    fn save(&self, recipe: &Recipe, device: &Device, model: &Model, memory: &Memory, tokenizer_json: &str) -> Result<()> {
        let weights = in_format(model.download(device, memory, |_| true)?, recipe.format);
        Base::write(&self.out, &recipe.config, &weights, tokenizer_json)
    }
}

/// Converts matrices to a format; vectors stay as they are.
fn in_format(mut weights: Weights, format: DType) -> Weights {
    for weight in weights.tensors.values_mut().filter(|weight| weight.shape.axes().len() > 1) {
        *weight = Weight::new(format, weight.shape.clone(), weight.in_format(format).into_owned());
    }
    weights
}

/// Evaluates the saved model.
fn measure(directory: &Path, device: &Device, held_out: &[Batch]) -> Result<Evaluation> {
    let base = Base::open(directory)?;
    let model = Model::new(&base.config, &[&base.weights], None, Trains::adapters())?;
    let memory = model.upload(device, &[&base.weights], 0, false)?;
    Evaluator::new(device, &model, &memory).evaluate(held_out)
}
