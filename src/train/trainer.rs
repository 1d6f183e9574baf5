//! The loop's body: batches in, a step on the device, reports out a little later.

use std::collections::{HashMap, VecDeque};

use super::micro_batch::micro_batch;
use super::{Schedule, Shape};
use crate::error::{Error, Result};
use crate::gpu::{Device, Memory, Program, Readback, Step, Timing};
use crate::graph::{DType, Graph, METRICS_WORDS, Tensor, Traits};
use crate::model::{Inputs, Model};
use crate::ops::optimizer::{Adam, adam};
use crate::text::{Batch, order_of};

/// After so many steps in a row whose gradients were not finite, training has diverged.
const PATIENCE: u32 = 10;
/// Steps that may be under way on the device while the host goes on.
const IN_FLIGHT: usize = 2;

/// Where gradients are f16, that of one token's loss times this goes back: the numbers that f16 holds to all its digits are then those of a
/// token's gradient from 1e-6 to 1e3, whatever the batch.
const HALF_SCALE: f32 = 64.0;

/// Batches of an evaluation whose losses the device adds up.
const AT_ONCE: usize = 32;

/// How to train.
#[derive(Clone, Copy, Debug)]
pub struct TrainOptions {
    /// The optimizer.
    pub adam: Adam,
    /// The learning rate.
    pub schedule: Schedule,
    /// The seed of the dropout masks.
    pub seed: u32,
    /// Whether the backward pass computes the activations inside a block again, so that only those between blocks stay in memory. The bits
    /// are the same.
    pub checkpointing: bool,
}

impl Default for TrainOptions {
    /// Adam at a constant learning rate of 1e-3.
    fn default() -> Self {
        let schedule = Schedule { peak: 1e-3, shape: Shape::Constant, warmup_steps: 0, steps: 0 };
        TrainOptions { adam: Adam::default(), schedule, seed: 0, checkpointing: false }
    }
}

/// What became of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// The step, from 0.
    pub step: u64,
    /// The mean loss over the step's targets, before the update.
    pub loss: f32,
    /// The norm of the gradient, before clipping.
    pub gradient_norm: f32,
    /// The learning rate.
    pub learning_rate: f32,
    /// Tokens with a target.
    pub targets: u64,
    /// Whether the step was left out because its gradient was not finite.
    pub skipped: bool,
    /// Steps that were left out so far.
    pub skipped_so_far: u32,
}

/// A recording of a batch's shape, compiled.
struct Compiled {
    program: Program,
    inputs: Inputs,
    targets: Tensor,
}

/// What a recording is for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    Training { checkpointing: bool },
    Evaluating,
}

/// Records the loss of a batch of that shape, and in training its gradients.
pub(super) fn record(model: &Model, traits: &Traits, [rows, length]: [u32; 2], mode: Mode) -> (Graph, Inputs, Tensor) {
    let training = mode != Mode::Evaluating;
    let mut g = Graph::new(traits, &model.parameters, training);
    g.set_half(model.half);
    g.set_checkpointing(mode == Mode::Training { checkpointing: true });
    let inputs = model.inputs(&mut g, rows, length, length);
    let targets = g.input("targets", [rows, length], DType::U32);
    let loss = model.loss(&mut g, &inputs, targets);
    if training {
        g.backward(loss, loss);
    }
    (g, inputs, targets)
}

/// Records the optimizer's part of a step.
pub(super) fn record_update(model: &Model, traits: &Traits, options: &Adam) -> Graph {
    let mut g = Graph::new(traits, &model.parameters, true);
    g.scoped("update", |g| adam(g, options));
    g
}

impl Compiled {
    fn new(device: &Device, model: &Model, memory: &Memory, shape: [u32; 2], mode: Mode) -> Result<Compiled> {
        let (g, inputs, targets) = record(model, device.traits(), shape, mode);
        let program = Program::new(device, memory, &g)?;
        if let Some((rope, table)) = inputs.rope.zip(model.rope_table(shape[1])) {
            program.write(device, rope, &table);
        }
        Ok(Compiled { program, inputs, targets })
    }

    fn run(&mut self, device: &Device, batch: &Batch) -> Result<()> {
        self.write(device, batch);
        self.program.run(device)
    }

