//! `graftling eval`: how good a model is on a data set.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use graftling::gpu::{Device, Memory};
use graftling::model::{AdapterExpression, Trains};
use graftling::text::{Batch, DataOptions, Splits, Task};
use graftling::train::{Evaluation, Evaluator, recordings};
use graftling::words::count;
use graftling::{Error, Result};
use serde_json::{Value, json};

use super::Common;
use super::setup::{Setup, adapters, check_kernels, cut_batch, max_length, open_device};

/// Measures a model's loss on a data set, and its perplexity or how good its predictions are
#[derive(Args)]
#[command(after_help = "Example:\n  graftling eval --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter RUN/adapter --data valid.jsonl")]
pub struct Eval {
    /// A directory in Hugging Face format, a .gguf file, or builtin: a small byte-level GPT to try things out
    #[arg(long)]
    model: PathBuf,
    /// The directory of a saved adapter, or several combined: stack(A,B), average(A:0.7,B:0.3); several options are compared in a table, along with the base
    #[arg(long, value_name = "DIR", value_parser = adapters(), value_hint = ValueHint::DirPath)]
    adapter: Vec<AdapterExpression>,
    /// A .jsonl, .csv, .tsv or .txt file, or a directory with such files for test, valid or train: the first of these found is measured
    #[arg(long)]
    data: PathBuf,
    /// Sequences per batch
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Maximum tokens per sequence [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<u32>,
    /// Also measure the loss of prompts and of all turns of a chat
    #[arg(long)]
    train_on_prompt: bool,
}

impl Eval {
    pub fn run(&self, common: &Common) -> Result<()> {
        // To compare several, the base comes first.
        let alone = Setup::read(common, &self.model, self.adapter.first().filter(|_| self.adapter.len() == 1))?;
        let several = self.adapter.len() > 1;
        let setups = self.adapter.iter().filter(|_| several).map(|adapter| Ok((adapter.to_string(), alone.with(common, adapter)?)));
        let setups = setups.collect::<Result<Vec<_>>>()?;
        let setup = setups.first().map_or(&alone, |(_, setup)| setup);
        let max_length = max_length(&setup.base.config, self.max_length)? as usize;
        let task = setup.task();
        let options = DataOptions { max_length, train_on_prompt: self.train_on_prompt, task: task.clone() };
        let Splits { train, valid, test } = Splits::read(&self.data, &setup.base.tokenizer, &options)?;
        let data = test.or(valid).unwrap_or(train);
        let mut device = open_device(common)?;
        common.note(format!("data       {} of {}", count(data.sequences.len(), "sequence"), data.path.display()));
        if data.cut > 0 {
            common.note(format!("           cut at --max-length: {}", count(data.cut, "sequence")));
        }
        let batches: Vec<_> = data.batches(self.batch_size as usize).collect();
        let mut measured = Measured { common, batches: &batches, warnings: Vec::new() };

        if !several {
            let (evaluation, _) = measured.of(setup, &mut device, None, true)?;
            let tables = evaluation.tables();
            let tables = if tables.is_empty() { tables } else { format!("{tables}\n\n") };
            let tokens = if task == Task::Language { format!("  tokens {}", evaluation.targets) } else { String::new() };
            let mut json = Value::Object(evaluation.json());
            json["warnings"] = measured.warnings.into();
            common.result(format!("{tables}{}{tokens}", evaluation.line()), json);
            return Ok(());
        }
        let (mut rows, mut base) = (Vec::new(), None);
        // A base without a head for the labels cannot be measured.
        if alone.task() == task {
            let (evaluation, memory) = measured.of(&alone, &mut device, None, true)?;
            rows.push((BASE.to_string(), evaluation));
            base = Some(memory);
        }
        for (adapter, setup) in &setups {
            if setup.task() != task {
                let problem = format!("{adapter} does not predict what {} does", setups[0].0);
                return Err(Error::Usage(format!("{problem}; compare adapters of one task and the same labels")));
            }
            let (evaluation, _) = measured.of(setup, &mut device, base.as_ref(), rows.is_empty())?;
            rows.push((adapter.clone(), evaluation));
        }
        let warnings = measured.warnings;
        common.result(table(&rows), json(&rows, &warnings));
        Ok(())
    }
}

/// What the row of the base is called.
const BASE: &str = "the base alone";

/// Evaluations of several adapters, a line each.
fn table(rows: &[(String, Evaluation)]) -> String {
    let targets = rows.first().map_or(0, |(_, evaluation)| evaluation.targets);
    let noun = if rows.first().is_some_and(|(_, evaluation)| evaluation.summary().iter().any(|(name, _)| *name == "perplexity")) {
        "token"
    } else {
        "target"
    };
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let names = rows.first().map(|(_, evaluation)| evaluation.summary()).unwrap_or_default();
    let columns = |cells: Vec<String>| cells.iter().map(|cell| format!("  {cell:>10}")).collect::<String>();
    let title = format!("{:width$}{}", count(targets, noun), columns(names.iter().map(|(name, _)| name.to_string()).collect()));
    let row = |(name, evaluation): &(String, Evaluation)| {
        let numbers = evaluation
            .summary()
            .into_iter()
            .map(|(name, number)| if name == "loss" { format!("{number:.4}") } else { format!("{number:.3}") });
        format!("{name:width$}{}", columns(numbers.collect()))
    };
    [title].into_iter().chain(rows.iter().map(row)).collect::<Vec<_>>().join("\n")
}

/// The same: the first row's measures, and those of each adapter.
fn json(rows: &[(String, Evaluation)], warnings: &[String]) -> Value {
    let adapters = rows.iter().filter(|(name, _)| name != BASE).map(|(name, evaluation)| {
        let mut json = Value::Object(evaluation.json());
        json["adapter"] = name.clone().into();
        json
    });
    let mut json = json!({ "adapters": adapters.collect::<Vec<_>>(), "warnings": warnings });
    let first = rows.first().map(|(_, evaluation)| evaluation.json()).unwrap_or_default();
    json.as_object_mut().expect("a map").extend(first);
    json
}

/// What is measured, and warnings about kernels so far.
struct Measured<'a> {
    common: &'a Common,
    batches: &'a [Batch],
    warnings: Vec<String>,
}

