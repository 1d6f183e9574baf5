//! What the trainer and the evaluator record for each batch shape, and its compiled programs.

use std::collections::HashMap;

use super::LossScaler;
use super::micro_batch::micro_batch;
use crate::error::Result;
use crate::gpu::{Device, Memory, Program};
use crate::graph::{Graph, Tensor, Traits};
use crate::model::{Inputs, Model};
use crate::ops::optimizer::{Adam, adam};
use crate::text::Batch;

/// A compiled recording for one batch shape.
pub(super) struct Compiled {
    pub program: Program,
    inputs: Inputs,
    targets: Tensor,
    /// What a head for labels predicts, in evaluation.
    pub logits: Option<Tensor>,
}

/// What a recording is for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    Training { checkpointing: bool },
    Evaluating,
}

/// What is recorded for one batch shape, before it is compiled.
pub(super) struct Recorded {
    pub graph: Graph,
    inputs: Inputs,
    targets: Tensor,
    logits: Option<Tensor>,
}

/// Records the loss of a batch of shape [rows, length], and in training its gradients.
pub(super) fn record(model: &Model, traits: &Traits, [rows, length]: [u32; 2], mode: Mode) -> Recorded {
    let training = mode != Mode::Evaluating;
    let mut g = Graph::new(traits, &model.parameters, training);
    g.set_half(model.half);
    g.set_checkpointing(mode == Mode::Training { checkpointing: true });
    let inputs = model.inputs(&mut g, rows, length, length);
    let targets = model.targets(&mut g, [rows, length]);
    let (loss, logits) = model.loss_and_logits(&mut g, &inputs, targets);
    if training {
        g.backward(loss, loss);
    }
    logits.into_iter().for_each(|logits| g.keep(logits));
    Recorded { graph: g, inputs, targets, logits }
}

/// Records the optimizer's part of a step.
pub(super) fn record_update(model: &Model, traits: &Traits, options: &Adam) -> Graph {
    let mut g = Graph::new(traits, &model.parameters, true);
    model.regularise(&mut g);
    g.scoped("update", |g| adam(g, options, LossScaler::growth_interval(model, traits)));
    g
}

/// The recordings that a [`Trainer`](super::Trainer) or, without `training`, an [`Evaluator`](super::Evaluator) runs for batches of `rows`
/// sequences of `length` tokens: for [`self_check`](crate::doctor::self_check), before either exists.
///
/// # Errors
/// [`Error::Limit`](crate::Error::Limit) if not even one row fits the device's limits.
pub fn recordings(model: &Model, traits: &Traits, [rows, length]: [u32; 2], training: bool) -> Result<Vec<Graph>> {
    let mode = if training { Mode::Training { checkpointing: false } } else { Mode::Evaluating };
    let rows = micro_batch(model, traits, [rows, length], mode)?;
    let update = training.then(|| record_update(model, traits, &Adam::default()));
    Ok([record(model, traits, [rows, length], mode).graph].into_iter().chain(update).collect())
}

impl Compiled {
    fn new(device: &Device, model: &Model, memory: &Memory, shape: [u32; 2], mode: Mode) -> Result<Compiled> {
        let Recorded { graph, inputs, targets, logits } = record(model, device.traits(), shape, mode);
        let program = Program::new(device, memory, &graph)?;
        if let Some((rope, table)) = inputs.rope.zip(model.rope_table(shape[1])) {
            program.write(device, rope, &table);
        }
        Ok(Compiled { program, inputs, targets, logits })
    }

    fn run(&mut self, device: &Device, model: &Model, batch: &Batch) -> Result<()> {
        self.write(device, model, batch);
        self.program.run(device)
    }

    pub fn write(&mut self, device: &Device, model: &Model, batch: &Batch) {
        model.write(device, &self.program, &self.inputs, batch);
        self.program.write(device, self.targets, &batch.targets);
    }
}

/// The programs of a model, one for each micro-batch shape so far.
pub(super) struct Programs {
    mode: Mode,
    /// The rows of a micro-batch, for each batch shape.
    cuts: HashMap<[u32; 2], u32>,
    compiled: HashMap<[u32; 2], Compiled>,
}

impl Programs {
    pub fn new(mode: Mode) -> Programs {
        Programs { mode, cuts: HashMap::new(), compiled: HashMap::new() }
    }

    /// The rows of the micro-batches that a batch of shape [rows, length] is cut into.
    fn micro_batch(&mut self, device: &Device, model: &Model, shape: [u32; 2]) -> Result<u32> {
        if let Some(&rows) = self.cuts.get(&shape) {
            return Ok(rows);
        }
        let rows = micro_batch(model, device.traits(), shape, self.mode)?;
        self.cuts.insert(shape, rows);
        Ok(rows)
    }

    /// Cuts a batch into micro-batches.
    pub fn cut(&mut self, device: &Device, model: &Model, batch: &Batch) -> Result<Vec<Batch>> {
        Ok(batch.cut(self.micro_batch(device, model, [batch.rows, batch.length])?))
    }

    /// Allocates the memory of the largest micro-batch and returns its rows.
    pub fn prepare(&mut self, device: &Device, model: &Model, memory: &Memory, [rows, length]: [u32; 2]) -> Result<u32> {
        let rows = self.micro_batch(device, model, [rows, length])?;
        self.of_shape(device, model, memory, [rows, length])?;
        Ok(rows)
    }

    pub fn run(&mut self, device: &Device, model: &Model, memory: &Memory, batch: &Batch) -> Result<&mut Compiled> {
        model.config.check_tokens(&batch.tokens)?;
        let compiled = self.of_shape(device, model, memory, [batch.rows, batch.length])?;
        compiled.run(device, model, batch)?;
        Ok(compiled)
    }

    pub fn of_shape(&mut self, device: &Device, model: &Model, memory: &Memory, shape: [u32; 2]) -> Result<&mut Compiled> {
        if !self.compiled.contains_key(&shape) {
            self.compiled.insert(shape, Compiled::new(device, model, memory, shape, self.mode)?);
        }
        Ok(self.compiled.get_mut(&shape).expect("it was put there"))
    }

    /// The bytes of device memory that the programs take.
    pub fn bytes(&self) -> u64 {
        self.compiled.values().map(|compiled| compiled.program.bytes()).sum()
    }
}
