use graftling::doctor::reference;
use graftling::doctor::special::Loss;
use graftling::graph::Kernel;
use graftling::ops::{self, Pointwise};
use graftling::text::IGNORED;

use crate::harness::{Array, Random, all_traits, builds, expect_right};

fn check(kind: Pointwise, values: Vec<f32>, targets: Vec<u32>) {
    let arrays = [Array { shape: vec![values.len()], values, ..Array::input(&[1], &mut Random(1)) }];
    let name = format!("{kind:?} of {}", targets.len());
    let loss = Loss { name: &name, arrays: &arrays, targets: &targets, tolerance: [2e-6, 1e-5], half: false };
    for traits in all_traits() {
        for device in builds() {
            let record = |g: &mut _, t: &[_], targets| ops::pointwise_loss(g, t[0], targets, kind);
            let want = |v: &[Vec<f64>]| reference::pointwise_loss(&v[0], &targets, kind);
            expect_right(&loss.run(device, &traits, record, want).expect("a working device"));
        }
    }
}

#[test]
fn values_and_gradients() {
    for kind in [Pointwise::SquaredError, Pointwise::Logistic] {
        for len in [1, 64, 257] {
            let mut random = Random(3);
            let mut targets: Vec<u32> = (0..len).map(|_| random.below(2) as f32).map(f32::to_bits).collect();
            if len > 1 {
                targets[len / 2] = IGNORED;
            }
            check(kind, random.values(len).iter().map(|v| v * 4.0).collect(), targets);
        }
    }
}

/// Logits far from zero neither overflow nor lose their gradient.
#[test]
fn large_logits() {
    check(Pointwise::Logistic, vec![-300.0, 300.0, 40.0, -40.0], [0.0f32, 1.0, 0.0, 1.0].map(f32::to_bits).to_vec());
}

#[test]
fn the_ignored_target_has_one_number() {
    assert_eq!(Kernel::new("pointwise_loss", "forward").constant("IGNORED"), IGNORED);
}
