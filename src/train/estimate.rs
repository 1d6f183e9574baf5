//! An estimate of the device memory that training will take, without allocating any.

use super::micro_batch::micro_batch;
use super::programs::{Mode, record, record_update};
use crate::error::Result;
use crate::gpu;
use crate::graph::Traits;
use crate::model::Model;
use crate::ops::optimizer::Adam;

/// The bytes of device memory for each purpose, and how a batch is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The bytes of frozen weights.
    pub weights: u64,
    /// The bytes of trained weights, their gradients and their two moments.
    pub trained: u64,
    /// The bytes of activations and all else that the programs need.
    pub programs: u64,
    /// The rows that are computed at once: the whole batch, or fewer if the device's limits require it.
    pub micro_batch: u32,
}

impl Estimate {
    /// Estimates training on batches of `rows` sequences of `length` tokens, with or without [`checkpointing`](super::TrainOptions).
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if the device's limits do not allow even one row at a time.
    pub fn new(model: &Model, traits: &Traits, rows: u32, length: u32, checkpointing: bool) -> Result<Estimate> {
        let mode = Mode::Training { checkpointing };
        let micro_batch = micro_batch(model, traits, [rows, length], mode)?;
        let frozen = model.parameters.iter().filter(|(_, p)| p.arena_offset.is_none());
        let step = record(model, traits, [micro_batch, length], mode).graph;
        let update = record_update(model, traits, &Adam::default());
        update.check_limits()?;
        Ok(Estimate {
            weights: frozen.map(|(_, p)| p.dtype.bytes(p.shape.len())).sum(),
            trained: 4 * 4 * model.parameters.arena_len(),
            programs: gpu::bytes_of(&[&step, &update]),
            micro_batch,
        })
    }

    /// The total in bytes.
    pub fn total(&self) -> u64 {
        self.weights + self.trained + self.programs
    }
}
