//! The result of comparing values with a reference.

/// The largest error of a comparison, and the first one above the tolerance.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The largest error, relative to the largest expected value in its comparison.
    pub error: f64,
    /// The first mismatch, in one sentence.
    pub wrong: Option<String>,
}

/// Added to the allowed error, so that an expected zero need not be matched exactly.
const FLOOR: f64 = 1e-7;

impl Outcome {
    /// Records a failure other than a numerical error.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.wrong.get_or_insert_with(|| what.into());
    }

    /// Adds the result of another comparison.
    pub fn join(&mut self, other: Outcome) {
        self.error = self.error.max(other.error);
        self.wrong = self.wrong.take().or(other.wrong);
    }

    /// Compares every element of `got`, allowing an error of `tolerance` times the largest of `want`.
    pub fn close(&mut self, what: &str, got: &[f32], want: &[f64], tolerance: f64) {
        let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        self.close_to(what, got, want, tolerance, largest);
    }

    /// Compares every element of `got`, allowing an error of `tolerance` times `size`; NaN is always an error.
    pub fn close_to(&mut self, what: &str, got: &[f32], want: &[f64], tolerance: f64, size: f64) {
        if got.len() != want.len() {
            self.fail(format!("{what}: {} values instead of {}", got.len(), want.len()));
        }
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            self.measure(&format_args!("{what}: element {i}"), f64::from(g), w, tolerance, size);
        }
    }

    /// Compares one value, allowing an error of `tolerance` times `size`.
    pub fn measure(&mut self, what: &dyn std::fmt::Display, got: f64, want: f64, tolerance: f64, size: f64) {
        let off = (got - want).abs();
        // Relative to `size` and the floor together, so that it exceeds the tolerance exactly if `off` exceeds the allowed error.
        let error = off / (size + FLOOR / tolerance);
        self.error = self.error.max(if error.is_nan() { f64::INFINITY } else { error });
        let close = error <= tolerance;
        if !close && self.wrong.is_none() {
            self.wrong = Some(format!("{what} is {got:e}, not {want:e} (off by {off:.1e}, allowed {:.1e})", tolerance * size + FLOOR));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_close_is_wrong() {
        let want = [1.0, -2.0, 3.0];
        let wrong = |got: &[f32]| {
            let mut outcome = Outcome::default();
            outcome.close("x", got, &want, 1e-6);
            outcome.wrong
        };
        assert_eq!(wrong(&[1.0, -2.0, 3.0]), None);
        assert!(wrong(&[1.0, -2.0, 3.001]).is_some_and(|w| w.starts_with("x: element 2 is 3.000999")));
        for got in [&[1.0, f32::NAN, 3.0][..], &[1.0, -2.0], &[f32::INFINITY, -2.0, 3.0]] {
            assert!(wrong(got).is_some(), "{got:?}");
        }
    }

    #[test]
    fn the_largest_error_and_the_first_mistake_are_kept() {
        let mut outcome = Outcome::default();
        outcome.close("a", &[1.0], &[1.5], 0.1);
        let mut other = Outcome::default();
        other.close("b", &[f32::NAN], &[1.0], 0.1);
        outcome.join(other);
        assert!(outcome.error.is_infinite() && outcome.wrong.is_some_and(|w| w.starts_with("a:")));
    }
}
