//! Comparisons that do not fit [`Case`](super::Case): the loss of a step, the optimizer, and attention over a cache.

use super::array::{Array, Kind, Random};
use super::case::{STEP, compare_gradient, write_floats};
use super::outcome::Outcome;
use super::reference::{self, AdamState, LossScale, StepKind};
use crate::error::Result;
use crate::gpu::{Device, Memory, Metrics, Program, State, Step};
use crate::graph::{DType, Graph, Parameters, Tensor, Traits};
use crate::ops::optimizer::{Adam, adam, pull_to_identity};
use crate::ops::{self, Attention, Linear};

/// An op that adds to the loss of a step.
pub struct Loss<'a> {
    /// The name in error messages.
    pub name: &'a str,
    /// The input, and the weights that follow it, trained or frozen.
    pub arrays: &'a [Array],
    /// The targets, or [`IGNORED`](crate::text::IGNORED).
    pub targets: &'a [u32],
    /// The largest errors allowed in the loss and in its gradients, relative to the largest expected value.
    pub tolerance: [f64; 2],
    /// Whether activations are f16.
    pub half: bool,
}

impl Loss<'_> {
    /// Compares the loss that `record` adds, given the arrays and the targets, and its gradients with `reference`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(
        &self,
        device: &Device,
        traits: &Traits,
        record: impl Fn(&mut Graph, &[Tensor], Tensor) -> Tensor,
        reference: impl Fn(&[Vec<f64>]) -> f64,
    ) -> Result<Outcome> {
        let mut parameters = Parameters::default();
        let mut tensors = vec![None];
        for (i, array) in self.arrays.iter().enumerate().skip(1) {
            let (dtype, trains) = if let Kind::Frozen(dtype) = array.kind { (dtype, false) } else { (DType::F32, true) };
            tensors.push(Some(parameters.add(format!("w{i}"), array.shape.as_slice(), dtype, trains)));
        }
        let mut g = Graph::new(traits, &parameters, true);
        g.set_half(self.half);
        let array = self.arrays[0].rounded(self.half);
        let x = g.input("x", array.shape.as_slice(), if self.half { DType::F16 } else { DType::F32 });
        g.track(x);
        let targets = g.input("targets", [self.targets.len() as u32], DType::U32);
        let tensors: Vec<_> = tensors.into_iter().map(|weight| weight.unwrap_or(x)).collect();
        let loss = record(&mut g, &tensors, targets);
        g.backward(loss, loss);
        let dx = g.gradient(x).expect("x is tracked");
        g.keep(dx);

        let memory = Memory::new(device, &parameters, true)?;
        let mut program = Program::with_canaries(device, &memory, &g)?;
        write_floats(&program, device, x, &array.values, self.half);
        program.write(device, targets, self.targets);
        for (&tensor, array) in tensors.iter().zip(self.arrays).skip(1) {
            memory.write(device, tensor, &array.encode().0);
        }
        const LOSS_SCALE: f32 = 2.0;
        memory.set_step(device, STEP);
        memory.set_metrics(device, Metrics { loss_scale: LOSS_SCALE, ..Metrics::default() });
        let mut run = || -> Result<(f32, Vec<f32>, Vec<f32>)> {
            memory.clear(device);
            program.run(device)?;
            let arena = memory.read(device, memory.arenas().gradients)?;
            let dx = program.read(device, &memory, dx)?;
            Ok((memory.metrics(device)?.loss, dx, bytemuck::pod_collect_to_vec(&arena)))
        };
        let (loss, dx, arena) = run()?;
        let mut outcome = Outcome::default();
        if run()? != (loss, dx.clone(), arena.clone()) {
            outcome.fail(format!("{}: a second run returned different results", self.name));
        }
        if let Some(label) = program.damaged_canary(device)? {
            outcome.fail(format!("{}: something was written past the end of '{label}'", self.name));
        }

        let values: Vec<Vec<f64>> = [&array].into_iter().chain(&self.arrays[1..]).map(Array::exact).collect();
        outcome.close(&format!("{}: the loss", self.name), &[loss], &[reference(&values)], self.tolerance[0]);
        let mut compare = |i: usize, gradient: &[f32]| {
            let what = format!("{}: the gradient of argument {i}", self.name);
            let gradient: Vec<_> = gradient.iter().map(|g| g / (STEP.backward_scale * LOSS_SCALE)).collect();
            compare_gradient(&mut outcome, &what, i, &gradient, &values, &reference, self.tolerance[1]);
        };
        compare(0, &dx);
        for (i, &tensor) in tensors.iter().enumerate().skip(1) {
            let parameter = &parameters[tensor];
            if let Some(offset) = parameter.arena_offset {
                compare(i, &arena[offset as usize..][..parameter.shape.len() as usize]);
            }
        }
        Ok(outcome)
    }
}

