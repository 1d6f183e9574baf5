//! Whether a device computes what it should: every kernel variant that it would use, forward and backward, against a reference in f64.
//!
//! [`examine`] goes through the families of kernels. The parts serve the tests of the ops too: [`Case`] records an op and compares it with a
//! forward in f64, and [`mod@reference`] has those forwards.

mod array;
mod case;
mod kernels;
mod layers;
mod outcome;
mod products;
pub mod reference;
pub mod special;

use std::time::Instant;

pub use array::{Array, Kind, Random, random_blocks, scales, usual_scale};
pub use case::{Case, HALF_TOLERANCE, STEP, compare_gradient};
pub use kernels::chosen_kernels;
pub use outcome::Outcome;

use crate::error::{Error, Result};
use crate::gpu::Device;
use crate::graph::{Graph, Tensor, Traits};

/// What came of one family of kernels.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The family: its shader and, of products, the format of the weights.
    pub kernel: String,
    /// How many forms and sizes were compared.
    pub cases: usize,
    /// The largest error as a share of the largest value that was expected with it.
    pub error: f64,
    /// The largest error that counts as right.
    pub tolerance: f64,
    /// What was wrong first, naming the case and the kernel.
    pub wrong: Option<String>,
    /// How long it took, compiling included.
    pub seconds: f64,
}

/// The names of all families, in the order in which they are examined.
pub fn families(traits: &Traits) -> Vec<String> {
    all(traits).into_iter().map(|family| family.name).collect()
}

/// Examines the families that `wanted` names, with the kernels that `traits` choose, on activations in f16 where `half`, and tells `found` of
/// each as it is done.
///
/// # Errors
/// If the device is lost or runs out of memory. A kernel that does not compile is a finding.
pub fn examine(
    device: &Device,
    traits: &Traits,
    half: bool,
    wanted: impl Fn(&str) -> bool,
    mut found: impl FnMut(&Finding),
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for Family { name, tolerance, run } in all(traits) {
        if !wanted(&name) {
            continue;
        }
        let begin = Instant::now();
        let tolerance = if half { tolerance.max(HALF_TOLERANCE) } else { tolerance };
        let mut bench = Bench { device, traits, half, tolerance, cases: 0, outcome: Outcome::default() };
        match run(&mut bench) {
            Err(Error::Device { reason, .. }) => bench.outcome.fail(reason),
            other => other?,
        }
        let Bench { cases, outcome: Outcome { error, wrong }, .. } = bench;
        let finding = Finding { kernel: name, cases, error, tolerance, wrong, seconds: begin.elapsed().as_secs_f64() };
        found(&finding);
        findings.push(finding);
    }
    Ok(findings)
}

/// Makes the comparisons of a family.
type Run = dyn Fn(&mut Bench) -> Result<()>;

/// Kernels that are examined together.
struct Family {
    name: String,
    tolerance: f64,
    run: Box<Run>,
}

impl Family {
    fn new(name: impl Into<String>, tolerance: f64, run: impl Fn(&mut Bench) -> Result<()> + 'static) -> Family {
        Family { name: name.into(), tolerance, run: Box::new(run) }
    }
}

fn all(traits: &Traits) -> Vec<Family> {
    products::families(traits).into_iter().chain(layers::families()).collect()
}

/// Where the cases of one family run, and what came of them so far.
struct Bench<'a> {
    device: &'a Device,
    traits: &'a Traits,
    half: bool,
    tolerance: f64,
    cases: usize,
    outcome: Outcome,
}

impl Bench<'_> {
    /// Compares an op with its reference, once, and added to itself where `twice`.
    fn case(
        &mut self,
        name: &str,
        arrays: &[Array],
        twice: bool,
        record: impl Fn(&mut Graph, &[Tensor]) -> Tensor,
        reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    ) -> Result<()> {
        let case = Case { name, device: self.device, traits: self.traits, arrays, tolerance: self.tolerance, half: self.half, twice };
        let outcome = case.run(record, reference)?;
        self.add(outcome);
        Ok(())
    }

    /// Counts a case.
    fn add(&mut self, outcome: Outcome) {
        self.cases += 1;
        self.outcome.join(outcome);
    }
}
