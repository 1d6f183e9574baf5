//! The learning rate of each step.

/// What the learning rate does after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// It stays at the peak.
    #[default]
    Constant,
    /// It falls linearly to zero.
    Linear,
    /// It falls to zero along half a cosine.
    Cosine,
}

/// Linear warm-up from peak / warmup_steps to the peak, then a [`Shape`]; unless constant, it reaches zero at `steps`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The peak learning rate.
    pub peak: f64,
    /// What follows the warm-up.
    pub shape: Shape,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// The total number of steps, including the warm-up.
    pub steps: u64,
}

impl Schedule {
    /// The learning rate of step `step`, which counts from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let rest = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / rest).min(1.0);
        match self.shape {
            Shape::Constant => self.peak,
            Shape::Linear => self.peak * (1.0 - done),
            Shape::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_peak_and_end() {
        let schedule = Schedule { peak: 1.0, shape: Shape::Cosine, warmup_steps: 4, steps: 12 };
        assert_eq!([0, 3, 4].map(|s| schedule.at(s)), [0.25, 1.0, 1.0]);
        assert!((schedule.at(8) - 0.5).abs() < 1e-12 && schedule.at(12) < 1e-12);
        let linear = Schedule { shape: Shape::Linear, ..schedule };
        assert_eq!([4, 8, 12, 99].map(|s| linear.at(s)), [1.0, 0.5, 0.0, 0.0]);
        assert_eq!(Schedule { shape: Shape::Constant, warmup_steps: 0, ..schedule }.at(99), 1.0);
    }
}
