//! Checking a device: every kernel variant that it would use, forward and backward, is compared with a reference in f64.
//!
//! [`examine`] checks the families of kernels. The tests of the ops use the same parts: [`Case`] records an op and compares it with a
//! forward pass in f64 from [`mod@reference`].

mod array;
mod case;
mod fused;
mod heads;
mod kernels;
mod layers;
mod outcome;
mod products;
pub mod reference;
mod self_check;
mod small;
pub mod special;
mod verdicts;

use std::time::Instant;

pub use array::{Array, Kind, Random, random_blocks, usual_scale};
pub use case::{Case, HALF_TOLERANCE, STEP, compare_gradient};
pub use kernels::chosen_kernels;
pub use outcome::Outcome;
pub use self_check::{Avoided, self_check};
pub use verdicts::Verdicts;

use crate::error::{Error, Result};
use crate::gpu::Device;
use crate::graph::{Graph, Tensor, Traits};

/// The result for one family of kernels.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The family: its shader and, for products, the format of the weights.
    pub kernel: String,
    /// The number of cases compared.
    pub cases: usize,
    /// The largest error, relative to the largest expected value in that comparison.
    pub error: f64,
    /// The largest error allowed.
    pub tolerance: f64,
    /// The first mismatch, with its case and kernel.
    pub wrong: Option<String>,
    /// The duration, including compilation.
    pub seconds: f64,
}

/// The names of all families, in the order in which [`examine`] checks them.
pub fn families(traits: &Traits) -> Vec<String> {
    all(traits).into_iter().map(|family| family.name).collect()
}

/// Checks the families for which `wanted` returns true, with the kernels that `traits` select. Activations are f16 if `half`. Calls `found`
/// with each result as soon as it is known.
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
    for family in all(traits) {
        if !wanted(&family.name) {
            continue;
        }
        let finding = finding(device, traits, half, family)?;
        found(&finding);
        findings.push(finding);
    }
    Ok(findings)
}

/// Checks one family.
fn finding(device: &Device, traits: &Traits, half: bool, Family { name, tolerance, run }: Family) -> Result<Finding> {
    let begin = Instant::now();
    let tolerance = if half { tolerance.max(HALF_TOLERANCE) } else { tolerance };
    let mut bench = Bench { device, traits, half, tolerance, cases: 0, outcome: Outcome::default() };
    match run(&mut bench) {
        Err(Error::Device { reason, .. }) => bench.outcome.fail(reason),
        other => other?,
    }
    let Bench { cases, outcome: Outcome { error, wrong }, .. } = bench;
    Ok(Finding { kernel: name, cases, error, tolerance, wrong, seconds: begin.elapsed().as_secs_f64() })
}

/// Runs the comparisons of a family.
type Run = dyn Fn(&mut Bench) -> Result<()>;

/// Kernels that are checked together.
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
    products::families(traits).into_iter().chain(layers::families()).chain(fused::families()).chain(heads::families()).collect()
}

/// The environment of one family's cases, and their results so far.
struct Bench<'a> {
    device: &'a Device,
    traits: &'a Traits,
    half: bool,
    tolerance: f64,
    cases: usize,
    outcome: Outcome,
}

impl Bench<'_> {
    /// Compares an op with its reference; if `twice`, also the sum of the op with itself.
    fn case(
        &mut self,
        name: &str,
        arrays: &[Array],
        twice: bool,
        record: impl Fn(&mut Graph, &[Tensor]) -> Tensor,
        reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    ) -> Result<()> {
        let Bench { device, traits, half, tolerance, .. } = *self;
        let case = Case { name, device, unchecked: None, traits, arrays, tolerance, half, twice };
        let outcome = case.run(record, reference)?;
        self.add(outcome);
        Ok(())
    }

    /// Adds the result of a case.
    fn add(&mut self, outcome: Outcome) {
        self.cases += 1;
        self.outcome.join(outcome);
    }
}
