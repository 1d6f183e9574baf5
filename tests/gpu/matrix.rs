//! Products on cooperative matrices. They need a device that has them, such as lavapipe from Mesa 25.2 on:
//! `scripts/gpu-drivers lavapipe target/debug/deps/gpu-… --ignored matrix`.

use graftling::doctor::examine;
use graftling::gpu::Device;
use graftling::graph::Traits;

use crate::harness::device;
use crate::smollm2::follows_the_library;

#[test]
#[ignore = "needs a device with cooperative matrices, which few software devices have"]
fn values_and_gradients() {
    let traits = Traits { cpu: false, ..device().traits().clone() };
    assert!(traits.matrix.is_some(), "this test needs a device with cooperative matrices");
    let wanted = |name: &str| ["matmul f32", "matmul q4_k", "feed_forward", "self_attention"].contains(&name);
    let findings = examine(device(), &traits, true, wanted, |_| ()).expect("a working device");
    let wrong: Vec<_> = findings.iter().filter_map(|finding| finding.wrong.as_ref()).collect();
    assert!(wrong.is_empty() && findings.len() == 4, "{wrong:#?}");
}

/// Unlike those of f32 activations, these losses differ from PyTorch's by what f16 operands round.
#[test]
#[ignore = "needs a device with cooperative matrices, which few software devices have"]
fn training_follows_the_library() {
    let mut device = Device::open_checked(None).expect("a device");
    device.limit(|traits| traits.cpu = false);
    assert!(device.traits().matrix.is_some(), "this test needs a device with cooperative matrices");
    follows_the_library(&device, true, 1e-2);
}
