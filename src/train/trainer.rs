//! The body of the training loop: batches in, a step on the device, reports out a little later.

use std::collections::VecDeque;

use super::programs::{Mode, Programs, record_update};
use super::{LossScaler, Schedule, Shape};
use crate::error::{Error, Result};
use crate::gpu::{Device, Memory, Metrics, Program, Readback, Step, Timing};

use crate::model::Model;
use crate::ops::optimizer::Adam;
use crate::text::Batch;

/// After this many steps in a row whose gradients were not finite, training has diverged. In f16, steps that only lowered the loss scale do
/// not count: that is how it finds its level.
const PATIENCE: u32 = 10;
/// Steps that can be in flight on the device while the host continues.
const IN_FLIGHT: usize = 2;

/// How to train.
#[derive(Clone, Copy, Debug)]
pub struct TrainOptions {
    /// The optimizer.
    pub adam: Adam,
    /// The learning rate.
    pub schedule: Schedule,
    /// The seed of the dropout masks.
    pub seed: u32,
    /// Whether the backward pass recomputes the activations inside each block, so that only those between blocks stay in memory. Results
    /// are bit-identical.
    pub checkpointing: bool,
}

impl Default for TrainOptions {
    /// Adam at a constant learning rate of 1e-3.
    fn default() -> Self {
        let schedule = Schedule { peak: 1e-3, shape: Shape::Constant, warmup_steps: 0, steps: 0 };
        TrainOptions { adam: Adam::default(), schedule, seed: 0, checkpointing: false }
    }
}

/// The outcome of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// The step, counted from 0.
    pub step: u64,
    /// The mean loss over the step's targets, before the update.
    pub loss: f32,
    /// The norm of the gradient, before clipping.
    pub gradient_norm: f32,
    /// The learning rate.
    pub learning_rate: f32,
    /// The number of tokens with a target.
    pub targets: u64,
    /// Whether the step was skipped because its gradient was not finite.
    pub skipped: bool,
    /// The number of steps skipped so far.
    pub skipped_so_far: u32,
    /// The loss scale after the step, if gradients pass through f16; a skipped step may have halved it.
    pub loss_scale: Option<f32>,
}

impl Report {
    /// Whether the step was skipped only because the loss scale was too high. The step lowered it, so nothing is wrong.
    pub fn lowered_loss_scale(&self) -> bool {
        self.skipped && self.loss.is_finite() && self.loss_scale.is_some_and(|scale| scale > 1.0)
    }
}

/// Trains the trainable weights of a model.
pub struct Trainer<'a> {
    pub(super) device: &'a Device,
    pub(super) model: &'a Model,
    pub(super) memory: &'a Memory,
    options: TrainOptions,
    programs: Programs,
    update: Program,
    readback: Readback,
    started: VecDeque<Report>,
    pub(super) step: u64,
    pub(super) batches: u32,
}