    fn write(&mut self, device: &Device, batch: &Batch) {
        self.program.write(device, self.inputs.tokens, &batch.tokens);
        self.program.write(device, self.inputs.lengths, &batch.lengths);
        if let Some(order) = self.inputs.order {
            self.program.write(device, order, &order_of(&batch.tokens));
        }
        self.program.write(device, self.targets, &batch.targets);
    }
}

/// The programs of a model, one for each shape of micro-batch that has occurred.
struct Programs {
    mode: Mode,
    /// The rows of the micro-batches of each shape of batch.
    cuts: HashMap<[u32; 2], u32>,
    compiled: HashMap<[u32; 2], Compiled>,
}

impl Programs {
    fn new(mode: Mode) -> Programs {
        Programs { mode, cuts: HashMap::new(), compiled: HashMap::new() }
    }

    /// The rows of the micro-batches in which a batch of that shape is computed.
    fn micro_batch(&mut self, device: &Device, model: &Model, shape: [u32; 2]) -> Result<u32> {
        if let Some(&rows) = self.cuts.get(&shape) {
            return Ok(rows);
        }
        let rows = micro_batch(model, device.traits(), shape, self.mode)?;
        self.cuts.insert(shape, rows);
        Ok(rows)
    }

    /// The micro-batches in which a batch is computed.
    fn cut(&mut self, device: &Device, model: &Model, batch: &Batch) -> Result<Vec<Batch>> {
        Ok(batch.cut(self.micro_batch(device, model, [batch.rows, batch.length])?))
    }

    /// Takes the memory of the largest micro-batch, whose rows it returns.
    fn prepare(&mut self, device: &Device, model: &Model, memory: &Memory, [rows, length]: [u32; 2]) -> Result<u32> {
        let rows = self.micro_batch(device, model, [rows, length])?;
        self.of_shape(device, model, memory, [rows, length])?;
        Ok(rows)
    }

    fn run(&mut self, device: &Device, model: &Model, memory: &Memory, batch: &Batch) -> Result<()> {
        model.config.check_tokens(&batch.tokens)?;
        self.of_shape(device, model, memory, [batch.rows, batch.length])?.run(device, batch)
    }

    fn of_shape(&mut self, device: &Device, model: &Model, memory: &Memory, shape: [u32; 2]) -> Result<&mut Compiled> {
        if !self.compiled.contains_key(&shape) {
            self.compiled.insert(shape, Compiled::new(device, model, memory, shape, self.mode)?);
        }
        Ok(self.compiled.get_mut(&shape).expect("it was put there"))
    }
}

