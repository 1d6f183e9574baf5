//! `graftling train`: training an adapter, and optionally parts of the base, on a data set.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};
use graftling::model::{AdapterConfig, AdapterExpression, Trains};
use graftling::ops::optimizer::Adam;
use graftling::text::{Batches, DataOptions, Dataset, Splits, TaskKind, round_length};
use graftling::train::{Checkpoints, RunState, Schedule, Shape, TrainOptions, recordings};
use graftling::weights::fingerprint;
use graftling::words::count;
use graftling::{Error, Result};

use super::lock::Lock;
use super::options::Options;
use super::resume::{ThisRun, check_base, newest};
use super::run::Run;
use super::setup::{Setup, adapters, check_kernels, max_length, open_device, with_dropout};
use super::{Cli, Command, Common, interrupt};

/// Trains an adapter on your text
#[derive(Args)]
#[command(after_help = "Example:
  graftling train --model SmolLM2-135M-Instruct.Q4_1.gguf --data notes.txt --out RUN --adapter 'seq_bn[reduction_factor=8]' --steps 200
  graftling train --out RUN --resume")]
pub struct Train {
    /// A directory in Hugging Face format, a .gguf file, or builtin: a small byte-level GPT to try things out
    #[arg(long, required_unless_present_any = ["config", "resume"])]
    model: Option<PathBuf>,
    /// A .jsonl, .csv, .tsv or .txt file, or a directory with such a file called train, and optionally one called valid
    #[arg(long, required_unless_present_any = ["config", "resume"])]
    data: Option<PathBuf>,
    /// The directory for the run, which must be new unless it is resumed
    #[arg(long, value_name = "RUN", required_unless_present = "config")]
    out: Option<PathBuf>,
    /// Resume the run in RUN from its newest checkpoint, with its own options
    #[arg(long)]
    resume: bool,
    /// A file with options, such as another run's run.toml; those on the command line take precedence
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// The adapter: PRESET[key=value,…], such as identity_bn, seq_bn[reduction_factor=8] or double_seq_bn[bottleneck=32]
    #[arg(long, value_name = "SPEC", default_value = "identity_bn")]
    adapter: String,
    /// The name to save the adapter under
    #[arg(long, value_name = "NAME", default_value = "default")]
    adapter_name: String,
    /// Start from a saved adapter and keep its configuration and its head; one for words trains only with --train head
    #[arg(long, value_name = "DIR", conflicts_with = "adapter", value_parser = adapters(), value_hint = ValueHint::DirPath)]
    init_adapter: Option<AdapterExpression>,
    /// Train the adapter on top of a saved one, which stays as it is; or of several: stack(A,B), average(A:0.7,B:0.3)
    #[arg(long, value_name = "DIR", value_parser = adapters(), value_hint = ValueHint::DirPath)]
    under: Option<AdapterExpression>,
    /// Train a fusion of saved bottleneck adapters, which stay as they are; repeat it for each
    #[arg(long, value_name = "DIR", value_parser = adapters(), value_hint = ValueHint::DirPath, conflicts_with_all = ["under", "init_adapter"])]
    fuse: Vec<AdapterExpression>,
    /// What a fusion trains: queries, keys and values, or (static) queries and keys only
    #[arg(long, value_name = "KIND", default_value = "dynamic")]
    fusion: FusionKind,
    /// What to learn: language, classification, multilabel, regression or tagging; or mlm, a language from its hidden words, as encoders do
    /// [default: what the rows suggest]
    #[arg(long, value_parser = wanted_task)]
    task: Option<WantedTask>,
    /// Split this share of the training rows off, chosen by --seed, to measure them during training
    #[arg(long, value_name = "SHARE")]
    valid: Option<f64>,
    /// Parts of the base to train along with the adapter
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    train: Vec<Part>,
    /// Train everything for the first STEPS steps, then freeze the base and continue with the adapter only
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    full_steps: u64,
    /// Optimizer steps; without it, as many as --epochs takes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Passes over the data; fractions are allowed
    #[arg(long, default_value_t = 1.0, conflicts_with = "steps")]
    epochs: f64,
    /// Sequences per batch
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Batches per step
    #[arg(long, value_name = "BATCHES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    grad_accumulation: u32,
    /// Recompute the activations inside each block in the backward pass: the same bits with less memory and a third more work
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    gradient_checkpointing: bool,
    /// Maximum tokens per sequence [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<u32>,
    /// The peak learning rate
    #[arg(long, default_value_t = 1e-4)]
    learning_rate: f64,
    /// What the learning rate does after the warm-up
    #[arg(long, default_value = "constant")]
    schedule: ScheduleShape,
    /// Steps of linear warm-up
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warmup_steps: u64,
    /// adam adds the weight decay to the gradient, adamw subtracts it from the weights
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
    /// Weight decay
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f64,
    /// Clip the norm of the gradient to this value
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,
    /// The dropout rate of the adapter and the base, instead of their own
    #[arg(long, value_name = "SHARE")]
    dropout: Option<f32>,
    /// Whether to shuffle the data anew in each epoch
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    shuffle: bool,
    /// Also train on prompts and on all turns of a chat
    #[arg(long)]
    train_on_prompt: bool,
    /// Seed for the adapter's initial weights, the order of the data and dropout
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Measure the validation loss every STEPS steps, as well as before the first and after the last
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    eval_every: Option<u64>,
    /// Save a checkpoint every STEPS steps, as well as after the last and whenever validation improves [default: every ten minutes]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    save_every: Option<u64>,
    /// Log every STEPS steps; without it, metrics.jsonl gets every step and standard error a few
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    log_every: Option<u64>,
}