impl Measured<'_> {
    /// Evaluates a base with its adapters, if any, and returns its memory. `base` is that of the base alone, if it is on the device already.
    /// `tells` how the largest batch is computed.
    fn of(&mut self, setup: &Setup, device: &mut Device, base: Option<&Memory>, tells: bool) -> Result<(Evaluation, Memory)> {
        let shapes = self.batches.iter().map(|batch| [batch.rows, batch.length]);
        let largest = shapes.max_by_key(|[rows, length]| u64::from(*rows) * u64::from(*length)).unwrap_or([1, 1]);
        let [rows, length] = largest;
        let model = setup.model(&setup.base.config, None, Trains::adapters())?;
        self.warnings.extend(check_kernels(self.common, device, |traits| recordings(&model, traits, largest, false))?);
        let memory = setup.upload_beside(device, &model, base)?;
        let mut evaluator = Evaluator::new(device, &model, &memory);
        let smaller = || {
            let fewer = (rows > 1).then_some("a smaller --batch-size, which changes nothing but the speed");
            let choices: Vec<_> = fewer.into_iter().chain(["a shorter --max-length"]).collect();
            format!("use {}", choices.join("; or "))
        };
        let micro_batch = evaluator.prepare(rows, length).map_err(|error| error.advised(smaller))?;
        if let Some(cut) = cut_batch(largest, micro_batch).filter(|_| tells) {
            self.common.note(format!("batch      {cut}"));
        }
        let evaluation = evaluator.evaluate(self.batches)?;
        Ok((evaluation, memory))
    }
}
