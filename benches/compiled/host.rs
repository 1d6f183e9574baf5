//! What the host does for a training step: everything but the kernels, which a driver without its hardware does not run.

use std::time::Instant;

use graftling::Result;
use graftling::gpu::Device;
use graftling::measure;
use graftling::train::{TrainOptions, Trainer};

use crate::kernels::{self, SMOLLM2};

const STEPS: usize = 50;

/// The shortest time, in milliseconds, from the start of a step of SmolLM2 with random weights until all of its work is submitted.
pub fn milliseconds() -> Result<f64> {
    let model = kernels::model(&SMOLLM2);
    let device = Device::open(None)?;
    let memory = model.upload(&device, &[], 0, true)?;
    let mut trainer = Trainer::new(&device, &model, &memory, TrainOptions::default())?;
    let [rows, length] = SMOLLM2.batch;
    let batch = measure::batch(rows, length, model.config.vocab_size);
    let mut least = f64::INFINITY;
    for _ in 0..STEPS {
        let started = Instant::now();
        trainer.step(std::slice::from_ref(&batch))?;
        least = least.min(1e3 * started.elapsed().as_secs_f64());
        while trainer.finish()?.is_some() {}
    }
    Ok(least)
}