/// A head (vocabulary, hidden), perhaps with a bias (vocabulary), with the cross-entropy of its targets: the recording of
/// [`Loss::run`] for the arrays x, head and bias.
pub fn head_loss(g: &mut Graph, arrays: &[Tensor], targets: Tensor) -> Tensor {
    ops::cross_entropy(g, arrays[0], &Linear::new(arrays[1], arrays.get(2).copied()), targets)
}

/// The optimizer's counters: whether the last step was taken, steps taken, steps skipped, and steps skipped in a row.
fn counted(metrics: &Metrics) -> [u32; 4] {
    [metrics.finite, metrics.updates, metrics.skipped, metrics.skipped_in_a_row]
}

/// Writes the gradient of a step: `gradient` times `scale`.
fn write_gradient(device: &Device, memory: &Memory, gradient: &[f32], scale: f32) {
    let mut arena: Vec<_> = gradient.iter().map(|g| g * scale).collect();
    arena.resize(memory.parameters().arena_len() as usize, 0.0);
    memory.write(device, memory.arenas().gradients, bytemuck::cast_slice(&arena));
}

/// Runs forty steps of the optimizer over `len` weights, with bindings of 8192 elements.
///
/// # Errors
/// If the device fails.
pub fn adam_steps(device: &Device, traits: &Traits, config: &Adam, len: u32, tolerance: f64) -> Result<Outcome> {
    let mut parameters = Parameters::default();
    let weight = parameters.add("weight", [len], DType::F32, true);
    let traits = Traits { max_binding: 8192 * 4, ..traits.clone() }; // so that a longer arena is split into ranges
    let mut g = Graph::new(&traits, &parameters, true);
    adam(&mut g, config, None);
    let memory = Memory::new(device, &parameters, true)?;
    let mut program = Program::with_canaries(device, &memory, &g)?;

    const BACKWARD_SCALE: f32 = 2.0;
    const LOSS_SCALE: f32 = 4.0;
    memory.set_metrics(device, Metrics { loss_scale: LOSS_SCALE, ..Metrics::default() });
    let mut random = Random(20);
    let mut outcome = Outcome::default();
    let start = random.values(len as usize);
    memory.write(device, weight, bytemuck::cast_slice(&start));
    let mut state = AdamState::new(&start);
    for step in 0..40 {
        let learning_rate = 0.01 / (step + 1) as f32;
        let mut gradient = random.values(len as usize);
        gradient.iter_mut().for_each(|g| *g *= 0.1);
        write_gradient(device, &memory, &gradient, BACKWARD_SCALE * LOSS_SCALE);
        memory.set_step(device, Step { learning_rate, backward_scale: BACKWARD_SCALE, ..Step::default() });
        program.run(device)?;
        let norm = state.step(config, &gradient, f64::from(learning_rate));
        outcome.close("the norm of optimizer.finish_norm", &[memory.metrics(device)?.gradient_norm], &[norm], tolerance);
    }
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device, weight)?);
    outcome.close(&format!("optimizer.adam, {config:?}"), &values, &state.values, tolerance);
    let counted = counted(&memory.metrics(device)?);
    if counted != [1, 40, 0, 0] {
        outcome.fail(format!("optimizer.finish_norm counted {counted:?}, not 40 good steps"));
    }
    Ok(outcome)
}