impl<'a> Trainer<'a> {
    /// Creates a trainer at step 0; [`Trainer::restore`] advances it to a saved state.
    ///
    /// # Errors
    /// [`Error::Usage`] if nothing trains, or the learning rate is negative or not finite. Fails if the device is out of memory or fails.
    pub fn new(device: &'a Device, model: &'a Model, memory: &'a Memory, options: TrainOptions) -> Result<Trainer<'a>> {
        if model.parameters.trainable() == 0 {
            return Err(Error::Usage("nothing trains: add an adapter, or name parts of the base to train".into()));
        }
        let peak = options.schedule.peak;
        if !(peak.is_finite() && peak >= 0.0) {
            return Err(Error::Usage(format!("the learning rate is {peak}; use a finite number from 0 up")));
        }
        let update = Program::new(device, memory, &record_update(model, device.traits(), &options.adam))?;
        let programs = Programs::new(Mode::Training { checkpointing: options.checkpointing });
        let trainer = Trainer {
            device,
            model,
            memory,
            options,
            programs,
            update,
            readback: Readback::default(),
            started: VecDeque::new(),
            step: 0,
            batches: 0,
        };
        memory.set_metrics(device, trainer.scaler(None).put_into(memory.metrics(device)?));
        Ok(trainer)
    }

    /// Whether gradients pass through f16, so that the loss is scaled.
    pub(super) fn scales_loss(&self) -> bool {
        LossScaler::growth_interval(self.model, self.device.traits()).is_some()
    }

    /// The loss scaler that continues from `before`, the scaler of an earlier trainer.
    pub(super) fn scaler(&self, before: Option<LossScaler>) -> LossScaler {
        if self.scales_loss() { before.unwrap_or_default() } else { LossScaler::NONE }
    }

    /// Allocates the memory of the largest batch, `rows` sequences of `length` tokens, before the first step. A device with too little
    /// memory then fails here and not in the middle of a run, and smaller batches share the memory. Returns how many rows are computed at
    /// once: if the device's limits do not allow all of them, a batch is cut into micro-batches, whose gradients add up.
    ///
    /// # Errors
    /// [`Error::Limit`] if not even one row fits; [`Error::OutOfMemory`] or another error of the device.
    pub fn prepare(&mut self, rows: u32, length: u32) -> Result<u32> {
        self.programs.prepare(self.device, self.model, self.memory, [rows, length])
    }

    /// Starts a step over one or more batches, whose gradients add up as if they were one. The report of an earlier step comes back as
    /// soon as the device has it; the host never waits for the step that it has just started.
    ///
    /// # Errors
    /// [`Error::Diverged`] after ten steps in a row whose gradients were not finite, apart from those that lowered the loss scale;
    /// [`Error::Usage`] if no token has a target; or an error of the device.
    pub fn step(&mut self, batches: &[Batch]) -> Result<Option<Report>> {
        let targets: u64 = batches.iter().map(Batch::targets).sum();
        if targets == 0 {
            return Err(Error::Usage("a batch has no token to predict; check that the data is not empty and not all prompt".into()));
        }
        let learning_rate = self.options.schedule.at(self.step) as f32;
        self.memory.clear(self.device);
        for batch in batches {
            for batch in self.programs.cut(self.device, self.model, batch)? {
                self.batches = self.batches.wrapping_add(1);
                self.set_step(targets, learning_rate);
                self.programs.run(self.device, self.model, self.memory, &batch)?;
            }
        }
        self.update.run(self.device)?;
        self.readback.request(self.device, self.memory)?;
        self.started.push_back(Report {
            step: self.step,
            loss: 0.0,
            gradient_norm: 0.0,
            learning_rate,
            targets,
            skipped: false,
            skipped_so_far: 0,
            loss_scale: None,
        });
        self.step += 1;
        self.next(IN_FLIGHT)
    }

    /// Sets the parameters of the next micro-batch, in a step with `targets` targets.
    fn set_step(&self, targets: u64, learning_rate: f32) {
        let target_weight = (1.0 / targets as f64) as f32;
        let backward_scale = if self.scales_loss() { LossScaler::backward_scale(targets) } else { 1.0 };
        let step = Step { seed: self.options.seed, counter: self.batches, target_weight, learning_rate, backward_scale };
        self.memory.set_step(self.device, step);
    }

    /// Times each dispatch of a step over `batch`, including the optimizer's. The step changes the weights, but is not counted.
    ///
    /// # Errors
    /// As [`Program::time`].
    pub fn time(&mut self, batch: &Batch) -> Result<Vec<Timing>> {
        self.memory.clear(self.device);
        self.set_step(batch.targets(), self.options.schedule.at(self.step) as f32);
        let mut timings = Vec::new();
        for batch in self.programs.cut(self.device, self.model, batch)? {
            let compiled = self.programs.of_shape(self.device, self.model, self.memory, [batch.rows, batch.length])?;
            compiled.write(self.device, self.model, &batch);
            timings.extend(compiled.program.time(self.device)?);
        }
        timings.extend(self.update.time(self.device)?);
        Ok(timings)
    }

    /// Waits for the next step in flight and returns its report; `None` if there is none.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn finish(&mut self) -> Result<Option<Report>> {
        self.next(0)
    }

    fn next(&mut self, in_flight: usize) -> Result<Option<Report>> {
        let Some(metrics) = self.readback.next(self.device, in_flight)? else { return Ok(None) };
        let report = self.started.pop_front().expect("a report for each request");
        let Metrics { loss, gradient_norm, finite, skipped, skipped_in_a_row, loss_scale, .. } = metrics;
        let loss_scale = self.scales_loss().then_some(loss_scale);
        let report = Report { loss, gradient_norm, skipped: finite == 0, skipped_so_far: skipped, loss_scale, ..report };
        if skipped_in_a_row >= PATIENCE {
            return Err(Error::Diverged { count: skipped_in_a_row, step: report.step + 1, learning_rate: report.learning_rate });
        }
        Ok(Some(report))
    }

    /// The bytes of device memory that the trainer's programs take, in addition to the [`Memory`], which has the activations.
    pub fn bytes(&self) -> u64 {
        self.update.bytes() + self.programs.bytes()
    }
}
