//! Shared by all op tests: one device, with and without bounds checks in its kernels; the traits of every kind of device; and the
//! comparison of `graftling::doctor`, which panics on a difference.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use graftling::doctor::{Case, Outcome, reference};
use graftling::gpu::Device;
use graftling::graph::{Graph, Kernel, Tensor, Traits};
use graftling::ops::{self, Activation};

pub use graftling::doctor::reference::linear;
pub use graftling::doctor::{Array, Kind, Random, STEP};

/// The `graftling` command. All tests share one directory for what it remembers about kernels, so that only the first command checks one;
/// Mesa's cache of compiled kernels stays where other programs have it.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graftling"));
    command.env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    if let Some(caches) = caches.filter(|_| std::env::var_os("MESA_SHADER_CACHE_DIR").is_none()) {
        command.env("MESA_SHADER_CACHE_DIR", caches);
    }
    command
}

/// The one device of the test run; panics if there is none.
pub fn device() -> &'static Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::open_checked(None).expect("these tests need a device"));
    &DEVICE
}

/// The same device as users open it, without bounds checks in its kernels.
pub fn unchecked() -> &'static Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::open(None).expect("these tests need a device"));
    &DEVICE
}

/// The device in both builds of its kernels, for ops that have no [`Check`].
pub fn builds() -> [&'static Device; 2] {
    [device(), unchecked()]
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
    /// Records the op with `record`, which gets a tensor for each array, and compares it in both builds with `reference`, which gets the
    /// arrays' values.
    pub fn run(&self, record: impl Fn(&mut Graph, &[Tensor]) -> Tensor, reference: impl Fn(&[Vec<f64>]) -> Vec<f64>) {
        expect_right(&self.outcome(unchecked(), record, reference));
    }

    fn outcome(
        &self,
        unchecked: &Device,
        record: impl Fn(&mut Graph, &[Tensor]) -> Tensor,
        reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    ) -> Outcome {
        let Check { name, traits, arrays, tolerance, twice } = *self;
        let case = Case { name, device: device(), unchecked: Some(unchecked), traits, arrays, tolerance, half: false, twice };
        case.run(record, reference).expect("a working device")
    }
}

/// Panics with the differences that a comparison found.
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

/// An error that only the kernels without bounds checks have is found, both in a value and in a gradient.
#[test]
fn both_builds_are_compared() {
    let x = [Array::input(&[3, 16], &mut Random(1))];
    let wrong = |tamper: fn(&Kernel, String) -> String| {
        let mut tampered = Device::open(None).expect("these tests need a device");
        tampered.tamper(tamper);
        let check = Check { name: "a gate", traits: device().traits(), arrays: &x, tolerance: 2e-6, twice: false };
        let kind = Activation::Relu;
        check.outcome(&tampered, |g, t| ops::gated(g, t[0], kind), |v| reference::gated(&v[0], 8, kind)).wrong
    };
    let found = |wrong: Option<String>, what: &str| {
        let wrong = wrong.expect("the tampered build is wrong");
        assert!(wrong.starts_with(what) && wrong.contains("without bounds checks: element "), "{wrong}");
    };
    assert_eq!(wrong(|_, source| source), None);
    found(wrong(|_, source| source.replace("y[i] = ", "y[i] = 2.0 * ")), "a gate: value of gated.forward");
    found(wrong(|_, source| source.replace("= d * activate(", "= -d * activate(")), "a gate: gradient of argument 0 of gated.backward");
}
