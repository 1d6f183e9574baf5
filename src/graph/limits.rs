//! Whether a device can hold what a recording asks for: the one place that compares the two.

use std::collections::HashSet;

use super::{Graph, IMAGE_ROW, Info, Role, Tensor};
use crate::error::{Error, Result};

/// The most elements of a tensor that a kernel sees. It counts them in u32, and a little past the end.
pub const MAX_ELEMENTS: u64 = 1 << 31;

/// Of something that a recording asks for.
struct Need<'a> {
    info: &'a Info,
    needed: u64,
    unit: &'static str,
    limit: u64,
}

impl Graph {
    /// Says what of the recording is past the limits of the device that it was recorded for: a buffer, a binding, an image, the workgroups
    /// of a dispatch, or more elements than kernels can count.
    ///
    /// # Errors
    /// [`Error::Limit`], naming the tensor.
    pub fn check_limits(&self) -> Result<()> {
        let traits = self.traits();
        for (i, info) in self.tensors().iter().enumerate() {
            // A state is bound as a whole, if not by this recording.
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

    /// Whether a program of this recording, or the model that it is of, has a buffer for this tensor as it is.
    pub(crate) fn takes_memory(&self, tensor: Tensor) -> bool {
        let arenas = self.arenas();
        match self.info(tensor).role {
            // Who does not train needs none of these.
            Role::Shared => self.training() || ![arenas.gradients, arenas.first_moment, arenas.second_moment].contains(&tensor),
            Role::View { .. } => false,
            Role::Frozen | Role::State(_) | Role::Input | Role::Activation | Role::Output => true,
        }
    }
}

/// The bytes that it is bound with.
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
            Role::Shared => (format!("all that trains ({})", info.label), "use a smaller adapter, or train less of the base"),
            Role::Frozen => (format!("the weight '{}'", info.label), "use a smaller model, or one in a smaller format"),
            Role::State(_) => (format!("'{}'", info.label), "use a shorter context"),
            _ => (format!("'{}' {}", info.label, info.shape), "use a smaller batch or shorter sequences"),
        };
        Err(Error::Limit { what, needed, unit, limit, advice: advice.into() })
    }
}

/// The largest number up to `most` that fits, where smaller ones fit too; `None` if there is none.
pub(crate) fn largest_fitting(most: u32, fits: impl Fn(u32) -> bool) -> Option<u32> {
    if most > 0 && fits(most) {
        return Some(most);
    }
    let (mut fitting, mut failing) = (0, most);
    while failing - fitting > 1 {
        let middle = fitting + (failing - fitting) / 2;
        *(if fits(middle) { &mut fitting } else { &mut failing }) = middle;
    }
    Some(fitting).filter(|&fitting| fitting > 0)
}
