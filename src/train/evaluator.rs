//! Measuring a model without changing it.

use super::programs::{Mode, Programs};
use super::{Evaluation, Measured};
use crate::error::{Error, Result};
use crate::gpu::{Device, Memory, Step};
use crate::model::Model;
use crate::text::{Batch, IGNORED, Task};

/// Evaluation batches whose losses the device adds up.
const AT_ONCE: usize = 32;

/// Measures the loss of a model without changing it.
pub struct Evaluator<'a> {
    device: &'a Device,
    model: &'a Model,
    memory: &'a Memory,
    programs: Programs,
}

impl<'a> Evaluator<'a> {
    /// Creates an evaluator, which measures the weights in `memory` at the time of each call.
    pub fn new(device: &'a Device, model: &'a Model, memory: &'a Memory) -> Evaluator<'a> {
        Evaluator { device, model, memory, programs: Programs::new(Mode::Evaluating) }
    }

    /// Allocates memory as [`Trainer::prepare`](super::Trainer::prepare) does.
    ///
    /// # Errors
    /// As [`Trainer::prepare`](super::Trainer::prepare).
    pub fn prepare(&mut self, rows: u32, length: u32) -> Result<u32> {
        self.programs.prepare(self.device, self.model, self.memory, [rows, length])
    }

    /// The mean loss over all targets of the batches.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no target; or an error of the device.
    pub fn loss(&mut self, batches: &[Batch]) -> Result<f64> {
        Ok(self.measure(batches)?.loss)
    }

    /// The loss and all else that is measured for the task of the model's head.
    ///
    /// # Errors
    /// As [`Evaluator::measure`].
    pub fn evaluate(&mut self, batches: &[Batch]) -> Result<Evaluation> {
        let measured = self.measure(batches)?;
        let task = self.model.label_head().map_or(&Task::Language, |head| &head.task);
        Ok(Evaluation::new(task, batches, &measured))
    }

    /// The mean loss over all targets of the batches, and what a head for labels predicts.
    ///
    /// # Errors
    /// As [`Evaluator::loss`]; [`Error::NotFinite`] if a prediction is not finite.
    pub fn measure(&mut self, batches: &[Batch]) -> Result<Measured> {
        let targets: u64 = batches.iter().map(Batch::targets).sum();
        if targets == 0 {
            return Err(Error::Usage("there is no token to predict; check that the data is not empty".into()));
        }
        let mut measured = Measured::default();
        let tags = self.model.label_head().is_some_and(|head| matches!(head.task, Task::Tagging(_)));
        // The device adds up in f32, so many batches are not added all at once.
        for batches in batches.chunks(AT_ONCE) {
            self.memory.clear(self.device);
            self.memory.set_step(self.device, Step { target_weight: (1.0 / targets as f64) as f32, ..Step::default() });
            for batch in batches {
                for batch in self.programs.cut(self.device, self.model, batch)? {
                    let compiled = self.programs.run(self.device, self.model, self.memory, &batch)?;
                    if let Some(logits) = compiled.logits {
                        let logits = compiled.program.read(self.device, self.memory, logits)?;
                        measured.logits.extend(of_rows(&logits, &batch, tags)?);
                    }
                }
            }
            measured.loss += f64::from(self.memory.metrics(self.device)?.loss);
        }
        Ok(measured)
    }
}

/// The logits of each row of a batch; if they are `tags`, of each token, only those at its targets.
fn of_rows(logits: &[f32], batch: &Batch, tags: bool) -> Result<Vec<Vec<f32>>> {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::NotFinite { what: "a prediction".into() });
    }
    let rows = batch.rows as usize;
    let width = logits.len() / rows;
    let row = |(logits, targets): (&[f32], &[u32])| {
        if !tags {
            return logits.to_vec();
        }
        let tokens = logits.chunks(width / targets.len()).zip(targets).filter(|(_, target)| **target != IGNORED);
        tokens.flat_map(|(logits, _)| logits.iter().copied()).collect()
    };
    Ok(logits.chunks(width).zip(batch.targets.chunks(batch.targets.len() / rows)).map(row).collect())
}
