//! Judges from its reports alone whether training goes well: rising losses, vanishing or exploding gradients, skipped steps.

use std::collections::VecDeque;
use std::fmt;

use super::{Best, Report};

/// The number of losses in a mean, and of gradient norms in a median.
const WINDOW: usize = 32;
/// The number of losses from which their noise is estimated.
const HISTORY: usize = 256;
/// The number of losses before which they are not judged.
const SOONEST: usize = 10;
/// The lower bound of losses before their logarithms are taken: below this, everything is learned. Logarithms are compared because training
/// fails by factors.
const LEAST_LOSS: f64 = 1e-3;
/// The number of standard errors by which two means must differ. It is large because a long run compares the extremes of many means.
const STANDARD_ERRORS: f64 = 6.0;
/// The least factor by which a loss must rise.
const LEAST_RISE: f64 = 1.1;
/// The fraction of the progress that must be lost again.
const LOST: f64 = 0.5;
/// The number of steps in a row after which a gradient counts as vanished or exploding.
const IN_A_ROW: u32 = 3;
/// An exploding gradient has at least this many times the usual norm.
const EXPLODING: f32 = 100.0;
/// A validation loss has no noise, but a change this small means nothing.
const LEAST_VALIDATION_RISE: f64 = 0.01;

/// Something that is wrong with a run. Steps count from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warning {
    /// The loss is well above what it was.
    Rising(Rise),
    /// The norm of the gradient has been 0 or denormal since `step`.
    Vanished {
        /// The first such step.
        step: u64,
    },
    /// The norm of the gradient is far above what is usual in this run.
    Exploding {
        /// The first such step.
        step: u64,
        /// Its latest norm.
        norm: f32,
        /// The highest median of the earlier norms.
        usual: f32,
    },
    /// A step was skipped because its gradient is not finite.
    Skipped {
        /// The first such step.
        step: u64,
    },
}

/// A loss well above what it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rise {
    /// What the loss was.
    pub from: f64,
    /// The step of that loss, or the last step of that mean.
    pub at: u64,
    /// What the loss is now: the geometric mean of the latest losses.
    pub to: f64,
    /// The step since which all losses have been closer to `to` than to `from`.
    pub since: u64,
    /// Whether the loss is also well above that of the first steps.
    pub above_start: bool,
}

/// Watches the health of a run.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// The logarithms of the latest finite losses, with their steps.
    losses: VecDeque<(u64, f64)>,
    /// The first of them: that of the model before any update.
    first: Option<(u64, f64)>,
    /// The first mean over a window.
    start: Option<f64>,
    /// The lowest mean over a window, with the last of its steps.
    lowest: Option<(u64, f64)>,
    /// The latest norms of finite gradients.
    norms: VecDeque<f32>,
    usual: f32,
    vanished: u32,
    exploding: u32,
    skipped: u64,
    checkpoint: Option<Candidate>,
    /// The validation loss before the first step, and the latest one.
    validation: Option<[f64; 2]>,
    warnings: Vec<Warning>,
}

/// A checkpoint that may turn out to be the best: only the losses after it show the effect of its last step.
#[derive(Clone, Debug)]
struct Candidate {
    step: u64,
    /// The mean loss over the window up to it.
    mean: f64,
    /// The sum and the number of the losses after it, at most a window.
    after: (f64, usize),
}

impl Health {
    /// Takes the report of the next step and returns what has begun to go wrong. Each kind of warning is returned only once.
    pub fn observe(&mut self, report: &Report) -> &[Warning] {
        let (before, step) = (self.warnings.len(), report.step + 1);
        if !report.skipped {
            self.observe_norm(step, report);
        } else if !report.lowered_loss_scale() {
            self.skipped += 1;
            self.warn(Warning::Skipped { step });
        }
        if report.loss.is_finite() {
            self.observe_loss(step, report.loss.into());
        }
        &self.warnings[before..]
    }

    /// Takes the validation loss after `step` steps. Later ones count only if there is one of step 0.
    pub fn measured(&mut self, step: u64, loss: f64) {
        let before = self.validation.map(|[before, _]| before).or(Some(loss).filter(|_| step == 0));
        self.validation = before.map(|before| [before, loss]);
    }

