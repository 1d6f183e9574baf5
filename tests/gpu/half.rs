//! Activations in f16: every family of kernels on them, and training that goes as it does in f32.

use graftling::doctor::examine;
use graftling::graph::Traits;

use crate::harness::{all_traits, device};

fn all_right(traits: &Traits, wanted: impl Fn(&str) -> bool) {
    assert!(traits.half, "these tests need a device with 16-bit floats");
    let findings = examine(device(), traits, true, wanted, |_| ()).expect("a working device");
    let wrong: Vec<_> = findings.iter().filter_map(|finding| finding.wrong.as_ref()).collect();
    assert!(wrong.is_empty() && !findings.is_empty(), "{wrong:#?}");
}

/// The kernels of this device, then those of others that differ. The formats of frozen weights have nothing to do with it.
#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        all_right(&traits, |name| !name.contains("matmul") || ["matmul f32", "matmul q4_k"].contains(&name));
    }
}
