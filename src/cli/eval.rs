//! `graftling eval`: a model's loss on a data set.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use graftling::Result;
use graftling::gpu::{Device, Memory};
use graftling::model::{AdapterExpression, Trains};
use graftling::text::{Batch, DataOptions, Splits};
use graftling::train::{Evaluator, recordings};
use graftling::words::count;
use serde_json::json;

use super::Common;
use super::setup::{Setup, adapters, check_kernels, cut_batch, max_length, open_device};

/// Measures a model's loss and perplexity on a data set
#[derive(Args)]
#[command(after_help = "Example:\n  graftling eval --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter RUN/adapter --data valid.jsonl")]
pub struct Eval {
    /// A directory in Hugging Face format, a .gguf file, or builtin: a small byte-level GPT to try things out
    #[arg(long)]
    model: PathBuf,
    /// The directory of a saved adapter, or several combined: stack(A,B), average(A:0.7,B:0.3), fuse(F); several options are compared in a table, along with the base
    #[arg(long, value_name = "DIR", value_parser = adapters(), value_hint = ValueHint::DirPath)]
    adapter: Vec<AdapterExpression>,
    /// A .jsonl or .txt file, or a directory with test, valid or train as .jsonl or .txt: the first of these found is measured
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
        let setup = Setup::read(common, &self.model, self.adapter.first().filter(|_| self.adapter.len() == 1))?;
        let max_length = max_length(&setup.base.config, self.max_length)? as usize;
        let options = DataOptions { max_length, train_on_prompt: self.train_on_prompt };
        let Splits { train, valid, test } = Splits::read(&self.data, &setup.base.tokenizer, &options)?;
        let data = test.or(valid).unwrap_or(train);
        let mut device = open_device(common)?;
        common.note(format!("data       {} of {}", count(data.sequences.len(), "sequence"), data.path.display()));
        let batches: Vec<_> = data.batches(self.batch_size as usize).collect();
        let tokens: u64 = batches.iter().map(|batch| batch.targets()).sum();

        let largest =
            batches.iter().map(|batch| [batch.rows, batch.length]).max_by_key(|[rows, length]| u64::from(*rows) * u64::from(*length));
        let largest = largest.unwrap_or([1, 1]);
        let Measured { loss: first, micro_batch, mut warnings, memory } = measure(common, &setup, &mut device, None, &batches, largest)?;
        if let Some(cut) = cut_batch(largest, micro_batch) {
            common.note(format!("batch      {cut}"));
        }
        if self.adapter.len() < 2 {
            let text = format!("loss {first:.4}  perplexity {:.3}  tokens {tokens}", first.exp());
            common.result(text, json!({ "loss": first, "perplexity": first.exp(), "tokens": tokens, "warnings": warnings }));
            return Ok(());
        }
        let mut losses = vec![("the base alone".to_string(), first)];
        for directory in &self.adapter {
            let setup = setup.with(common, directory)?;
            let Measured { loss, warnings: more, .. } = measure(common, &setup, &mut device, Some(&memory), &batches, largest)?;
            losses.push((directory.to_string(), loss));
            warnings.extend(more);
        }
        let width = losses.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let rows = losses.iter().map(|(name, loss)| format!("{name:width$}  {loss:8.4}  {:12.3}", loss.exp()));
        let title = format!("{:width$}  {:>8}  {:>12}", count(tokens, "token"), "loss", "perplexity");
        let table = [title].into_iter().chain(rows).collect::<Vec<_>>().join("\n");
        let result = |(name, loss): &(String, f64)| json!({ "adapter": name, "loss": loss, "perplexity": loss.exp() });
        let adapters: Vec<_> = losses[1..].iter().map(result).collect();
        let json = json!({
            "loss": first, "perplexity": first.exp(), "tokens": tokens, "adapters": adapters, "warnings": warnings,
        });
        common.result(table, json);
        Ok(())
    }
}

/// What [`measure`] finds.
struct Measured {
    loss: f64,
    /// The number of rows of the largest batch that are computed at once.
    micro_batch: u32,
    /// Warnings about kernels.
    warnings: Vec<String>,
    memory: Memory,
}

/// Measures the loss of a base with its adapters, if any. `base` is the memory of the base alone, if that is on the device already.
fn measure(
    common: &Common,
    setup: &Setup,
    device: &mut Device,
    base: Option<&Memory>,
    batches: &[Batch],
    [rows, length]: [u32; 2],
) -> Result<Measured> {
    let model = setup.model(&setup.base.config, None, Trains::adapters())?;
    let warnings = check_kernels(common, device, |traits| recordings(&model, traits, [rows, length], false))?;
    let memory = setup.upload_beside(device, &model, base)?;
    let mut evaluator = Evaluator::new(device, &model, &memory);
    let smaller = || {
        let fewer = (rows > 1).then_some("a smaller --batch-size, which changes nothing but the speed");
        let choices: Vec<_> = fewer.into_iter().chain(["a shorter --max-length"]).collect();
        format!("use {}", choices.join("; or "))
    };
    let micro_batch = evaluator.prepare(rows, length).map_err(|error| error.advised(smaller))?;
    let loss = evaluator.loss(batches)?;
    Ok(Measured { loss, micro_batch, warnings, memory })
}
