//! `graftling predict`: what a head for labels says about new texts.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use graftling::model::{AdapterExpression, Trains};
use graftling::text::{DataOptions, Dataset, Task};
use graftling::train::{Evaluator, best, recordings};
use graftling::words::count;
use graftling::{Error, Result};
use serde_json::{Map, Value, json};

use super::setup::{Setup, adapters, check_kernels, max_length, open_device};
use super::{Common, print};

/// Predicts the labels or the scores of new texts: a JSON line for each row
#[derive(Args)]
#[command(after_help = "Example:
  graftling predict --model MiniLM --adapter RUN/adapter --data new.jsonl
  echo 'What a day.' | graftling predict --model MiniLM --adapter RUN/adapter --data -")]
pub struct Predict {
    /// A directory in Hugging Face format, or a .gguf file
    #[arg(long)]
    model: PathBuf,
    /// The directory of a saved adapter with a head; without it, the model's own head predicts
    #[arg(long, value_name = "DIR", value_parser = adapters(), value_hint = ValueHint::DirPath)]
    adapter: Option<AdapterExpression>,
    /// A .jsonl, .csv or .tsv file of rows with text, or for tagging with tokens; or texts, one on each line of a .txt file or of standard
    /// input (-)
    #[arg(long)]
    data: PathBuf,
    /// Texts per batch
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Maximum tokens per text [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<u32>,
}

impl Predict {
    pub fn run(&self, common: &Common) -> Result<()> {
        let setup = Setup::read(common, &self.model, self.adapter.as_ref())?;
        let Some(head) = &setup.head else {
            let problem = match &self.adapter {
                Some(adapter) => format!("{adapter} has no head for labels or scores"),
                None => format!("{} has no head for labels or scores", self.model.display()),
            };
            return Err(Error::Usage(format!("{problem}; give an adapter that was trained on rows with labels")));
        };
        let max_length = max_length(&setup.base.config, self.max_length)? as usize;
        let options = DataOptions { max_length, train_on_prompt: false, task: head.task.clone() };
        let data = Dataset::read_unlabelled(&self.data, &setup.base.tokenizer, &options)?;
        let mut device = open_device(common)?;
        common.note(format!("data       {} of {}", count(data.sequences.len(), "text"), data.path.display()));
        if data.cut > 0 {
            common.warn(format!("{} longer than {} were cut", count(data.cut, "text"), count(max_length, "token")));
        }
        let (order, batches) = (data.by_length(), data.batches(self.batch_size as usize).collect::<Vec<_>>());
        // The last batches have the longest texts.
        let length = batches.last().map_or(1, |batch| batch.length);
        let rows = batches.first().map_or(1, |batch| batch.rows);
        let model = setup.model(&setup.base.config, None, Trains::adapters())?;
        check_kernels(common, &mut device, |traits| recordings(&model, traits, [rows, length], false))?;
        let memory = setup.upload(&device, &model, 0, false)?;
        let mut evaluator = Evaluator::new(&device, &model, &memory);
        let smaller = || "use a smaller --batch-size; or a shorter --max-length".to_string();
        evaluator.prepare(rows, length).map_err(|error| error.advised(smaller))?;

        let mut predictions = vec![Value::Null; data.sequences.len()];
        for (&at, logits) in order.iter().zip(&evaluator.measure(&batches)?.logits) {
            predictions[at] = prediction(&head.task, logits);
        }
        predictions.into_iter().for_each(print);
        Ok(())
    }
}

/// What the logits of a text say.
fn prediction(task: &Task, logits: &[f32]) -> Value {
    match task {
        Task::Classification(labels) => {
            let probabilities = softmax(logits);
            let named = labels.names().iter().cloned().zip(probabilities.iter().map(|&p| Value::from(p)));
            json!({ "label": labels.names()[best(logits)], "probabilities": named.collect::<Map<_, _>>() })
        }
        Task::MultiLabel(labels) => {
            let probabilities = logits.iter().map(|&logit| 1.0 / (1.0 + (-f64::from(logit)).exp()));
            let named = labels.names().iter().cloned().zip(probabilities.map(Value::from)).collect::<Map<_, _>>();
            let likely = labels.names().iter().zip(logits).filter(|(_, logit)| **logit > 0.0).map(|(name, _)| name);
            json!({ "labels": likely.collect::<Vec<_>>(), "probabilities": named })
        }
        Task::Tagging(labels) => {
            let words = logits.chunks(labels.len()).map(|logits| &labels.names()[best(logits)]);
            json!({ "labels": words.collect::<Vec<_>>() })
        }
        Task::Regression | Task::Language => json!({ "score": logits[0] }),
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits[best(logits)]);
    let powers: Vec<_> = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}