/// A task by its name.
#[derive(Clone, Copy)]
struct WantedTask {
    kind: TaskKind,
    /// Whether it was called `mlm`, a language learned from hidden words.
    hidden_words: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    Head,
    Embeddings,
    Norms,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum FusionKind {
    Dynamic,
    Static,
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
    pub fn run(&self) -> Result<()> {
        let mut options = Options::typed("train");
        if let Some(config) = &self.config {
            options.add(config)?;
        }
        let (common, train) = train_of(&options);
        let out = required(&train.out, "out")?;
        if train.resume {
            let file = out.join(RUN_TOML);
            if !file.exists() {
                return Err(Error::file(file, "does not exist, so there is no run to resume; start one without --resume"));
            }
            options.resume(&file)?;
        } else if let Some(file) = [RUN_TOML, "metrics.jsonl", "checkpoints", "adapter"].into_iter().find(|file| out.join(file).exists()) {
            let problem = format!("{} already has a run ({file}); continue it with --resume, or give another --out", out.display());
            return Err(Error::Usage(problem));
        }
        let (common, train) = if train.resume { train_of(&options) } else { (common, train) };
        train.start(&common, &options)
    }

    fn start(&self, common: &Common, options: &Options) -> Result<()> {
        self.check()?;
        let [model, data_path, out] =
            [(&self.model, "model"), (&self.data, "data"), (&self.out, "out")].map(|(path, name)| required(path, name));
        let (model, data_path, out) = (model?, data_path?, out?);
        let fused = (!self.fuse.is_empty()).then(|| AdapterExpression::Stack(self.fuse.clone()));
        let mut setup = Setup::read(common, model, self.under.as_ref().or(fused.as_ref()))?;
        let init = self.init_adapter.as_ref().map(|saved| saved.read_one("--init-adapter")).transpose()?;
        if let Some(saved) = &init {
            if saved.config.fusion().is_some() {
                return Err(Error::Usage("--init-adapter names a fusion; train it anew with --fuse A --fuse B".into()));
            }
            saved.check_base(&setup.identity)?.into_iter().for_each(|warning| common.warn(warning));
            setup.changes = saved.sources(&setup.base.config)?;
        }
        let start = init.as_ref().and_then(|saved| saved.label_head.as_ref()).map(|(head, _)| head.clone());
        let trains = self.trains();
        let config = with_dropout(&setup.base.config, self.dropout);
        let adapters = match init {
            Some(saved) => saved.config,
            None if fused.is_some() => {
                // The saved adapters are part of what is saved, not below it.
                (setup.expression, setup.parts) = (None, setup.saved.parts());
                setup.saved.fusion(self.fusion == FusionKind::Dynamic).into()
            }
            None => AdapterConfig::parse(&self.adapter)?,
        };
        let adapters = match self.dropout {
            Some(share) => adapters.with_dropout(share),
            None => adapters,
        };
        adapters.check_for(&config).map_err(Error::Usage)?;
        let max_length = max_length(&config, self.max_length)?;
        if self.task.is_some_and(|task| task.hidden_words) && config.encoder.is_none() {
            let problem = format!("--task mlm needs an encoder, but {} is a decoder", model.display());
            return Err(Error::Usage(format!("{problem}; use --task language")));
        }
        let task = setup.learn(data_path, self.task.map(|task| task.kind), start.as_ref())?;
        let data_options = DataOptions { max_length: max_length as usize, train_on_prompt: self.train_on_prompt, task };
        let Splits { train: mut data, mut valid, .. } = Splits::read(data_path, &setup.base.tokenizer, &data_options)?;
        if let Some(share) = self.valid {
            if valid.is_some() {
                let problem = format!("--valid splits rows off, but {} has validation data", data_path.display());
                return Err(Error::Usage(format!("{problem}; leave out --valid")));
            }
            valid = data.hold_out(share, Some(self.seed));
            if valid.is_none() {
                return Err(Error::Usage("--valid needs two rows of data to split; leave it out".into()));
            }
        }
        let task = data_options.task;
        if valid.is_none() && self.eval_every.is_some() {
            let advice = match data_path.is_dir() {
                true => format!("put a valid.jsonl into {}, or split rows off with --valid 0.1", data_path.display()),
                false => "give --data a directory with train.jsonl and valid.jsonl, or split rows off with --valid 0.1".into(),
            };
            return Err(Error::Usage(format!("--eval-every needs validation data; {advice}")));
        }
        let batches = Batches::new(&data, self.batch_size as usize, self.shuffle.then_some(self.seed));
        let per_epoch = batches.per_epoch().div_ceil(u64::from(self.grad_accumulation)).max(1);
        let steps = self.steps.unwrap_or((self.epochs * per_epoch as f64).ceil().max(1.0) as u64);
        if self.full_steps > steps {
            return Err(Error::Usage(format!(
                "--full-steps is {}, but the run has only {}; give more --steps",
                self.full_steps,
                count(steps, "step")
            )));
        }

        std::fs::create_dir_all(out).map_err(|e| Error::write(out, e))?;
        let _lock = Lock::of(out)?;
        let mut state = RunState { seed: self.seed, data: fingerprint_of(&data), ..RunState::default() };
        let checkpoints = Checkpoints::of(out);
        let (mut moments, mut resumed) = (None, None);
        if let Some(checkpoint) = self.resume.then(|| newest(common, out, &checkpoints)).transpose()?.flatten() {
            let this = ThisRun { adapter: &self.adapter_name, state: &state, grad_accumulation: self.grad_accumulation, steps };
            this.check(&checkpoint, &checkpoints)?;
            check_base(&checkpoint, &setup.identity, model, self.under.as_ref().or(fused.as_ref()))?;
            resumed = Some(checkpoint.state.trainer.step);
            setup.changes = checkpoint.adapter.sources(&config)?;
            (moments, state) = (Some(checkpoint.moments), checkpoint.state);
        }

        let mut device = open_device(common)?;
        let lengths = || data.sequences.iter().map(|s| s.tokens.len());
        let (tokens, longest) = (lengths().sum::<usize>(), lengths().max().unwrap_or(1));
        let padding = 100.0 * batches.padding();
        common.note(format!("data       {}, {}, {padding:.1} % padding", count(data.sequences.len(), "sequence"), count(tokens, "token")));
        if let Some(labels) = task.labels() {
            let all = count(labels.len(), "label");
            common.note(format!("task       {}, {all}: {}", task.kind(), labels.counted(&data.label_counts(&task))));
            if labels.len() * 2 > data.sequences.len() && task.kind() == TaskKind::Classification {
                common.warn(format!("{all} in {}: if they are numbers, use --task regression", count(data.sequences.len(), "row")));
            }
        }
        for (number, what) in [(data.cut, "cut at --max-length"), (data.dropped, "dropped, since they have no target within it")] {
            if number > 0 {
                common.note(format!("           {what}: {}", count(number, "sequence")));
            }
        }
        let batches = batches.starting_at(state.position);
        let valid: Option<Vec<_>> = valid.map(|valid| valid.batches(self.batch_size as usize).collect());
        let write_options = || {
            let resolved = [("steps", whole(steps)), ("max-length", whole(u64::from(max_length)))];
            options.write(&out.join(RUN_TOML), &resolved)
        };
        let batch = [self.batch_size.min(data.sequences.len() as u32), round_length(longest, max_length as usize) as u32];
        let full = (state.trainer.step < self.full_steps).then(Trains::everything);
        let models = full.into_iter().chain([trains]).map(|trains| setup.model(&config, Some(&adapters), trains));
        let models = models.collect::<Result<Vec<_>>>()?;
        let record = |model, traits: &_| recordings(model, traits, batch, true);
        let warnings = check_kernels(common, &mut device, |traits| {
            Ok(models.iter().map(|model| record(model, traits)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        })?;
        let run = Run {
            common,
            warnings,
            device: &device,
            setup,
            config,
            adapters,
            adapter_name: &self.adapter_name,
            trains,
            options: TrainOptions {
                adam: self.adam(),
                schedule: self.schedule(steps),
                seed: self.seed as u32,
                checkpointing: self.gradient_checkpointing,
            },
            batches,
            valid,
            batch,
            grad_accumulation: self.grad_accumulation as usize,
            steps,
            full_steps: self.full_steps,
            eval_every: self.eval_every,
            save_every: self.save_every,
            log_every: self.log_every,
            out,
            checkpoints,
            resumed,
            state,
            moments,
        };
        interrupt::listen();
        run.go(&write_options)
    }

    /// Checks options whose range clap does not check.
    fn check(&self) -> Result<()> {
        let usage = |problem: String| Err(Error::Usage(problem));
        if self.valid.is_some_and(|share| share >= 1.0) {
            return usage("--valid must be above 0 and below 1".into());
        }
        let shares = [("--beta1", Some(self.beta1)), ("--beta2", Some(self.beta2)), ("--dropout", self.dropout.map(f64::from))];
        for (name, share) in shares {
            if share.is_some_and(|share| !(0.0..1.0).contains(&share)) {
                return usage(format!("{name} must be at least 0 and below 1"));
            }
        }
        if self.fuse.is_empty() && self.fusion != FusionKind::Dynamic {
            return usage("--fusion says what a fusion trains; name its adapters with --fuse A --fuse B".into());
        }
        if !self.fuse.is_empty() && (self.adapter != "identity_bn" || self.adapter_name != "default") {
            return usage("--fuse trains a fusion, which --adapter and --adapter-name do not describe; leave them out".into());
        }
        if let Some(stack) = self.fuse.iter().find(|part| matches!(part, AdapterExpression::Stack(_) | AdapterExpression::Fuse(_))) {
            return usage(format!("--fuse {stack} is not a single adapter; give the directory of one, or an average"));
        }
        let positive = [
            ("--learning-rate", self.learning_rate, true),
            ("--epochs", self.epochs, false),
            ("--epsilon", self.epsilon, false),
            ("--weight-decay", self.weight_decay, true),
            ("--clip-norm", self.clip_norm.unwrap_or(1.0), false),
            ("--valid", self.valid.unwrap_or(0.5), false),
        ];
        for (name, value, zero) in positive {
            if !(value.is_finite() && (value > 0.0 || zero && value == 0.0)) {
                let least = if zero { "from 0 up" } else { "above 0" };
                return usage(format!("{name} is {value}; it must be a number {least}"));
            }
        }
        Ok(())
    }

    fn trains(&self) -> Trains {
        let part = |part| self.train.contains(&part);
        Trains { base: false, head: part(Part::Head), embeddings: part(Part::Embeddings), norms: part(Part::Norms) }
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

/// Parses the name of a task.
fn wanted_task(name: &str) -> std::result::Result<WantedTask, String> {
    if name == "mlm" {
        return Ok(WantedTask { kind: TaskKind::Language, hidden_words: true });
    }
    let known = TaskKind::ALL.iter().find(|(_, own)| *own == name);
    let names = || TaskKind::ALL.map(|(_, name)| name).join(", ");
    known.map(|(kind, _)| WantedTask { kind: *kind, hidden_words: false }).ok_or_else(|| format!("it must be one of {}, mlm", names()))
}

const RUN_TOML: &str = "run.toml";

/// The given command, with the options from files.
fn train_of(options: &Options) -> (Common, Box<Train>) {
    match options.cli() {
        Cli { common, command: Command::Train(train) } => (common, train),
        _ => unreachable!("the options are those of this command"),
    }
}

fn required<'a>(path: &'a Option<PathBuf>, name: &str) -> Result<&'a Path> {
    path.as_deref().ok_or_else(|| Error::Usage(format!("--{name} is missing; give it here or in the --config file")))
}

fn whole(number: u64) -> toml::Value {
    toml::Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A fingerprint of the sequences and their order.
fn fingerprint_of(data: &Dataset) -> String {
    fingerprint(data.sequences.iter().flat_map(|s| [&s.tokens, &s.targets]).map(|numbers| bytemuck::cast_slice(numbers)))
}
