//! How many rows of a batch a device computes at once: as many as its limits allow.

use super::programs::{Mode, record};
use crate::error::{Error, Result};
use crate::graph::{Graph, MAX_ELEMENTS, Traits, fitting};
use crate::model::Model;

/// The rows of each micro-batch when a batch of `rows` sequences of `length` tokens is cut into as few equal micro-batches as the device's
/// limits allow. The last may have fewer rows; usually the batch stays whole. The result depends only on the arguments, so a resumed run
/// makes the same cut.
///
/// # Errors
/// [`Error::Limit`] if not even one row fits; its advice says which length fits. [`Error::Usage`] if the model has no head.
pub(super) fn micro_batch(model: &Model, traits: &Traits, [rows, length]: [u32; 2], mode: Mode) -> Result<u32> {
    model.check_head()?;
    let training = mode != Mode::Evaluating;
    Graph::new(traits, &model.parameters, training).check_limits()?;
    let check = |rows, length| record(model, traits, [rows, length], mode).graph.check_limits();
    // The residual stream is an f32 binding too: batches that make even that too large need not be recorded.
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
    use crate::train::programs::record_update;

    /// Anything that flags and files can ask for is recorded, or refused with an error that says what to do.
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
                            let g = record(&model, &traits, [rows, shape[1]], mode).graph;
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

    /// Batches are cut into as few equal parts as fit.
    #[test]
    fn parts_are_few_and_equal() {
        let model = &models()[0];
        let cut = |rows: u32, most: u64| {
            // The widest tensor of this model is a slice of logits: 128 per token.
            let traits = Traits { max_binding: most * 1000 * 128 * 4, ..Traits::desktop() };
            micro_batch(model, &traits, [rows, 1000], Mode::Training { checkpointing: false }).expect("some rows fit")
        };
        assert_eq!([cut(40, 40), cut(40, 39), cut(41, 20), cut(7, 6), cut(7, 1)], [40, 20, 14, 4, 1]);
    }
}
