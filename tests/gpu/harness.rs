//! What every op's test shares: one device, the traits of every kind of device, and the comparison of `graftling::doctor` with a panic where
//! it finds something.

use std::sync::LazyLock;

use graftling::doctor::{Case, Outcome};
use graftling::gpu::Device;
use graftling::graph::{Graph, Tensor, Traits};

pub use graftling::doctor::reference::linear;
pub use graftling::doctor::{Array, Kind, Random, STEP};

/// The one device of the test run; a missing device fails.
pub fn device() -> &'static Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::open_checked(None).expect("these tests need a device"));
    &DEVICE
}

/// The device's own traits, and those that make it run the variants of a GPU (and of a CPU without subgroups).
pub fn all_traits() -> Vec<Traits> {
    let own = device().traits().clone();
    let gpu = Traits { cpu: false, ..own.clone() };
    let plain = Traits { cpu: true, subgroup: None, ..own.clone() };
    let mut all = vec![own, gpu, plain];
    all.dedup();
    all
}

/// One op under test; the fields are those of [`Case`].
pub struct Check<'a> {
    pub name: &'a str,
    pub traits: &'a Traits,
    pub arrays: &'a [Array],
    pub tolerance: f64,
    pub twice: bool,
}

impl Check<'_> {
    /// Records the op with `record`, which gets a tensor for each array, and compares it with `reference`, which gets their values.
    pub fn run(&self, record: impl Fn(&mut Graph, &[Tensor]) -> Tensor, reference: impl Fn(&[Vec<f64>]) -> Vec<f64>) {
        let Check { name, traits, arrays, tolerance, twice } = *self;
        let case = Case { name, device: device(), traits, arrays, tolerance, half: false, twice };
        expect_right(&case.run(record, reference).expect("a working device"));
    }
}

/// Panics with what a comparison found wrong.
pub fn expect_right(outcome: &Outcome) {
    if let Some(wrong) = &outcome.wrong {
        panic!("{wrong}");
    }
}

/// Panics unless every element of `got` is within `tolerance` times the largest of `want`.
pub fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    let mut outcome = Outcome::default();
    outcome.close(what, got, want, tolerance);
    expect_right(&outcome);
}

/// Panics unless every element of `got` is within `bound` of `want`'s; a NaN is never close.
pub fn close_to(what: &str, got: &[f32], want: &[f64], bound: f64) {
    let mut outcome = Outcome::default();
    outcome.close_to(what, got, want, bound, 1.0);
    expect_right(&outcome);
}
