//! `graftling train`: adapters, and perhaps parts of the base, on a data set.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use graftling::model::{AdapterConfig, SavedAdapter, Trains, is_adapter, write_adapter};
use graftling::ops::optimizer::Adam;
use graftling::text::{Batches, DataOptions, Splits};
use graftling::train::{Estimate, Evaluator, Schedule, Shape, TrainOptions, Trainer};
use graftling::{Error, Result};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;

use super::Common;
use super::progress::Progress;
use super::setup::{Setup, max_length, open_device, with_dropout};

/// Trains an adapter on your text
#[derive(Args)]
#[command(after_help = "Example:
  graftling train --model SmolLM2-135M-Instruct.Q4_1.gguf --data notes.txt --out RUN --adapter 'seq_bn[reduction_factor=8]' --steps 200")]
pub struct Train {
    /// A directory in Hugging Face form, or a .gguf file
    #[arg(long)]
    model: PathBuf,
    /// A .jsonl or .txt file, or a directory with train.jsonl and perhaps valid.jsonl
    #[arg(long)]
    data: PathBuf,
    /// The directory of the run, which must be new
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// The adapter: PRESET[key=value,…], such as identity_bn, seq_bn[reduction_factor=8] or double_seq_bn[bottleneck=32]
    #[arg(long, value_name = "SPEC", default_value = "identity_bn")]
    adapter: String,
    /// The name under which the adapter is saved
    #[arg(long, value_name = "NAME", default_value = "default")]
    adapter_name: String,
    /// Start from a saved adapter, whose form is kept
    #[arg(long, value_name = "DIR", conflicts_with = "adapter")]
    init_adapter: Option<PathBuf>,
    /// Parts of the base that train beside the adapter
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    train: Vec<Part>,
    /// Optimizer steps; without it, as many as --epochs takes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Passes over the data, also parts of one
    #[arg(long, default_value_t = 1.0, conflicts_with = "steps")]
    epochs: f64,
    /// Sequences of a batch
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Batches of a step
    #[arg(long, value_name = "BATCHES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    grad_accumulation: u32,
    /// The most tokens of a sequence [default: 512, or the model's context where that is shorter]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<u32>,
    /// The largest learning rate
    #[arg(long, default_value_t = 1e-4)]
    learning_rate: f64,
    /// What the learning rate does after the warm-up
    #[arg(long, default_value = "constant")]
    schedule: ScheduleShape,
    /// Steps in which the learning rate rises
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warmup_steps: u64,
    /// adam adds the weight decay to the gradient, adamw takes it from the weights
    #[arg(long, default_value = "adam")]
    optimizer: Optimizer,
    /// The decay of the mean gradient
    #[arg(long, default_value_t = 0.9)]
    beta1: f64,
    /// The decay of the mean squared gradient
    #[arg(long, default_value_t = 0.999)]
    beta2: f64,
    /// Added to the root of the mean squared gradient
    #[arg(long, default_value_t = 1e-8)]
    epsilon: f64,
    /// How much weights are drawn to zero
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f64,
    /// The largest norm of the gradient, to which longer ones are cut
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,
    /// The dropout of the adapter and the base, instead of their own
    #[arg(long, value_name = "SHARE")]
    dropout: Option<f32>,
    /// Whether the order of the data changes from epoch to epoch
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    shuffle: bool,
    /// Learn prompts and all turns of a chat too
    #[arg(long)]
    train_on_prompt: bool,
    /// The seed of the adapter's start, the order of the data and the dropout
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Measure the validation loss every so many steps, beside the first and the last
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    eval_every: Option<u64>,
    /// Report every so many steps
    #[arg(long, value_name = "STEPS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    log_every: u64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    Head,
    Embeddings,
    Norms,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleShape {
    Constant,
    Linear,
    Cosine,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Optimizer {
    Adam,
    Adamw,
}

impl Train {
    pub fn run(&self, common: &Common) -> Result<()> {
        self.check()?;
        let setup = Setup::read(&self.model, self.init_adapter.as_ref())?;
        let config = with_dropout(&setup.base.config, self.dropout);
        let mut adapters = match &setup.adapter {
            Some(saved) => saved.config.clone(),
            None => AdapterConfig::parse(&self.adapter)?,
        };
        adapters.dropout = self.dropout.unwrap_or(adapters.dropout);
        let max_length = max_length(&config, self.max_length)?;
        let options = DataOptions { max_length: max_length as usize, train_on_prompt: self.train_on_prompt };
        let Splits { train: data, valid, .. } = Splits::read(&self.data, &setup.base.tokenizer, &options)?;
        if valid.is_none() && self.eval_every.is_some() {
            return Err(Error::Usage(format!("--eval-every needs validation data; put a valid.jsonl into {}", self.data.display())));
        }
        let mut batches = Batches::new(&data, self.batch_size as usize, self.shuffle.then_some(self.seed));
        let per_epoch = batches.per_epoch().div_ceil(u64::from(self.grad_accumulation)).max(1);
        let steps = self.steps.unwrap_or((self.epochs * per_epoch as f64).ceil().max(1.0) as u64);

        let device = open_device(common)?;
        let trains = self.trains(setup.has_head());
        let model = setup.model(&config, Some(&adapters), trains)?;
        let (total, trainable) = (model.parameters.total(), model.parameters.trainable());
        let percent = 100.0 * trainable as f64 / total as f64;
        common.note(format!("model      {} of {} parameters train ({percent:.1} %): {adapters}", HumanCount(trainable), HumanCount(total)));
        let tokens: usize = data.sequences.iter().map(|s| s.tokens.len()).sum();
        common.note(format!("data       {} sequences, {} tokens", data.sequences.len(), HumanCount(tokens as u64)));
        for (count, what) in
            [(data.cut, "were longer than --max-length and cut"), (data.dropped, "have no target within it and are left out")]
        {
            if count > 0 {
                common.note(format!("           {count} of them {what}"));
            }
        }
        let estimate = Estimate::new(&model, device.traits(), self.batch_size, max_length);
        common.note(format!("memory     up to {} on the device", BinaryBytes(estimate.total())));

        let memory = setup.upload(&device, &model, self.seed, true)?;
        let options = TrainOptions { adam: self.adam(), schedule: self.schedule(steps), seed: self.seed as u32 };
        let mut trainer = Trainer::new(&device, &model, &memory, options)?;
        let mut evaluator = Evaluator::new(&device, &model, &memory);
        let valid: Option<Vec<_>> = valid.map(|valid| valid.batches(self.batch_size as usize).collect());
        let mut progress = Progress::new(common, &self.out, steps, self.log_every)?;
        let mut evaluate = |step: u64, progress: &mut Progress| -> Result<()> {
            valid.as_ref().map_or(Ok(()), |valid| progress.evaluated(step, evaluator.loss(valid)?))
        };

        evaluate(0, &mut progress)?;
        for step in 0..steps {
            let accumulated: Vec<_> = batches.by_ref().take(self.grad_accumulation as usize).collect();
            let position = batches.position();
            let epoch = position.epoch as f64 + position.index as f64 / batches.per_epoch() as f64;
            progress.started(epoch, accumulated.iter().flat_map(|batch| &batch.lengths).map(|&length| u64::from(length)).sum());
            let report = trainer.step(&accumulated)?;
            let bytes = memory.bytes() + trainer.bytes();
            report.map_or(Ok(()), |report| progress.finished(&report, bytes))?;
            let done = step + 1;
            if self.eval_every.is_some_and(|every| done.is_multiple_of(every)) && done < steps {
                while let Some(report) = trainer.finish()? {
                    progress.finished(&report, bytes)?;
                }
                evaluate(done, &mut progress)?;
            }
        }
        let bytes = memory.bytes() + trainer.bytes();
        while let Some(report) = trainer.finish()? {
            progress.finished(&report, bytes)?;
        }
        evaluate(steps, &mut progress)?;

        let trained = |name: &str| is_adapter(name) || model.trains(name);
        let trained = model.download(&device, &memory, trained)?;
        let saved = SavedAdapter::of(&model, &trained, &self.adapter_name, &self.model.display().to_string())?;
        let directory = self.out.join("adapter");
        write_adapter(&directory, &saved)?;
        let summary = progress.summary();
        let text = format!("saved {} after {steps} steps: loss {:.4} to {:.4}", directory.display(), summary.first, summary.last);
        let json = json!({
            "adapter": directory, "steps": steps, "loss_before": summary.first, "loss_after": summary.last, "eval_loss": summary.evaluated,
            "total_params": total, "trainable_params": trainable, "tokens_per_second": summary.tokens_per_second, "gpu_bytes": bytes,
        });
        common.result(text, json);
        Ok(())
    }

    /// Options whose range clap does not know.
    fn check(&self) -> Result<()> {
        let usage = |problem: String| Err(Error::Usage(problem));
        let shares = [("--beta1", Some(self.beta1)), ("--beta2", Some(self.beta2)), ("--dropout", self.dropout.map(f64::from))];
        for (name, share) in shares {
            if share.is_some_and(|share| !(0.0..1.0).contains(&share)) {
                return usage(format!("{name} is not a share from 0 to below 1; give one"));
            }
        }
        let positive = [
            ("--learning-rate", self.learning_rate, true),
            ("--epochs", self.epochs, false),
            ("--epsilon", self.epsilon, false),
            ("--weight-decay", self.weight_decay, true),
            ("--clip-norm", self.clip_norm.unwrap_or(1.0), false),
        ];
        for (name, value, zero) in positive {
            if !(value.is_finite() && (value > 0.0 || zero && value == 0.0)) {
                return usage(format!("{name} is {value}; it must be a number above 0"));
            }
        }
        if self.out.join("adapter").exists() {
            return usage(format!("{} already has an adapter; give another --out", self.out.display()));
        }
        Ok(())
    }

    fn trains(&self, has_head: bool) -> Trains {
        let part = |part| self.train.contains(&part);
        Trains { base: false, head: part(Part::Head) || has_head, embeddings: part(Part::Embeddings), norms: part(Part::Norms) }
    }

    fn adam(&self) -> Adam {
        Adam {
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            decoupled: self.optimizer == Optimizer::Adamw,
            clip_norm: self.clip_norm,
        }
    }

    fn schedule(&self, steps: u64) -> Schedule {
        let shape = match self.schedule {
            ScheduleShape::Constant => Shape::Constant,
            ScheduleShape::Linear => Shape::Linear,
            ScheduleShape::Cosine => Shape::Cosine,
        };
        Schedule { peak: self.learning_rate, shape, warmup_steps: self.warmup_steps, steps }
    }
}
