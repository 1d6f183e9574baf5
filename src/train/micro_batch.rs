//! How many rows of a batch a device takes at once: all that its limits allow.

use super::trainer::{Mode, record};
use crate::error::{Error, Result};
use crate::graph::{MAX_ELEMENTS, Traits, largest_fitting};
use crate::model::Model;

/// The rows of each micro-batch, the last perhaps fewer, where a batch of `rows` sequences of `length` tokens is cut into as few equal
/// ones as the limits of a device allow: most often it is whole. It follows from the arguments alone, so that a resumed run makes the same
/// cut.
///
/// # Errors
/// [`Error::Limit`] if not even one row fits. It says how long a row that fits may be.
pub(super) fn micro_batch(model: &Model, traits: &Traits, [rows, length]: [u32; 2], mode: Mode) -> Result<u32> {
    let check = |rows, length| record(model, traits, [rows, length], mode).0.check_limits();
    let fits = |rows, length| check(rows, length).is_ok();
    // The residual stream is a binding of f32 too: there is no need to record what makes even that too large.
    let elements = (traits.max_binding / 4).min(MAX_ELEMENTS) / u64::from(model.config.hidden_size);
    let most = u64::from(rows).min(elements / u64::from(length)) as u32;
    if let Some(fitting) = largest_fitting(most, |rows| fits(rows, length)) {
        return Ok(rows.div_ceil(rows.div_ceil(fitting)));
    }
    let too_long = check(1, length).err();
    let longest = largest_fitting(length - 1, |length| fits(1, length));
    let Some((error, longest)) = too_long.zip(longest) else { return check(1, 1).map(|()| 1) };
    Err(match error {
        Error::Limit { what, needed, unit, limit, .. } => Error::Limit {
            what: format!("one sequence of {length} tokens, whose tensor {what}"),
            needed,
            unit,
            limit,
            advice: format!("use sequences of at most {longest} tokens (--max-length {longest}, or the context of a new model)"),
        },
        other => other,
    })
}