/// Compares the gradient of a square matrix that is pulled towards the identity, in the scale of the others.
///
/// # Errors
/// If the device fails.
pub fn pull(device: &Device, traits: &Traits, size: u32, tolerance: f64) -> Result<Outcome> {
    const FACTOR: f32 = 0.5;
    const LOSS_SCALE: f32 = 4.0;
    let mut parameters = Parameters::default();
    let weight = parameters.add("weight", [size, size], DType::F32, true);
    let mut g = Graph::new(traits, &parameters, true);
    pull_to_identity(&mut g, weight, FACTOR);
    let memory = Memory::new(device, &parameters, true)?;
    let mut program = Program::with_canaries(device, &memory, &g)?;
    memory.set_metrics(device, Metrics { loss_scale: LOSS_SCALE, ..Metrics::default() });
    memory.set_step(device, STEP);
    let mut random = Random(20);
    let (values, before) = (random.values((size * size) as usize), random.values((size * size) as usize));
    memory.write(device, weight, bytemuck::cast_slice(&values));
    write_gradient(device, &memory, &before, 1.0);
    program.run(device)?;
    let gradient: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device, memory.arenas().gradients)?);
    let scale = f64::from(FACTOR * LOSS_SCALE * STEP.backward_scale);
    let identity = |i: usize| f64::from(u8::from(i / size as usize == i % size as usize));
    let want: Vec<_> = (0..values.len()).map(|i| f64::from(before[i]) + scale * (f64::from(values[i]) - identity(i))).collect();
    let mut outcome = Outcome::default();
    outcome.close("identity.pull", &gradient[..values.len()], &want, tolerance);
    Ok(outcome)
}

/// Checks that a step whose gradient or loss is not finite changes no weight but is counted, and that training then continues.
///
/// # Errors
/// If the device fails.
pub fn skipped_steps(device: &Device, traits: &Traits) -> Result<Outcome> {
    let mut parameters = Parameters::default();
    let weight = parameters.add("weight", [100], DType::F32, true);
    let mut g = Graph::new(traits, &parameters, true);
    adam(&mut g, &Adam::default(), None);
    let memory = Memory::new(device, &parameters, true)?;
    let mut program = Program::new(device, &memory, &g)?;
    memory.set_step(device, Step { learning_rate: 0.1, ..Step::default() });
    // One element of the gradient, the loss, whether the step is taken, and the counters after it.
    let (bad, good) = (f32::NAN, 0.5);
    let steps = [
        (good, 0.0, true, [1, 1, 0, 0]),
        (bad, 0.0, false, [0, 1, 1, 1]),
        (f32::INFINITY, 0.0, false, [0, 1, 2, 2]),
        (f32::NEG_INFINITY, 0.0, false, [0, 1, 3, 3]),
        (good, bad, false, [0, 1, 4, 4]),
        (good, 0.0, true, [1, 2, 4, 0]),
    ];
    let mut outcome = Outcome::default();
    let mut before = memory.read(device, weight)?;
    for (number, loss, is_step, want) in steps {
        let mut gradient = vec![0.5f32; parameters.arena_len() as usize];
        gradient[63] = number;
        memory.write(device, memory.arenas().gradients, bytemuck::cast_slice(&gradient));
        memory.set_metrics(device, Metrics { loss, ..memory.metrics(device)? });
        program.run(device)?;
        let after = memory.read(device, weight)?;
        if (after != before) != is_step {
            let did = if is_step { "changed no weight" } else { "changed a weight" };
            outcome.fail(format!("optimizer.adam: a gradient with {number} and a loss of {loss} {did}"));
        }
        before = after;
        let got = counted(&memory.metrics(device)?);
        if got != want {
            outcome
                .fail(format!("optimizer.finish_norm counted {got:?}, not {want:?}, after a gradient with {number} and a loss of {loss}"));
        }
    }
    Ok(outcome)
}