/// Trains what of a model is trainable.
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
    /// A trainer at step 0; [`Trainer::restore`] takes it further.
    ///
    /// # Errors
    /// If the device is out of memory or fails; [`Error::Usage`] if nothing trains, or the learning rate is not a
    /// number to train with.
    pub fn new(device: &'a Device, model: &'a Model, memory: &'a Memory, options: TrainOptions) -> Result<Trainer<'a>> {
        if model.parameters.trainable() == 0 {
            return Err(Error::Usage("nothing trains: add an adapter, or name parts of the base to train".into()));
        }
        let peak = options.schedule.peak;
        if !(peak.is_finite() && peak >= 0.0) {
            return Err(Error::Usage(format!("a learning rate of {peak} is not a finite positive number")));
        }
        let update = Program::new(device, memory, &record_update(model, device.traits(), &options.adam))?;
        let programs = Programs::new(Mode::Training { checkpointing: options.checkpointing });
        Ok(Trainer {
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
        })
    }

    /// Allocates the memory of the largest batch, `rows` sequences of `length` tokens, before the first step, so that a device that has
    /// too little fails there and not in the middle of a run, and smaller batches share it. Returns how many rows are computed at once:
    /// where the device's limits do not allow all of them, a batch is cut into micro-batches, whose gradients add up.
    ///
    /// # Errors
    /// [`Error::Limit`] if not even one row fits; [`Error::OutOfMemory`], or what else the device says.
    pub fn prepare(&mut self, rows: u32, length: u32) -> Result<u32> {
        self.programs.prepare(self.device, self.model, self.memory, [rows, length])
    }

    /// Starts a step over one or more batches, whose gradients add up as if they were one. The report of an earlier step comes back as
    /// soon as the device has it; the host never waits for the step that it has just started.
    ///
    /// # Errors
    /// [`Error::Diverged`] after ten steps in a row without finite gradients; [`Error::Usage`] if no token has a target; or what the
    /// device says.
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
        });
        self.step += 1;
        self.next(IN_FLIGHT)
    }

    /// Sets the numbers of the next batch, in a step with so many targets.
    fn set_step(&self, targets: u64, learning_rate: f32) {
        let loss_scale = (1.0 / targets as f64) as f32;
        let half = self.model.half && self.device.traits().half;
        let backward_scale = if half { HALF_SCALE * targets as f32 } else { 1.0 };
        let step = Step { seed: self.options.seed, counter: self.batches, loss_scale, learning_rate, backward_scale };
        self.memory.set_step(self.device, step);
    }

    /// Measures each dispatch of a step over `batch`, the optimizer's too; the step changes the weights, but is not counted.
    ///
    /// # Errors
    /// As [`Program::time`].
    pub fn time(&mut self, batch: &Batch) -> Result<Vec<Timing>> {
        self.memory.clear(self.device);
        self.set_step(batch.targets(), self.options.schedule.at(self.step) as f32);
        let mut timings = Vec::new();
        for batch in self.programs.cut(self.device, self.model, batch)? {
            let compiled = self.programs.of_shape(self.device, self.model, self.memory, [batch.rows, batch.length])?;
            compiled.write(self.device, &batch);
            timings.extend(compiled.program.time(self.device)?);
        }
        timings.extend(self.update.time(self.device)?);
        Ok(timings)
    }

    /// Waits for the steps that are under way and returns the report of the next one, until there is none.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn finish(&mut self) -> Result<Option<Report>> {
        self.next(0)
    }

    fn next(&mut self, in_flight: usize) -> Result<Option<Report>> {
        let Some(words) = self.readback.next(self.device, in_flight)? else { return Ok(None) };
        let report = self.started.pop_front().expect("a report for each request");
        // The order of `shaders/shared/metrics.wgsl`.
        let [loss, gradient_norm, _, finite, _, skipped_so_far, in_a_row, _]: [u32; METRICS_WORDS as usize] =
            words.try_into().expect("the metrics have that many words");
        let report = Report {
            loss: f32::from_bits(loss),
            gradient_norm: f32::from_bits(gradient_norm),
            skipped: finite == 0,
            skipped_so_far,
            ..report
        };
        if in_a_row >= PATIENCE {
            return Err(Error::Diverged { count: in_a_row, step: report.step, learning_rate: report.learning_rate });
        }
        Ok(Some(report))
    }

    /// The bytes of device memory that the trainer's programs take beside the model's and their activations.
    pub fn bytes(&self) -> u64 {
        self.update.bytes() + self.programs.compiled.values().map(|c| c.program.bytes()).sum::<u64>()
    }
}

/// Measures the loss of a model without changing it.
pub struct Evaluator<'a> {
    device: &'a Device,
    model: &'a Model,
    memory: &'a Memory,
    programs: Programs,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of the model as it is in `memory` at each call.
    pub fn new(device: &'a Device, model: &'a Model, memory: &'a Memory) -> Evaluator<'a> {
        Evaluator { device, model, memory, programs: Programs::new(Mode::Evaluating) }
    }

    /// As [`Trainer::prepare`].
    ///
    /// # Errors
    /// As [`Trainer::prepare`].
    pub fn prepare(&mut self, rows: u32, length: u32) -> Result<u32> {
        self.programs.prepare(self.device, self.model, self.memory, [rows, length])
    }

    /// The mean loss over all targets of the batches.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no target; or what the device says.
    pub fn loss(&mut self, batches: &[Batch]) -> Result<f64> {
        let targets: u64 = batches.iter().map(Batch::targets).sum();
        if targets == 0 {
            return Err(Error::Usage("there is no token to predict; check that the data is not empty".into()));
        }
        let mut loss = 0.0;
        // The device adds up in f32: of many batches not all at once.
        for batches in batches.chunks(AT_ONCE) {
            self.memory.clear(self.device);
            self.memory.set_step(self.device, Step { loss_scale: (1.0 / targets as f64) as f32, ..Step::default() });
            for batch in batches {
                for batch in self.programs.cut(self.device, self.model, batch)? {
                    self.programs.run(self.device, self.model, self.memory, &batch)?;
                }
            }
            let metrics = self.memory.read(self.device, self.memory.arenas().metrics)?;
            loss += f64::from(bytemuck::pod_read_unaligned::<f32>(&metrics[..4]));
        }
        Ok(loss)
    }
}
