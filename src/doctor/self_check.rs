//! The check on first use: before a device trains or generates with a kernel for the first time, a small case of it is compared with its
//! reference. A wrong kernel is replaced by the next one in its op's table.

use super::small::{Check, checks};
use super::verdicts::Verdicts;
use super::{Finding, finding};
use crate::error::{Error, Result};
use crate::gpu::Device;
use crate::graph::{Graph, Traits};
use crate::words::one_line;

/// A shader file that computes wrong results on a device, and is not used there.
#[derive(Clone, Debug, PartialEq)]
pub struct Avoided {
    /// The file's stem.
    pub file: &'static str,
    /// What was wrong, in one sentence.
    pub wrong: String,
}

impl std::fmt::Display for Avoided {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the kernels of {} compute wrong results on this device, so others take their place ({})", self.file, self.wrong)
    }
}

/// Checks every kernel of the recordings that `record` makes for the device, unless `verdicts` has it already. Makes the device avoid those
/// that are wrong, records again, and checks what takes their place. Calls `begin` before the first comparison, if there is one.
///
/// Recordings made for the device before this call may use kernels that it now avoids.
///
/// # Errors
/// [`Error::Device`] if a kernel is wrong and has no replacement; the errors of `record`; or the device is lost or runs out of memory.
pub fn self_check(
    device: &mut Device,
    verdicts: &mut Verdicts,
    record: impl Fn(&Traits) -> Result<Vec<Graph>>,
    begin: impl FnOnce(),
) -> Result<Vec<Avoided>> {
    let mut first = Some(begin);
    let result = avoid_wrong_kernels(device, &record, |device, Check { family, half, .. }| {
        if let Some(known) = verdicts.of(&family.name) {
            return Ok(known);
        }
        first.take().into_iter().for_each(|begin| begin());
        let Finding { kernel, wrong, .. } = finding(device, device.traits(), half, family)?;
        // A compiler's complaint has many lines.
        let wrong = wrong.map(one_line);
        verdicts.add(kernel, wrong.clone());
        Ok(wrong)
    });
    if first.is_none() {
        verdicts.save();
    }
    result
}

/// Makes a device avoid the kernels in which `wrong` finds something wrong.
fn avoid_wrong_kernels(
    device: &mut Device,
    record: &dyn Fn(&Traits) -> Result<Vec<Graph>>,
    mut wrong: impl FnMut(&Device, Check) -> Result<Option<String>>,
) -> Result<Vec<Avoided>> {
    let mut avoided = Vec::new();
    'again: loop {
        for check in checks(&record(device.traits())?) {
            let file = check.file;
            let Some(wrong) = wrong(device, check)? else { continue };
            if device.traits().avoids(file) {
                let reason = format!(
                    "the kernels of {file} compute wrong results ({wrong}), and no others can take their place; update the driver or \
                     choose another device"
                );
                return Err(Error::Device { device: device.info().to_string(), reason });
            }
            device.avoid(file);
            avoided.push(Avoided { file, wrong });
            continue 'again;
        }
        return Ok(avoided);
    }
}