    /// Records a checkpoint after `step` steps. Returns the mean loss up to the previous checkpoint, if the steps after that one
    /// confirm it.
    pub fn saved(&mut self, step: u64) -> Option<Best> {
        let good = self
            .checkpoint
            .take()
            .filter(|Candidate { mean, after: (sum, count), .. }| *count > 0 && sum / *count as f64 - mean <= self.chance(WINDOW, *count));
        let count = self.losses.len().min(WINDOW);
        self.checkpoint = (count >= SOONEST).then(|| Candidate { step, mean: self.latest(count), after: (0.0, 0) });
        good.map(|Candidate { step, mean, .. }| Best { step, loss: mean.exp() })
    }

    /// How far the loss is above what it was, if that is more than chance and large enough to matter.
    pub fn rise(&self) -> Option<Rise> {
        let first = self.first.filter(|_| self.losses.len() >= SOONEST)?;
        let count = WINDOW.min(self.losses.len() - 1);
        let now = self.latest(count);
        let is_above = |from: f64, of: usize, start: f64| {
            now - from > self.chance(of, count) && now.exp() - from.exp() > LOST * (start.exp() - from.exp())
        };
        let window = self.lowest.zip(self.start);
        // Compared with the first loss alone too: training that goes wrong at once leaves no better measure of the beginning.
        let above_first = is_above(first.1, 1, first.1);
        let above_start = above_first || window.is_some_and(|(_, start)| is_above(start, WINDOW, start));
        let lowest = window.and_then(|(lowest, start)| is_above(lowest.1, WINDOW, start).then_some(lowest));
        let references = lowest.into_iter().chain(above_first.then_some(first));
        let (at, from) = references.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        let high = self.losses.iter().rev().take_while(|(_, loss)| *loss > (from + now) / 2.0);
        let since = high.last().map_or(at + 1, |&(step, _)| step);
        Some(Rise { from: from.exp(), at, to: now.exp(), since, above_start })
    }

