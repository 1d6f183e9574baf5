//! Measuring the speed of a device, for `graftling bench` and the developers' benchmarks.

use std::fmt;
use std::time::Instant;

use crate::error::Result;
use crate::gpu::{Device, Memory, Program};
use crate::graph::{DType, Graph, Parameters, Tensor, Traits};
use crate::ops::{Linear, matmul};
use crate::text::Batch;
use crate::train::Trainer;

/// Warm-up rounds, which are not measured: drivers compile late, and the first rounds determine the length of submissions.
pub const WARM_UP: usize = 3;
/// Measured rounds. The fastest is reported, since the machine may be shared.
pub const ROUNDS: usize = 5;

/// A word whose bytes decode to numbers of ordinary size in every format.
pub const NUMBERS: u32 = 0x3a3a_3a3a;

/// The shortest time of a round of `run` in seconds, after [`WARM_UP`] rounds.
///
/// # Errors
/// The first error that `run` returns.
pub fn best(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for round in 0..WARM_UP + ROUNDS {
        let started = Instant::now();
        run()?;
        if round >= WARM_UP {
            best = best.min(started.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

/// The shortest time of a recording in seconds, with the kernels for `traits`. `record` returns the inputs and the word that fills each.
///
/// # Errors
/// Fails if the device fails.
pub fn recording(
    device: &Device,
    traits: &Traits,
    parameters: &Parameters,
    record: impl FnOnce(&mut Graph) -> Vec<(Tensor, u32)>,
) -> Result<f64> {
    let mut g = Graph::new(traits, parameters, true);
    let inputs = record(&mut g);
    let memory = Memory::new(device, parameters, true)?;
    for (weight, parameter) in parameters.iter() {
        memory.write(device, weight, &vec![NUMBERS as u8; parameter.dtype.bytes(parameter.shape.len()) as usize]);
    }
    let mut program = Program::new(device, &memory, &g)?;
    for (input, word) in inputs {
        program.write(device, input, &vec![word; g.shape(input).len() as usize]);
    }
    best(|| {
        program.run(device)?;
        memory.read(device, memory.arenas().metrics).map(drop) // waits
    })
}

/// A batch of arbitrary tokens without padding.
pub fn batch(rows: u32, length: u32, vocabulary: u32) -> Batch {
    let tokens: Vec<u32> = (0..rows * length).map(|i| i.wrapping_mul(2_654_435_761) % vocabulary).collect();
    Batch::new(&tokens.chunks(length as usize).collect::<Vec<_>>())
}

/// Runs one training step and waits until the device has finished it.
///
/// # Errors
/// As [`Trainer::step`].
pub fn step(trainer: &mut Trainer, batch: &Batch) -> Result<()> {
    trainer.step(std::slice::from_ref(batch))?;
    while trainer.finish()?.is_some() {}
    Ok(())
}

/// The matrix products of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// y = x·Wᵀ.
    Forward,
    /// dx = dy·W.
    InputGradient,
    /// dW = dyᵀ·x.
    WeightGradient,
}

impl Product {
    /// All of them.
    pub const ALL: [Product; 3] = [Product::Forward, Product::InputGradient, Product::WeightGradient];

    /// Whether a kernel exists for weights of this format: only f32 weights train.
    pub fn takes(self, format: DType) -> bool {
        self != Product::WeightGradient || format == DType::F32
    }

    /// Operations per second for `rows` rows and a matrix (outputs, inputs) in `format`, with the kernels for `traits`.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn speed(self, device: &Device, traits: &Traits, [rows, inputs, outputs]: [u32; 3], format: DType) -> Result<f64> {
        let mut parameters = Parameters::default();
        let weight = parameters.add("weight", [outputs, inputs], format, self == Product::WeightGradient);
        let layer = Linear::new(weight, None);
        // A short product is repeated, so that launch overhead does not count.
        let operations = 2.0 * f64::from(rows) * f64::from(inputs) * f64::from(outputs);
        let times = (1e9 / operations).clamp(1.0, 64.0) as u32;
        let seconds = recording(device, traits, &parameters, |g| {
            let (x, dy) = (g.input("x", [rows, inputs], DType::F32), g.input("dy", [rows, outputs], DType::F32));
            for _ in 0..times {
                match self {
                    Product::Forward => drop(matmul::forward(g, x, &layer, outputs, matmul::Epilogue::Plain)),
                    Product::InputGradient => drop(matmul::input_gradient(g, dy, x, &layer, None)),
                    Product::WeightGradient => matmul::layer_gradients(g, dy, x, &layer),
                }
            }
            vec![(x, NUMBERS), (dy, NUMBERS)]
        })?;
        Ok(f64::from(times) * operations / seconds)
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Product::Forward => "forward",
            Product::InputGradient => "input gradient",
            Product::WeightGradient => "weight gradient",
        })
    }
}
