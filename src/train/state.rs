//! Stopping a trainer and going on with another one as if nothing had been.

use serde::{Deserialize, Serialize};

use super::Trainer;
use crate::error::{Error, Result};
use crate::graph::{DType, METRICS_WORDS, Piece, Tensor};
use crate::weights::{Weight, Weights};

/// What the steps to come depend on, beside weights and moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Steps that are done: the place in the schedule.
    pub step: u64,
    /// Micro-batches that are done, on which dropout masks depend.
    pub batches: u32,
    /// Steps that changed weights, on which Adam's bias correction depends.
    pub updates: u32,
    /// Steps that were left out because their gradient was not finite.
    pub skipped: u32,
    /// How many of these were the last ones without a break.
    pub skipped_in_a_row: u32,
}

/// Where the counters stand in `shaders/shared/metrics.wgsl`: updates, skipped, skipped in a row.
const COUNTERS: std::ops::Range<usize> = 4..7;

impl Trainer<'_> {
    /// Where the trainer is, after all the steps that it has started. Waits for them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state(&self) -> Result<TrainerState> {
        let metrics = self.memory.read(self.device, self.memory.arenas().metrics)?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&metrics);
        let &[updates, skipped, skipped_in_a_row] = &words[COUNTERS] else { unreachable!("three words") };
        Ok(TrainerState { step: self.step, batches: self.batches, updates, skipped, skipped_in_a_row })
    }

    /// Adam's two moments of each tensor that trains and that `wanted` says by name, as `first.NAME` and `second.NAME`.
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

    /// Goes to where another trainer was, whose moments these are. The weights have to be those of that time too, which is the
    /// [`Memory`](crate::gpu::Memory)'s affair.
    ///
    /// # Errors
    /// [`Error::File`] if a moment is missing, has another shape or a number that is not finite.
    pub fn restore(&mut self, state: &TrainerState, moments: &Weights) -> Result<()> {
        self.each_moment(|name, piece, arena, start, _| {
            let moment = moments.get(&name, &piece.shape)?;
            if moment.dtype != DType::F32 {
                return Err(Error::file(&moments.path, format!("tensor '{name}' is not of the format F32; take another checkpoint")));
            }
            self.memory.write_at(self.device, arena, start, &moment.bytes());
            Ok(())
        })?;
        let mut metrics = [0u32; METRICS_WORDS as usize];
        metrics[COUNTERS].copy_from_slice(&[state.updates, state.skipped, state.skipped_in_a_row]);
        self.memory.write(self.device, self.memory.arenas().metrics, bytemuck::cast_slice(&metrics));
        (self.step, self.batches) = (state.step, state.batches);
        Ok(())
    }

    /// Calls `f` with each moment's name, its tensor, its arena, and the bytes there: where they begin and how many they are.
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
