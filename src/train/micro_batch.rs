//! How many rows of a batch a device takes at once: all that its limits allow.

use super::trainer::{Mode, record};
use crate::error::{Error, Result};
use crate::graph::{Graph, MAX_ELEMENTS, Traits, fitting};
use crate::model::Model;

/// The rows of each micro-batch, the last perhaps fewer, where a batch of `rows` sequences of `length` tokens is cut into as few equal
/// ones as the limits of a device allow: most often it is whole. It follows from the arguments alone, so that a resumed run makes the same
/// cut.
///
/// # Errors
/// [`Error::Limit`] if not even one row fits. It says how long a row that fits may be.
pub(super) fn micro_batch(model: &Model, traits: &Traits, [rows, length]: [u32; 2], mode: Mode) -> Result<u32> {
    let training = mode != Mode::Evaluating;
    Graph::new(traits, &model.parameters, training).check_limits()?;
    let check = |rows, length| record(model, traits, [rows, length], mode).0.check_limits();
    // The residual stream is a binding of f32 too: there is no need to record what makes even that too large.
    let elements = (traits.max_binding / 4).min(MAX_ELEMENTS) / u64::from(model.config.hidden_size);
    let most = u64::from(rows).min(elements / u64::from(length)) as u32;
    if most == rows && check(rows, length).is_ok() {
        return Ok(rows);
    }
    check(1, 1)?;
    if let Some(fitting) = fitting(most, |rows| check(rows, length)) {
        return Ok(rows.div_ceil(rows.div_ceil(fitting)));
    }
    let Err(error) = check(1, length) else { return Ok(1) };
    let longest = fitting(length, |length| check(1, length)).unwrap_or(1);
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

#[cfg(test)]
mod tests {
    use super::super::extremes::{devices, models};
    use super::*;
    use crate::model::LARGEST;
    use crate::ops::optimizer::Adam;
    use crate::train::trainer::record_update;

    /// Whatever flags and files ask for gets a recording, or an error that says what to do.
    #[test]
    fn extremes_are_recorded_or_refused() {
        let (mut asked, mut refused) = (0, 0);
        for (n, model) in models().into_iter().enumerate() {
            for traits in devices() {
                let training = Mode::Training { checkpointing: n % 2 == 0 };
                for (shape, mode) in
                    [([1, 1], training), ([65_536, 512], training), ([1, LARGEST], Mode::Evaluating), ([65_536, LARGEST], training)]
                {
                    if shape[1] > model.config.context {
                        continue;
                    }
                    asked += 1;
                    match micro_batch(&model, &traits, shape, mode) {
                        Ok(rows) => {
                            assert!((1..=shape[0]).contains(&rows));
                            let (g, ..) = record(&model, &traits, [rows, shape[1]], mode);
                            g.check_limits().expect("what fits");
                            assert!(g.plan().sizes.iter().all(|&size| size <= traits.max_buffer));
                        }
                        Err(Error::Limit { .. }) => refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                if Graph::new(&traits, &model.parameters, true).check_limits().is_ok() {
                    let update = record_update(&model, &traits, &Adam::default());
                    update.check_limits().expect("ranges of the arenas");
                }
            }
        }
        assert!(refused > 20 && asked > refused + 20, "{refused} of {asked} were refused");
    }

    /// The largest micro-batch that fits, and batches in equal parts.
    #[test]
    fn parts_are_few_and_equal() {
        let model = &models()[0];
        let cut = |rows: u32, most: u64| {
            // Of this model, a slice of logits is widest: 128 for each token.
            let traits = Traits { max_binding: most * 1000 * 128 * 4, ..Traits::desktop() };
            micro_batch(model, &traits, [rows, 1000], Mode::Training { checkpointing: false }).expect("some rows fit")
        };
        assert_eq!([cut(40, 40), cut(40, 39), cut(41, 20), cut(7, 6), cut(7, 1)], [40, 20, 14, 4, 1]);
    }
}
