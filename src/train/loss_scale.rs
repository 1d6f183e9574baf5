//! Dynamic loss scaling (Micikevicius et al. 2018), which keeps gradients within the range of f16.

use serde::{Deserialize, Serialize};

use crate::gpu::Metrics;
use crate::graph::Traits;
use crate::model::Model;

/// The loss scale of a run whose gradients pass through f16. The rule and constants are those of PyTorch's `GradScaler`: it starts at 2¹⁶,
/// an overflow halves it, and 2000 steps in a row without one double it. The device applies the rule (`shaders/optimizer/optimizer.wgsl`).
///
/// PyTorch scales the mean loss, so the gradient of a token's own loss is multiplied by scale / targets, which depends on the batch. Here
/// it is multiplied by scale / 1024 whatever the batch: 64 at first. f16 has full precision from 6.1e-5 to 65,504, so a token's
/// gradients have it from 1e-6 to 1e3 and lose it gradually down to 1e-9.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScaler {
    /// The scale of the next step.
    pub scale: f32,
    /// Steps in a row without an overflow at this scale.
    pub growth_tracker: u32,
}

/// The number of targets in a step at which this scale means what `GradScaler`'s does.
const TARGETS: f32 = 1024.0;

impl Default for LossScaler {
    fn default() -> Self {
        LossScaler { scale: 65_536.0, growth_tracker: 0 }
    }
}

impl LossScaler {
    /// No scaling: gradients are f32.
    pub(super) const NONE: LossScaler = LossScaler { scale: 1.0, growth_tracker: 0 };

    /// The number of steps in a row without an overflow that double the scale; `None` if the model's gradients do not pass through f16.
    pub(super) fn growth_interval(model: &Model, traits: &Traits) -> Option<u32> {
        (model.half && traits.half).then_some(2000)
    }

    /// The factor that multiplies gradients in addition to the scale, in a step with this many targets
    /// ([`Step::backward_scale`](crate::gpu::Step)).
    pub(super) fn backward_scale(targets: u64) -> f32 {
        targets as f32 / TARGETS
    }

    /// Reads the scaler from the metrics.
    pub(super) fn of(metrics: Metrics) -> LossScaler {
        LossScaler { scale: metrics.loss_scale, growth_tracker: metrics.growth_tracker }
    }

    /// Returns the metrics with this scaler.
    pub(super) fn put_into(self, metrics: Metrics) -> Metrics {
        Metrics { loss_scale: self.scale, growth_tracker: self.growth_tracker, ..metrics }
    }
}
