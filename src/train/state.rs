//! Stopping a trainer and resuming with another one as if nothing had happened.

use serde::{Deserialize, Serialize};

use super::{LossScaler, Trainer};
use crate::error::{Error, Result};
use crate::gpu::Metrics;
use crate::graph::{DType, Piece, Tensor};
use crate::weights::{Weight, Weights};

/// What the steps to come depend on, apart from weights and moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Completed steps: the position in the schedule.
    pub step: u64,
    /// Completed micro-batches, on which dropout masks depend.
    pub batches: u32,
    /// Steps that changed weights, on which Adam's bias correction depends.
    pub updates: u32,
    /// Steps that were skipped because their gradient was not finite.
    pub skipped: u32,
    /// Skipped steps since the last one that changed weights, except those that lowered the loss scale.
    pub skipped_in_a_row: u32,
    /// The loss scale of a run in f16; `None` in f32 and in checkpoints from before loss scaling was dynamic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scaler: Option<LossScaler>,
}

impl Trainer<'_> {
    /// The state after all the steps that the trainer has started. Waits for them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state(&self) -> Result<TrainerState> {
        let metrics = self.memory.metrics(self.device)?;
        let Metrics { updates, skipped, skipped_in_a_row, .. } = metrics;
        let loss_scaler = self.scales_loss().then(|| LossScaler::of(metrics));
        Ok(TrainerState { step: self.step, batches: self.batches, updates, skipped, skipped_in_a_row, loss_scaler })
    }

    /// The two Adam moments of each trainable tensor whose name `wanted` accepts, as `first.NAME` and `second.NAME`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn moments(&self, wanted: impl Fn(&str) -> bool) -> Result<Weights> {
        let mut moments = Weights::default();
        self.each_moment(|name, piece, arena, start, len| {
            if wanted(&piece.name) {
                let bytes = self.memory.read_at(self.device, arena, start, len)?;
                moments.tensors.insert(name, Weight::new(DType::F32, piece.shape.clone(), bytes));
            }
            Ok(())
        })?;
        Ok(moments)
    }

    /// Continues from another trainer's state and moments. The caller must have uploaded the weights of the same step to the
    /// [`Memory`](crate::gpu::Memory).
    ///
    /// # Errors
    /// [`Error::File`] if a moment is missing, has another shape or format, or has a value that is not finite.
    pub fn restore(&mut self, state: &TrainerState, moments: &Weights) -> Result<()> {
        self.each_moment(|name, piece, arena, start, _| {
            let moment = moments.get(&name, &piece.shape)?;
            if moment.dtype != DType::F32 {
                return Err(Error::file(&moments.path, format!("tensor '{name}' is not in the format F32; use another checkpoint")));
            }
            self.memory.write_at(self.device, arena, start, &moment.bytes());
            Ok(())
        })?;
        let &TrainerState { updates, skipped, skipped_in_a_row, loss_scaler, .. } = state;
        let metrics = Metrics { updates, skipped, skipped_in_a_row, ..Metrics::default() };
        self.memory.set_metrics(self.device, self.scaler(loss_scaler).put_into(metrics));
        (self.step, self.batches) = (state.step, state.batches);
        Ok(())
    }

    /// Calls `f` with each moment's name, tensor and arena, and the start and length in bytes of its range in the arena.
    fn each_moment(&self, mut f: impl FnMut(String, &Piece, Tensor, u64, u64) -> Result<()>) -> Result<()> {
        let arenas = self.memory.arenas();
        for (_, parameter) in self.model.parameters.iter() {
            let Some(offset) = parameter.arena_offset else { continue };
            let mut start = DType::F32.bytes(offset);
            for piece in &parameter.pieces {
                let len = DType::F32.bytes(piece.shape.len());
                f(format!("first.{}", piece.name), piece, arenas.first_moment, start, len)?;
                f(format!("second.{}", piece.name), piece, arenas.second_moment, start, len)?;
                start += len;
            }
        }
        Ok(())
    }
}