/// Checks the counters, the loss scale and the weights over random sequences of steps, some of which overflow. One sequence starts at a low
/// scale, which falls to the minimum and grows from there; the other starts at a scale that soon can no longer double within f32.
///
/// # Errors
/// If the device fails.
pub fn loss_scaling(device: &Device, traits: &Traits, tolerance: f64) -> Result<Outcome> {
    const GROWTH_INTERVAL: u32 = 3;
    const BACKWARD_SCALE: f32 = 0.25;
    const LEARNING_RATE: f32 = 0.01;
    let mut parameters = Parameters::default();
    let weight = parameters.add("weight", [100], DType::F32, true);
    let config = Adam { clip_norm: Some(1.0), ..Adam::default() };
    let mut g = Graph::new(traits, &parameters, true);
    adam(&mut g, &config, Some(GROWTH_INTERVAL));

    let mut outcome = Outcome::default();
    for (start, largest_gradient, steps) in [(8.0, 0.1, 80), (2f32.powi(126), 0.0, 8)] {
        let memory = Memory::new(device, &parameters, true)?;
        let mut program = Program::new(device, &memory, &g)?;
        let mut random = Random(21);
        let values = random.values(100);
        memory.write(device, weight, bytemuck::cast_slice(&values));
        memory.set_step(device, Step { learning_rate: LEARNING_RATE, backward_scale: BACKWARD_SCALE, ..Step::default() });
        memory.set_metrics(device, Metrics { loss_scale: start, ..Metrics::default() });
        let (mut adam, mut scale) = (AdamState::new(&values), LossScale::new(start, GROWTH_INTERVAL));
        for step in 0..steps {
            let kind = match random.below(8) {
                0..=1 if largest_gradient > 0.0 => StepKind::GradientOverflows,
                2 if largest_gradient > 0.0 => StepKind::LossOverflows,
                _ => StepKind::Finite,
            };
            let mut gradient: Vec<f32> = random.values(100).iter().map(|g| g * largest_gradient).collect();
            if kind == StepKind::Finite {
                adam.step(&config, &gradient, f64::from(LEARNING_RATE));
            } else {
                gradient[step % 100] = [f32::INFINITY, f32::NAN, f32::NEG_INFINITY][step % 3];
            }
            write_gradient(device, &memory, &gradient, BACKWARD_SCALE * scale.scale);
            let loss = if kind == StepKind::LossOverflows { f32::INFINITY } else { 1.0 };
            memory.set_metrics(device, Metrics { loss, ..memory.metrics(device)? });
            program.run(device)?;

            scale.step(kind);
            let metrics = memory.metrics(device)?;
            let got = (counted(&metrics), metrics.loss_scale, metrics.growth_tracker);
            let want =
                ([u32::from(kind == StepKind::Finite), scale.updates, scale.skipped, scale.skipped_in_a_row], scale.scale, scale.tracker);
            if got != want {
                outcome.fail(format!("optimizer.finish_norm, loss scaling from {start}, step {step}, {kind:?}: {got:?}, not {want:?}"));
                return Ok(outcome);
            }
        }
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device, weight)?);
        outcome.close("optimizer.adam, scaled gradients", &values, &adam.values, tolerance);
    }
    Ok(outcome)
}

/// Checks attention over a cache: `chunks` of at most 8 rows by one program, shorter ones padded, and the rest of `length` row by row.
///
/// # Errors
/// If the device fails.
pub fn cached_attention(
    device: &Device,
    traits: &Traits,
    form: Attention,
    chunks: &[usize],
    length: usize,
    tolerance: f64,
) -> Result<Outcome> {
    let memory = Memory::new(device, &Parameters::default(), false)?;
    let width = ((form.heads + 2 * form.key_value_heads) * form.head_size) as usize;
    let mut state = None;
    let mut parts = Vec::new();
    for rows in [8, 1] {
        let mut g = Graph::new(traits, memory.parameters(), false);
        let qkv = g.input("qkv", [1, rows, width as u32], DType::F32);
        let start = g.input("start", [1], DType::U32);
        let [keys, values] = ["keys", "values"].map(|name| g.state(name, [form.key_value_heads, length as u32, form.head_size]));
        let y = ops::cached_attention(&mut g, qkv, keys, values, start, form);
        g.keep(y);
        if state.is_none() {
            state = Some(State::new(device, &g)?);
        }
        let state = state.as_ref().expect("created above");
        parts.push((rows as usize, Program::with_state_and_canaries(device, &memory, state, &g)?, qkv, start, y));
    }

    let x: Vec<f32> = Random(31).values(length * width).iter().map(|v| v * 2.0).collect();
    let mut outcome = Outcome::default();
    let (mut got, mut at) = (Vec::new(), 0);
    let in_chunks: usize = chunks.iter().sum();
    for &count in chunks.iter().chain(&vec![1; length - in_chunks]) {
        let (rows, program, qkv, start, y) = &mut parts[usize::from(at >= in_chunks)];
        let mut padded = x[at * width..][..count * width].to_vec();
        padded.resize(*rows * width, 50.0);
        program.write(device, *qkv, &padded);
        program.write(device, *start, &[at as u32]);
        program.run(device)?;
        if let Some(label) = program.damaged_canary(device)? {
            outcome.fail(format!("cached_attention: something was written past the end of '{label}'"));
        }
        let y = program.read(device, &memory, *y)?;
        got.extend_from_slice(&y[..y.len() / *rows * count]);
        at += count;
    }
    let exact: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let want = reference::attention(&exact, &[length], length, &form, 0);
    outcome.close(&format!("cached_attention.attend, {form:?}"), &got, &want, tolerance);
    Ok(outcome)
}
