use graftling::doctor::reference;
use graftling::ops::{self, Activation};

use crate::harness::{Array, Check, Random, all_traits};

#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        for kind in [Activation::Silu, Activation::GeluNew, Activation::Relu, Activation::Linear] {
            for (rows, inner) in [(1, 1), (3, 257), (257, 5), (13, 64)] {
                let mut x = Array::input(&[rows, 2 * inner], &mut Random(12));
                x.values.iter_mut().for_each(|v| *v *= 3.0);
                let name = format!("gated {rows}×{inner} {}", kind.name());
                let check = Check { name: &name, traits: &traits, arrays: &[x], tolerance: 2e-6, twice: true };
                check.run(|g, t| ops::gated(g, t[0], kind), |v| reference::gated(&v[0], inner, kind));
            }
        }
    }
}
