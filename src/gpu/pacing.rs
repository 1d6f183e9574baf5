//! How much work goes into one submission: decided by the predicted times of its dispatches before they have run, and by their measured
//! times afterwards. This is plain arithmetic and needs no device.
//!
//! An operating system resets a GPU that is busy for too long, Windows after 2 s. So no submission may ever come near that, not even the
//! first one on an unknown device. Knowledge grows in three steps:
//!
//! 1. A dispatch whose kernel has not been timed on this device runs in a separate submission. Recording keeps each dispatch short, even
//!    on the slowest device of its class ([`Traits::dispatch_operations`]).
//! 2. From then on, [`Pace`] predicts dispatches of that kernel, in this program and in others.
//! 3. Once a [`Pacing`] has timed each submission of its program, it knows the program's own times, and no run has to wait again.

use std::collections::HashMap;
use std::ops::Range;

use crate::graph::{Dispatch, Kernel, Traits};

/// How many seconds one submission may keep a device busy: a twentieth of what the strictest watchdog allows, and short enough that a
/// desktop on the same GPU still draws ten times a second.
pub(super) const SUBMISSION: f64 = 0.1;
/// A prediction may be wrong by this factor: a kernel's speed varies with its shapes.
const MARGIN: f64 = 2.0;
/// A dispatch that is more than this many times as long as any timed one of its kernel may run into another limit of the device.
const FURTHER: f64 = 4.0;
/// The seconds that even a tiny dispatch may take.
const DISPATCH: f64 = 20e-6;
/// The bytes per second that the slowest device of each class moves: one channel of DDR3, shared with the host, and a single core.
const GPU_BYTES: f64 = 8e9;
const CPU_BYTES: f64 = 2e9;

/// How fast a device runs each kernel; all programs of the device share it.
pub(super) struct Pace {
    /// Operations and bytes per second on the slowest device of this class.
    operations: f64,
    bytes: f64,
    /// `None` for a kernel that has run but has not been timed.
    kernels: HashMap<Kernel, Option<Known>>,
}

/// What is known of a kernel.
#[derive(Clone, Copy)]
struct Known {
    /// Its time as a share of what the slowest device would take.
    share: f64,
    /// The longest dispatch that was timed, in seconds of the slowest device.
    longest: f64,
}

impl Pace {
    /// What is known of a device before anything has run on it.
    pub(super) fn new(traits: &Traits) -> Pace {
        let bytes = if traits.cpu { CPU_BYTES } else { GPU_BYTES };
        Pace { operations: traits.dispatch_operations as f64 / SUBMISSION, bytes, kernels: HashMap::new() }
    }

    /// The seconds of a dispatch on the slowest device of this class.
    fn slowest(&self, work: &Work) -> f64 {
        (work.operations / self.operations).max(work.bytes / self.bytes).max(1e-9)
    }

    /// The seconds that a dispatch should take here, if dispatches of this kernel and about this length have been timed.
    fn predicted(&self, work: &Work) -> Option<f64> {
        let slowest = self.slowest(work);
        let Known { share, longest } = self.kernels.get(&work.kernel).copied().flatten()?;
        (slowest <= FURTHER * longest).then_some(share * slowest + DISPATCH)
    }

    /// Learns from a dispatch that took `seconds`, or that was `part` of a submission that took `slower` times as long as expected.
    fn learn(&mut self, work: &Work, seconds: f64, slower: f64, part: f64) {
        let slowest = self.slowest(work);
        let expected = self.predicted(work).is_some();
        let known = self.kernels.entry(work.kernel.clone()).or_default();
        *known = Some(match *known {
            Some(Known { share, longest }) if expected => Known { share: share * slower.powf(part), longest: longest.max(slowest) },
            _ => Known { share: seconds / slowest, longest: slowest },
        });
    }
}

/// The work of one dispatch.
struct Work {
    kernel: Kernel,
    operations: f64,
    bytes: f64,
    /// The seconds that it took, or its part of the seconds of its submission.
    seconds: Option<f64>,
}

/// How a program is divided into submissions.
pub(super) struct Pacing {
    works: Vec<Work>,
}

impl Pacing {
    pub(super) fn new(line: &[Dispatch]) -> Pacing {
        let work = |dispatch: &Dispatch| Work {
            kernel: dispatch.kernel.clone(),
            operations: dispatch.operations as f64,
            bytes: dispatch.bytes as f64,
            seconds: None,
        };
        Pacing { works: line.iter().map(work).collect() }
    }

    /// Whether all dispatches have been timed, so that submissions need not be timed any more.
    pub(super) fn settled(&self) -> bool {
        self.works.iter().all(|work| work.seconds.is_some())
    }