    /// What is wrong with the run now, one clause each; empty if all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some([from, to]) = self.validation.filter(|_| self.validation_rose()) {
            problems.push(format!("the validation loss rose from {from:.4} to {to:.4}"));
        }
        if let Some(Rise { from, to, .. }) = self.rise() {
            problems.push(format!("the loss rose from {from:.4} to {to:.4}"));
        }
        for warning in &self.warnings {
            match warning {
                Warning::Vanished { step } if self.vanished > 0 => problems.push(format!("nothing was learned from step {step} on")),
                Warning::Exploding { step, .. } => problems.push(format!("the gradient exploded at step {step}")),
                Warning::Skipped { .. } if self.skipped == 1 => problems.push("1 step was skipped".into()),
                Warning::Skipped { .. } => problems.push(format!("{} steps were skipped", self.skipped)),
                _ => (),
            }
        }
        problems
    }

    /// Whether the model is worse than before the first step: by its validation loss, or if that is not measured, by its training loss.
    pub fn is_worse_than_at_start(&self) -> bool {
        self.validation_rose() || self.validation.is_none() && self.rise().is_some_and(|rise| rise.above_start)
    }

    /// Whether a checkpoint's loss is below that of the model before the first step, as far as is known. `loss` is the validation loss if
    /// that is measured.
    pub fn is_below_start(&self, loss: f64) -> bool {
        let rise = || self.rise().filter(|rise| rise.above_start);
        self.validation.map_or_else(|| rise().is_none_or(|rise| loss < rise.from), |[before, _]| loss < before)
    }

    fn validation_rose(&self) -> bool {
        self.validation.is_some_and(|[from, to]| to > from * (1.0 + LEAST_VALIDATION_RISE) || to.is_nan())
    }

    fn observe_norm(&mut self, step: u64, report: &Report) {
        let norm = report.gradient_norm;
        let count = |so_far: u32, is_now: bool| if is_now { so_far.saturating_add(1) } else { 0 };
        // A model that makes no mistakes has no gradient either.
        self.vanished = count(self.vanished, norm < f32::MIN_POSITIVE && report.loss != 0.0);
        self.exploding = count(self.exploding, self.norms.len() >= SOONEST && self.usual > 0.0 && norm > EXPLODING * self.usual);
        let begin = step.saturating_sub(u64::from(IN_A_ROW - 1));
        if self.vanished == IN_A_ROW {
            self.warn(Warning::Vanished { step: begin });
        }
        if self.exploding == IN_A_ROW {
            self.warn(Warning::Exploding { step: begin, norm, usual: self.usual });
        }
        push(&mut self.norms, norm, WINDOW);
        if self.norms.len() >= SOONEST {
            let mut sorted: Vec<f32> = self.norms.iter().copied().collect();
            sorted.sort_by(f32::total_cmp);
            self.usual = self.usual.max(sorted[sorted.len() / 2]);
        }
    }

    fn observe_loss(&mut self, step: u64, loss: f64) {
        let loss = loss.max(LEAST_LOSS).ln();
        push(&mut self.losses, (step, loss), HISTORY);
        self.first.get_or_insert((step, loss));
        if let Some(Candidate { after: (sum, count), .. }) = self.checkpoint.as_mut().filter(|checkpoint| checkpoint.after.1 < WINDOW) {
            (*sum, *count) = (*sum + loss, *count + 1);
        }
        if self.losses.len() >= WINDOW {
            let mean = self.latest(WINDOW);
            self.start.get_or_insert(mean);
            if self.lowest.is_none_or(|(_, lowest)| mean < lowest) {
                self.lowest = Some((step, mean));
            }
        }
        if let Some(rise) = self.rise() {
            self.warn(Warning::Rising(rise));
        }
    }

    /// Keeps a warning if it is the first of its kind.
    fn warn(&mut self, warning: Warning) {
        let kind = std::mem::discriminant(&warning);
        if self.warnings.iter().all(|earlier| std::mem::discriminant(earlier) != kind) {
            self.warnings.push(warning);
        }
    }

    /// How far the mean of `one` logarithms can be above that of `other` logarithms by chance.
    fn chance(&self, one: usize, other: usize) -> f64 {
        let noise = STANDARD_ERRORS * self.deviation() * (1.0 / one as f64 + 1.0 / other as f64).sqrt();
        noise.max(LEAST_RISE.ln())
    }

    /// The mean of the latest `count` logarithms. If there are enough, the lowest and the highest are left out, so that one odd batch does
    /// not count.
    fn latest(&self, count: usize) -> f64 {
        let mut latest: Vec<f64> = self.losses.iter().rev().take(count).map(|&(_, loss)| loss).collect();
        latest.sort_by(f64::total_cmp);
        let kept = if count < SOONEST - 1 { &latest[..] } else { &latest[1..count - 1] };
        kept.iter().sum::<f64>() / kept.len() as f64
    }

    /// The standard deviation of single logarithms, from the differences of neighbours (von Neumann 1941), which a trend hardly changes. If
    /// there are few, the largest difference is left out: it may be the very jump being judged.
    fn deviation(&self) -> f64 {
        let differences = self.losses.iter().zip(self.losses.iter().skip(1)).map(|((_, a), (_, b))| (b - a) * (b - a));
        let (sum, largest) = differences.fold((0.0, 0.0f64), |(sum, largest), square| (sum + square, largest.max(square)));
        let (sum, count) = if self.losses.len() < WINDOW { (sum - largest, self.losses.len() - 2) } else { (sum, self.losses.len() - 1) };
        (sum.max(0.0) / (2 * count) as f64).sqrt()
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(value);
}

