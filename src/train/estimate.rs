//! The device memory that training will take, told before it is taken.

use super::trainer::{Mode, record, record_update};
use crate::gpu;
use crate::graph::Traits;
use crate::model::Model;
use crate::ops::optimizer::Adam;

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Of frozen weights.
    pub weights: u64,
    /// Of trained weights, their gradients and their two moments.
    pub trained: u64,
    /// Of activations and all else that the programs need.
    pub programs: u64,
}

impl Estimate {
    /// What training a model on batches of `rows` sequences of `length` tokens takes, with [`checkpointing`](super::TrainOptions) or without.
    pub fn new(model: &Model, traits: &Traits, rows: u32, length: u32, checkpointing: bool) -> Estimate {
        let frozen = model.parameters.iter().filter(|(_, p)| p.arena_offset.is_none());
        let (step, ..) = record(model, traits, [rows, length], Mode::Training { checkpointing });
        let update = record_update(model, traits, &Adam::default());
        Estimate {
            weights: frozen.map(|(_, p)| p.dtype.bytes(p.shape.len())).sum(),
            trained: 4 * 4 * model.parameters.arena_len(),
            programs: gpu::bytes_of(&[&step, &update]),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.trained + self.programs
    }
}