    /// The submission that begins at dispatch `begin`: as many dispatches as there is time for, but at least one.
    pub(super) fn submission(&self, pace: &Pace, begin: usize) -> Range<usize> {
        let (mut left, mut end) = (SUBMISSION, begin);
        for work in &self.works[begin..] {
            // A dispatch of unknown length does not share its submission.
            let seconds = work.seconds.or_else(|| Some(MARGIN * pace.predicted(work)?)).unwrap_or(f64::INFINITY);
            if end > begin && seconds > left {
                break;
            }
            left -= seconds;
            end += 1;
        }
        begin..end
    }

    /// Learns from the `seconds` that a submission took.
    pub(super) fn timed(&mut self, pace: &mut Pace, submission: Range<usize>, seconds: f64) {
        let works = &mut self.works[submission];
        let mut first_run = false;
        for work in works.iter() {
            first_run |= !pace.kernels.contains_key(&work.kernel);
            pace.kernels.entry(work.kernel.clone()).or_insert(None);
        }
        // Some drivers compile a kernel when it first runs, so that run says nothing about its speed.
        if first_run {
            return;
        }
        let seconds = seconds.max(1e-6);
        // A dispatch without a prediction is the whole submission.
        let expected: Vec<_> = works.iter().map(|w| w.seconds.or_else(|| pace.predicted(w)).unwrap_or(seconds)).collect();
        let total: f64 = expected.iter().sum();
        let slower = seconds / total;
        for (work, expected) in works.iter_mut().zip(expected) {
            work.seconds = Some(expected * slower);
            pace.learn(work, expected * slower, slower, expected / total);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::graph::{DType, Graph};
    use crate::model::{AdapterConfig, Biases, Config, Model, NormKind, Positions, Trains};
    use crate::ops::{RopePairs, RopeScaling};

    /// A step of a model with the shapes of SmolLM2-135M, except for the number of its blocks.
    fn step(traits: &Traits, [rows, length]: [u32; 2], vocabulary: u32) -> Graph {
        let config = Config {
            heads: 9,
            key_value_heads: 3,
            head_size: 64,
            intermediate_size: 1536,
            gated: true,
            norm: NormKind::RmsNorm,
            norm_first: true,
            positions: Positions::Rotary { theta: 1e5, scaling: RopeScaling::None, pairs: RopePairs::Halves },
            biases: Biases::default(),
            tied: true,
            ..Config::gpt(vocabulary, 8192, 576, 4)
        };
        let model = Model::new(&config, &[], Some(&AdapterConfig::identity_bn(64)), Trains::adapters()).expect("a model");
        let mut g = Graph::new(traits, &model.parameters, true);
        let inputs = model.inputs(&mut g, rows, length, length);
        let targets = g.input("targets", [rows, length], DType::U32);
        let loss = model.loss(&mut g, &inputs, targets);
        g.backward(loss, loss);
        g
    }

    /// A simulated device.
    struct Pretended {
        /// Operations per second in products, and the share of that in other kernels.
        operations: f64,
        share: f64,
        bytes: f64,
        /// The seconds that a driver takes to compile a kernel when it first runs.
        compiling: f64,
        compiled: HashSet<Kernel>,
    }

    impl Pretended {
        fn new(operations: f64, share: f64, bytes: f64) -> Pretended {
            Pretended { operations, share, bytes, compiling: 0.5, compiled: HashSet::new() }
        }

        /// The seconds that a dispatch keeps the device busy.
        fn busy(&self, dispatch: &Dispatch) -> f64 {
            let share = if dispatch.kernel.file.starts_with("matmul") { 1.0 } else { self.share };
            (dispatch.operations as f64 / (share * self.operations)).max(dispatch.bytes as f64 / self.bytes) + 5e-6
        }

        /// Runs a program once, as `Program::run` does: the seconds of each submission.
        fn run(&mut self, line: &[Dispatch], pacing: &mut Pacing, pace: &mut Pace) -> Vec<f64> {
            let (mut submissions, mut begin) = (Vec::new(), 0);
            let settled = pacing.settled();
            while begin < line.len() {
                let submission = pacing.submission(pace, begin);
                begin = submission.end;
                let busy = line[submission.clone()].iter().map(|dispatch| self.busy(dispatch)).sum();
                submissions.push(busy);
                if !settled {
                    let new = line[submission.clone()].iter().filter(|dispatch| self.compiled.insert(dispatch.kernel.clone())).count();
                    pacing.timed(pace, submission, busy + 3e-5 + new as f64 * self.compiling);
                }
            }
            submissions
        }
    }

    fn longest(submissions: &[f64]) -> f64 {
        submissions.iter().copied().fold(0.0, f64::max)
    }

    #[test]
    fn every_submission_of_every_run_is_short() {
        let gpu = Traits::minimal();
        let cpu = Traits { cpu: true, subgroup: Some(8), dispatch_operations: Traits::dispatch_operations_of(true), ..gpu.clone() };
        // As slow as a device of its class is assumed to be, slower than that, and as fast as any.
        for (traits, operations, share, bytes, bound) in [
            (&gpu, 500e9, 0.125, 10e9, SUBMISSION),
            (&gpu, 100e9, 0.125, 8e9, 0.7), // still far from 2 s
            (&gpu, 50e12, 0.125, 2e12, SUBMISSION),
            (&cpu, 20e9, 0.5, 7.5e9, SUBMISSION),
        ] {
            let (mut device, mut pace) = (Pretended::new(operations, share, bytes), Pace::new(traits));
            // The large vocabulary, many tokens, and long attention.
            for (shape, vocabulary) in [([1, 32], 49_152), ([8, 512], 150_000), ([8, 2048], 49_152), ([1, 8192], 1024)] {
                let g = step(traits, shape, vocabulary);
                let mut pacing = Pacing::new(g.line());
                for run in 0..3 {
                    let submissions = device.run(g.line(), &mut pacing, &mut pace);
                    let (most, count) = (longest(&submissions), submissions.len());
                    let case = format!("run {run} of {shape:?} at {operations:e}/s: {count} submissions, the longest {most} s");
                    // What was timed is not quite what runs next.
                    assert!(most <= 1.05 * bound, "{case}");
                    if run == 2 {
                        // No two neighbours would have fitted into one.
                        let total: f64 = submissions.iter().sum();
                        assert!(pacing.settled() && count as f64 <= 2.0 * total / SUBMISSION + 2.0, "{case}, all {total} s");
                    }
                }
            }
        }
    }

    #[test]
    fn a_second_shape_starts_from_what_the_first_has_taught() {
        let traits = Traits::minimal();
        let (mut device, mut pace) = (Pretended::new(5e12, 0.125, 200e9), Pace::new(&traits));
        // Any longer, and attention's backward pass would be split, by another kernel.
        let [first, second] = [[8, 416], [8, 384]].map(|shape| {
            let g = step(&traits, shape, 49_152);
            let mut pacing = Pacing::new(g.line());
            let submissions = device.run(g.line(), &mut pacing, &mut pace).len();
            (submissions, pacing.settled())
        });
        // Late compilation hides how long the first kernels run, so the first program is timed once more.
        assert!(first.0 < 120 && !first.1, "{first:?}");
        assert!(second.0 < 20 && second.1, "{second:?}");
    }

    #[test]
    fn pieces_are_cut_and_joined_as_their_times_say() {
        let line = vec![step(&Traits::minimal(), [1, 32], 1024).line()[0].clone(); 40];
        let (mut pacing, mut pace) = (Pacing::new(&line), Pace::new(&Traits::minimal()));
        let mut run = |pacing: &mut Pacing, seconds: f64| {
            let (mut begin, mut submissions) = (0, 0);
            while begin < line.len() {
                let submission = pacing.submission(&pace, begin);
                begin = submission.end;
                submissions += 1;
                let count = submission.len() as f64;
                pacing.timed(&mut pace, submission, count * seconds);
            }
            submissions
        };
        run(&mut pacing, 0.001);
        assert_eq!(run(&mut pacing, 0.001), 1, "40 ms are one submission");
        assert_eq!(run(&mut pacing, 0.0099), 1, "which turns out to take 400 ms");
        assert_eq!(run(&mut pacing, 0.0099), 4, "and is cut");
        run(&mut pacing, 0.002);
        assert_eq!(run(&mut pacing, 0.002), 1, "and joined");
    }

    #[test]
    fn compilation_teaches_nothing() {
        let line = step(&Traits::minimal(), [1, 32], 1024).line()[..1].to_vec();
        let (mut pacing, mut pace) = (Pacing::new(&line), Pace::new(&Traits::minimal()));
        pacing.timed(&mut pace, 0..1, 3.0);
        assert!(!pacing.settled() && pace.predicted(&pacing.works[0]).is_none());
        pacing.timed(&mut pace, 0..1, 0.003);
        assert!(pacing.settled() && (pace.predicted(&pacing.works[0]).expect("it was timed") - 0.003).abs() < 1e-4);
    }
}