impl fmt::Display for Warning {
    /// One sentence that says what to do.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Warning::Rising(Rise { from, at, to, since, .. }) => write!(
                f,
                "the loss has risen from {from:.4} at step {at} to {to:.4} since step {since}; use a lower learning rate, a warm-up or gradient clipping"
            ),
            Warning::Vanished { step } => write!(
                f,
                "the gradient has vanished: since step {step} its norm is 0 and nothing is learned; use a lower learning rate, and --precision f32 \
                 if it was f16"
            ),
            Warning::Exploding { step, norm, usual } => write!(
                f,
                "the gradient is exploding: since step {step} its norm has been up to {norm:.1e} where {usual:.1e} is usual; use gradient clipping \
                 or a lower learning rate"
            ),
            Warning::Skipped { step } => write!(
                f,
                "step {step} was skipped, since its gradient is not finite; if this happens often, use a lower learning rate or gradient clipping"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// The warnings about a run with these losses and a gradient norm of 1, and its health at the end.
    fn losses(losses: impl IntoIterator<Item = f64>) -> (Vec<Warning>, Health) {
        run(losses.into_iter().map(|loss| (loss as f32, 1.0)))
    }

    fn run(steps: impl IntoIterator<Item = (f32, f32)>) -> (Vec<Warning>, Health) {
        let mut health = Health::default();
        let mut told = Vec::new();
        for (step, (loss, gradient_norm)) in (0..).zip(steps) {
            let report = Report { step, loss, gradient_norm, skipped: !gradient_norm.is_finite(), ..Report::default() };
            told.extend_from_slice(health.observe(&report));
        }
        (told, health)
    }

    #[test]
    fn a_loss_that_jumps_at_once() {
        let (told, health) = losses([7.9].into_iter().chain((0..30).map(|i| 10.8 + 0.05 * f64::from(i % 3))));
        let &[Warning::Rising(rise)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((rise.at, rise.since, rise.above_start), (1, 2, true));
        assert!((rise.from - 7.9).abs() < 1e-5 && (rise.to - 10.85).abs() < 0.05, "{rise:?}");
        assert!(health.is_worse_than_at_start() && health.is_below_start(7.0) && !health.is_below_start(9.0));
        assert_eq!(health.problems(), ["the loss rose from 7.9000 to 10.8499"]);
        assert!(told[0].to_string().starts_with("the loss has risen from 7.9000 at step 1 to 10.8"), "{}", told[0]);
    }

    #[test]
    fn a_loss_that_is_wild() {
        let wild = [6.9, 121.0, 171.4, 338.3, 396.7, 604.7, 563.4, 286.6, 375.1, 336.1, 460.6, 455.0, 578.0, 754.0];
        let (told, health) = losses(wild);
        assert!(matches!(told[..], [Warning::Rising(Rise { at: 1, since: 2, above_start: true, .. })]), "{told:?}");
        assert!(health.rise().is_some());
    }

    #[test]
    fn a_loss_that_creeps_up() {
        let mut random = Random::new(1, 0);
        let (told, health) = losses((0..400).map(|i| 3.0 + 0.2 * random.normal() + f64::from(i) * 0.004));
        let &[Warning::Rising(rise)] = &told[..] else { panic!("{told:?}") };
        assert!((50..200).contains(&rise.since), "{rise:?}");
        assert!(health.rise().is_some_and(|rise| rise.to > 4.3 && rise.above_start));
    }

    #[test]
    fn what_was_learned_is_lost_again() {
        let mut random = Random::new(2, 0);
        let mut noisy = |loss: f64| loss + 0.1 * random.normal();
        let falls: Vec<_> = (0..200).map(|i| noisy(8.0 - f64::from(i) * 0.025)).collect();
        let jumps: Vec<_> = (0..100).map(|_| noisy(6.5)).collect();
        let recovers: Vec<_> = (0..100).map(|i| noisy(6.5 - f64::from(i) * 0.035)).collect();
        let (told, health) = losses(falls.iter().chain(&jumps).copied());
        let &[Warning::Rising(rise)] = &told[..] else { panic!("{told:?}") };
        assert!((rise.at, rise.since, rise.above_start) == (200, 201, false) && rise.from < 3.5, "{rise:?}");
        assert!(!health.is_worse_than_at_start() && health.rise().is_some());
        let (told, health) = losses(falls.into_iter().chain(jumps).chain(recovers));
        assert_eq!((told.len(), health.rise(), health.problems().len()), (1, None, 0));
    }

    /// Batches differ, and none of these runs goes wrong.
    #[test]
    fn noise_is_no_rise() {
        for seed in 0..10 {
            let mut random = Random::new(seed, 0);
            // Flat, as with a learning rate that is far too low, with normal, long-tailed and bimodal losses.
            assert_eq!(losses((0..3000).map(|_| 3.0 + 0.6 * random.normal())).0, []);
            assert_eq!(losses((0..3000).map(|_| 2.0 * (0.8 * random.normal()).exp())).0, []);
            assert_eq!(losses((0..3000).map(|_| if random.uniform() < 0.5 { 0.2 } else { 5.0 })).0, []);
            // Learned by heart, except for an occasional row.
            assert_eq!(losses((0..1000).map(|i| 4.0 * (-0.02 * f64::from(i)).exp() + 0.3 * random.uniform().powi(8))).0, []);
            // Single spikes.
            assert_eq!(losses((0..1000).map(|i| if i % 250 == 99 { 90.0 } else { 3.0 + 0.1 * random.normal() })).0, []);
        }
        for short in 0..SOONEST {
            assert_eq!(losses((0..short).map(|i| 3.0 + i as f64)).0, []);
        }
    }

    #[test]
    fn gradients_that_vanish() {
        let dead = |norm| run([(6.2, 1.9), (10.1, 165.0)].into_iter().chain([(4.0, norm); 30]));
        for norm in [0.0, 1e-40] {
            let (told, health) = dead(norm);
            assert_eq!(told, [Warning::Vanished { step: 3 }]);
            assert_eq!(health.problems(), ["nothing was learned from step 3 on"]);
        }
        assert_eq!(dead(1e-30).0, []);
        assert_eq!(run((0..50).map(|i| (3.0, if i % 3 == 0 { 1.0 } else { 0.0 }))).0, []);
        assert_eq!(run([(0.0, 0.0); 50]).0, []);
    }

    #[test]
    fn gradients_that_explode() {
        let usual = [(3.0, 1.5); 40];
        let (told, health) = run(usual.into_iter().chain([(3.0, 400.0); 5]));
        assert_eq!(told, [Warning::Exploding { step: 41, norm: 400.0, usual: 1.5 }]);
        assert_eq!(health.problems(), ["the gradient exploded at step 41"]);
        assert_eq!(run(usual.into_iter().chain([(3.0, 400.0); 2]).chain(usual)).0, []);
        // Norms that fell with the loss and rise again.
        let falls = (0..200).map(|i| (3.0, 10f32.powf(-0.03 * i as f32)));
        assert_eq!(run(falls.chain(usual)).0, []);
    }

    #[test]
    fn steps_that_are_skipped() {
        let (told, health) = run([(3.0, 1.0), (f32::NAN, f32::NAN), (3.0, f32::INFINITY), (3.0, 1.0)]);
        assert_eq!(told, [Warning::Skipped { step: 2 }]);
        assert_eq!(health.problems(), ["2 steps were skipped"]);
    }

    /// In f16 a step that only lowers the loss scale is normal, but not one whose loss is not finite, nor one at the lowest scale.
    #[test]
    fn steps_that_lower_the_loss_scale() {
        for (loss, scale, normal) in [(3.0, 32_768.0, true), (f32::NAN, 65_536.0, false), (3.0, 1.0, false)] {
            let mut health = Health::default();
            let report = Report { loss, gradient_norm: f32::INFINITY, skipped: true, loss_scale: Some(scale), ..Report::default() };
            assert_eq!(health.observe(&report).is_empty(), normal, "{report:?}");
            assert_eq!(health.problems().is_empty(), normal, "{report:?}");
        }
    }

    /// A checkpoint whose own step ruined the model is not good, although the losses before it are.
    #[test]
    fn checkpoints_are_judged_by_what_follows() {
        let mut random = Random::new(3, 0);
        let mut health = Health::default();
        let mut good = Vec::new();
        for step in 0..120 {
            let loss = if step < 80 { 5.0 - 0.03 * step as f64 } else { 9.0 };
            health.observe(&Report { step, loss: (loss + 0.1 * random.normal()) as f32, gradient_norm: 1.0, ..Report::default() });
            if (step + 1) % 10 == 0 {
                good.extend(health.saved(step + 1));
            }
        }
        assert_eq!(good.iter().map(|best| best.step).collect::<Vec<_>>()[..8], [10, 20, 30, 40, 50, 60, 70, 110]);
        let best = good.into_iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).expect("a checkpoint");
        assert!(best.step == 70 && (3.3..3.5).contains(&best.loss), "{best:?}");
    }

    #[test]
    fn validation_says_more_than_training() {
        let (_, mut health) = losses([3.0; 40]);
        health.measured(1, 1.0);
        assert!(!health.is_worse_than_at_start());
        for (step, (loss, worse)) in (0..).zip([(3.0, false), (2.5, false), (3.02, false), (3.2, true), (f64::NAN, true), (2.9, false)]) {
            health.measured(step, loss);
            assert_eq!(health.is_worse_than_at_start(), worse, "{loss}");
            assert_eq!(health.problems().len(), usize::from(worse), "{loss}");
        }
        assert_eq!(Health::default().problems().len(), 0);
    }
}
