//! How fast a run is, judged by its steady steps: steps that also compile kernels say nothing about those to come.

use std::collections::VecDeque;

/// The number of latest steps from which the remaining time is estimated.
const WINDOW: usize = 32;
/// A step whose time, in total and per token, is more than this many times the median is not steady: it did something else besides.
const SLOW: f64 = 4.0;

/// The first steps, which compile most kernels and which the device runs in short submissions.
const WARM_UP: usize = 2;
/// If a step took this many times longer than the next one, their reports arrived together, and each counts as half of both.
const TOGETHER: f64 = 8.0;

/// The seconds and tokens of a step.
type Step = (f64, f64);

/// The times of a run's steps.
#[derive(Default)]
pub struct Pace {
    /// The number of steps so far, at most [`WARM_UP`].
    warm: usize,
    /// The sum of the warm-up steps, used as long as there are no others.
    warm_up: Step,
    recent: VecDeque<Step>,
    /// The sum of the steady steps before the recent ones.
    before: Step,
}

impl Pace {
    /// Adds a step that took `seconds` and had `tokens` tokens.
    pub fn step(&mut self, seconds: f64, tokens: u64) {
        let mut step = (seconds, tokens as f64);
        if self.warm < WARM_UP {
            self.warm += 1;
            self.warm_up = sum(self.warm_up, step);
            return;
        }
        if let Some(last) = self.recent.back_mut().filter(|last| step.0 * TOGETHER < last.0) {
            let both = sum(*last, step);
            step = (both.0 / 2.0, both.1 / 2.0);
            *last = step;
        }
        if self.recent.len() == WINDOW {
            let steady = self.is_steady();
            let oldest = self.recent.pop_front().filter(steady).unwrap_or_default();
            self.before = sum(self.before, oldest);
        }
        self.recent.push_back(step);
    }

    /// Tokens per second over all steady steps; 0 before any step.
    pub fn tokens_per_second(&self) -> f64 {
        let (seconds, tokens) = self.recent.iter().copied().filter(self.is_steady()).fold(self.before, sum);
        let (seconds, tokens) = if seconds > 0.0 { (seconds, tokens) } else { self.warm_up };
        tokens / seconds.max(1e-9)
    }

    /// The seconds that `steps` more steps will take; `None` until there is a steady one.
    pub fn left(&self, steps: u64) -> Option<f64> {
        let steady: Vec<_> = self.recent.iter().filter(|&step| self.is_steady()(step)).collect();
        let seconds: f64 = steady.iter().map(|(seconds, _)| seconds).sum();
        (!steady.is_empty()).then(|| seconds / steady.len() as f64 * steps as f64)
    }

    fn is_steady(&self) -> impl Fn(&Step) -> bool + use<> {
        let median = |of: fn(&Step) -> f64| {
            let mut values: Vec<f64> = self.recent.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::INFINITY)
        };
        let each_token: fn(&Step) -> f64 = |(seconds, tokens)| seconds / tokens.max(1.0);
        let (step, token) = (SLOW * median(|step| step.0), SLOW * median(each_token));
        move |one| one.0 <= step || each_token(one) <= token
    }
}

fn sum(one: Step, other: Step) -> Step {
    (one.0 + other.0, one.1 + other.1)
}

/// A duration in everyday units.
pub fn spoken(seconds: f64) -> String {
    match seconds.round() as u64 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 600..3600 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(steps: impl IntoIterator<Item = (f64, u64)>) -> Pace {
        let mut pace = Pace::default();
        steps.into_iter().for_each(|(seconds, tokens)| pace.step(seconds, tokens));
        pace
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6 * b, "{a} is not {b}");
    }

    #[test]
    fn compilation_is_left_out() {
        assert_eq!((of([]).tokens_per_second(), of([]).left(5)), (0.0, None));
        // Without other steps, the first ones give the speed, but not the time left.
        let first = of([(7.0, 100), (1.0, 100)]);
        assert_eq!((first.tokens_per_second(), first.left(5)), (25.0, None));
        for count in [3, 10, 33, 34, 35, 200] {
            // New batch shapes compile too, at the beginning and later.
            let steps = (0..count).map(|i| (if i == 1 || i == 90 { 3.0 } else { 0.5 }, 100));
            let pace = of([(8.0, 100), (5.0, 100)].into_iter().chain(steps));
            close(pace.tokens_per_second(), 200.0);
            close(pace.left(10).expect("a time"), 5.0);
        }
    }

    #[test]
    fn long_batches_are_not() {
        let steps = (0..80).map(|i| if i % 8 == 0 { (0.8, 512) } else { (0.1, 64) });
        let pace = of([(9.0, 64), (1.0, 64)].into_iter().chain(steps));
        close(pace.tokens_per_second(), 640.0);
        assert!((pace.left(8).expect("a time") - 1.5).abs() < 1e-9);
    }

    #[test]
    fn reports_that_come_together() {
        let pace = of([(9.0, 100), (0.0, 100)].into_iter().chain((0..50).map(|i| (if i % 2 == 0 { 1.0 } else { 0.0001 }, 100))));
        close(pace.tokens_per_second(), 100.0 / 0.50005);
        close(pace.left(10).expect("a time"), 5.0005);
    }

    #[test]
    fn a_pace_that_changes() {
        let pace = of((0..100).map(|_| (0.1, 10)).chain((0..40).map(|_| (1.0, 10))));
        assert_eq!(pace.left(10), Some(10.0));
        assert_eq!([0.4, 59.0, 61.0, 599.6, 3599.0, 7260.0].map(spoken), ["0 s", "59 s", "1 min 1 s", "10 min", "59 min", "2 h 1 min"]);
    }
}
