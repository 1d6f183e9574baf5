//! How good predictions are, in the measures that people use for each task.

mod classes;
mod numbers;
mod spans;

use serde_json::{Map, Value, json};

use crate::text::{Batch, IGNORED, Labels, Task};
pub use classes::{Classes, OfLabel};
pub use numbers::Scores;
pub use spans::Spans;

/// The loss of a model on some data, and how good its predictions are.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The mean loss over all targets.
    pub loss: f64,
    /// The number of targets.
    pub targets: u64,
    /// What else is measured for the task.
    pub measures: Measures,
}

/// The measures of each task.
#[derive(Clone, Debug, PartialEq)]
pub enum Measures {
    /// Of tokens.
    Language,
    /// Of labels, of which a text has one or several.
    Classes(Classes),
    /// Of scores.
    Scores(Scores),
    /// Of the labels of words, and of the spans that they mark if they are such labels.
    Words(Classes, Option<Spans>),
}

/// The loss of batches, and what a head for labels predicts for each of their rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// The mean loss over all targets.
    pub loss: f64,
    /// For each row, the logits of its labels or its score; in tagging, those of one word after the other. Empty for a language model.
    pub logits: Vec<Vec<f32>>,
}

/// The place of the largest logit; the first of several.
pub fn best(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best })
}

/// The targets of each row that are not ignored.
fn rows_of(batches: &[Batch]) -> impl Iterator<Item = Vec<u32>> {
    let row = |row: &[u32]| row.iter().copied().filter(|&target| target != IGNORED).collect();
    batches.iter().flat_map(move |batch| batch.targets.chunks(batch.targets.len() / batch.rows as usize).map(row))
}

impl Evaluation {
    /// The measures of predictions for batches.
    pub fn new(task: &Task, batches: &[Batch], measured: &Measured) -> Evaluation {
        let rows: Vec<_> = rows_of(batches).collect();
        let targets = rows.iter().map(|row| row.len() as u64).sum();
        let pairs = || rows.iter().zip(&measured.logits);
        let words = |labels: &Labels| {
            let words = |(row, logits): (&Vec<u32>, &Vec<f32>)| {
                let predicted = logits.chunks(labels.len()).map(|logits| best(logits) as u32).collect::<Vec<_>>();
                (row.clone(), predicted)
            };
            pairs().map(words).collect::<Vec<_>>()
        };
        let of_words = |words: &[(Vec<u32>, Vec<u32>)]| {
            words.iter().flat_map(|(row, predicted)| row.iter().copied().zip(predicted.iter().copied())).collect::<Vec<_>>()
        };
        let measures = match task {
            Task::Language => Measures::Language,
            Task::Classification(labels) => Measures::Classes(Classes::single(labels, &of_words(&words(labels)))),
            Task::MultiLabel(labels) => {
                let has = |row: &[u32]| row.iter().map(|&bits| f32::from_bits(bits) > 0.5).collect::<Vec<_>>();
                let predicted = |logits: &[f32]| logits.iter().map(|&logit| logit > 0.0).collect::<Vec<_>>();
                let rows: Vec<_> = pairs().map(|(row, logits)| (has(row), predicted(logits))).collect();
                Measures::Classes(Classes::several(labels, &rows))
            }
            Task::Regression => {
                let numbers = pairs().map(|(row, logits)| (f64::from(f32::from_bits(row[0])), f64::from(logits[0])));
                Measures::Scores(Scores::new(&numbers.collect::<Vec<_>>()))
            }
            Task::Tagging(labels) => {
                let words = words(labels);
                Measures::Words(Classes::single(labels, &of_words(&words)), Spans::new(labels, &words))
            }
        };
        Evaluation { loss: measured.loss, targets, measures }
    }

    /// All measures by name. Numbers that are not finite, such as a correlation with something constant, become null.
    pub fn json(&self) -> Map<String, Value> {
        let mut json = match &self.measures {
            Measures::Language => json!({ "perplexity": self.loss.exp(), "tokens": self.targets }),
            Measures::Classes(classes) => classes.json(),
            Measures::Scores(scores) => json!({ "pearson": scores.pearson, "spearman": scores.spearman, "rows": self.targets }),
            Measures::Words(classes, spans) => {
                let mut json = classes.json();
                if let Some(spans) = spans {
                    json.as_object_mut().expect("a map").extend(spans.json());
                }
                json
            }
        };
        json["loss"] = self.loss.into();
        let Value::Object(json) = json else { unreachable!("it was made as an object") };
        json
    }

    /// The few numbers that say how good a model is, by name.
    pub fn summary(&self) -> Vec<(&'static str, f64)> {
        let mut summary = vec![("loss", self.loss)];
        match &self.measures {
            Measures::Language => summary.push(("perplexity", self.loss.exp())),
            Measures::Classes(classes) => summary.extend(classes.summary()),
            Measures::Scores(scores) => summary.extend([("pearson", scores.pearson), ("spearman", scores.spearman)]),
            Measures::Words(classes, None) => summary.extend(classes.summary()),
            Measures::Words(classes, Some(spans)) => summary.extend([("accuracy", classes.accuracy), ("f1", spans.f1)]),
        }
        summary
    }

    /// The summary in one line: `loss 0.2513  accuracy 0.912`.
    pub fn line(&self) -> String {
        let parts = self.summary().into_iter().map(|(name, number)| match name {
            "loss" => format!("loss {number:.4}"),
            name => format!("{name} {number:.3}"),
        });
        parts.collect::<Vec<_>>().join("  ")
    }

    /// The tables of a head for labels, as text for people; empty for others.
    pub fn tables(&self) -> String {
        match &self.measures {
            Measures::Classes(classes) => classes.tables(),
            Measures::Words(classes, None) => classes.tables(),
            Measures::Words(_, Some(spans)) => spans.table(),
            Measures::Language | Measures::Scores(_) => String::new(),
        }
    }
}
