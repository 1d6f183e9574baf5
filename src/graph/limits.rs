//! Checks whether a device can hold what a recording needs. Nothing else compares the two.

use std::collections::HashSet;

use super::{Graph, IMAGE_ROW, Info, Role, Tensor};
use crate::error::{Error, Result};

/// The most elements of a tensor that a kernel sees: kernels count elements in u32, and go a little past the end.
pub const MAX_ELEMENTS: u64 = 1 << 31;

/// How much of something a recording needs.
struct Need<'a> {
    info: &'a Info,
    needed: u64,
    unit: &'static str,
    limit: u64,
}

impl Graph {
    /// Checks the recording against the limits of the device that it was recorded for: the sizes of buffers, bindings and images, the
    /// workgroups of a dispatch, and the elements that kernels can count.
    ///
    /// # Errors
    /// [`Error::Limit`], naming the tensor.
    pub fn check_limits(&self) -> Result<()> {
        let traits = self.traits();
        for (i, info) in self.tensors().iter().enumerate() {
            // A state is bound as a whole, even if not by this recording.
            let (unit, limit) = match info.role {
                Role::State(_) => ("bytes in one binding", traits.max_binding.min(traits.max_buffer)),
                _ => ("bytes in one buffer", traits.max_buffer),
            };
            if self.takes_memory(Tensor(i as u32)) {
                Need { info, needed: padded(info), unit, limit }.check()?;
            }
        }
        let mut seen = HashSet::new();
        for dispatch in self.line() {
            let reflection = dispatch.kernel.reflect();
            for (argument, declared) in dispatch.arguments.iter().zip(&reflection.storage) {
                if !seen.insert((argument.tensor, declared.texel.is_some())) {
                    continue;
                }
                let info = self.info(argument.tensor);
                let row = u64::from(IMAGE_ROW);
                let (unit, limit) = match declared.texel {
                    Some(_) => ("bytes in one image", u64::from(traits.max_image_rows) * row),
                    None => ("bytes in one binding", traits.max_binding),
                };
                Need { info, needed: padded(info), unit, limit }.check()?;
                Need { info, needed: info.shape.len(), unit: "elements", limit: MAX_ELEMENTS }.check()?;
            }
            let [x, y, z] = dispatch.workgroups.map(u64::from);
            let most = u64::from(traits.max_workgroups);
            if x.max(y).max(z) > most {
                let info = self.info(dispatch.arguments[0].tensor);
                Need { info, needed: x.saturating_mul(y).saturating_mul(z), unit: "workgroups", limit: most * most }.check()?;
            }
        }
        Ok(())
    }

    /// Whether a program of this recording, or its model, has a buffer for exactly this tensor.
    pub(crate) fn takes_memory(&self, tensor: Tensor) -> bool {
        let arenas = self.arenas();
        match self.info(tensor).role {
            // Only training needs these.
            Role::Shared => self.training() || ![arenas.gradients, arenas.first_moment, arenas.second_moment].contains(&tensor),
            Role::View { .. } => false,
            Role::Frozen | Role::State(_) | Role::Input | Role::Activation | Role::Output => true,
        }
    }
}

/// The bytes that a tensor is bound with.
fn padded(info: &Info) -> u64 {
    info.bytes().next_multiple_of(16)
}

impl Need<'_> {
    fn check(self) -> Result<()> {
        let Need { info, needed, unit, limit } = self;
        if needed <= limit {
            return Ok(());
        }
        let (what, advice) = match info.role {
            Role::Shared => (format!("everything that trains ({})", info.label), "use a smaller adapter, or train less of the base"),
            Role::Frozen => (format!("the weight '{}'", info.label), "use a smaller model, or one in a smaller format"),
            Role::State(_) => (format!("'{}'", info.label), "use a shorter context"),
            _ => (format!("'{}' {}", info.label, info.shape), "use a smaller batch or shorter sequences"),
        };
        Err(Error::Limit { what, needed, unit, limit, advice: advice.into() })
    }
}

/// How many rows or tokens of a recording fit on a device: `most`, or as many as the limits allow; `None` if not even one fits. What a
/// recording needs grows in proportion, so a few tries are enough.
pub(crate) fn fitting(most: u32, check: impl Fn(u32) -> Result<()>) -> Option<u32> {
    let mut count = most;
    while count > 0 {
        count = match check(count) {
            Ok(()) => return Some(count),
            Err(Error::Limit { needed, limit, .. }) => {
                let share = u128::from(count) * u128::from(limit) / u128::from(needed.max(1));
                share.min(u128::from(count) - 1) as u32
            }
            Err(_) => return None,
        };
    }
    None
}
