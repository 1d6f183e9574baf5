use graftling::doctor::reference;
use graftling::ops::{self, Activation, FeedForward, Linear};

use crate::harness::{Array, Check, Random, all_traits};

/// (rows, hidden, inner), with and without a gate. The third is not aligned, and the fourth has one row, so neither is fused.
#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        for (gated, activation) in [(true, Activation::Silu), (false, Activation::GeluNew)] {
            for (rows, hidden, inner) in [(3, 8, 16), (67, 20, 40), (5, 7, 6), (1, 8, 8)] {
                let mut random = Random(14);
                let width = if gated { 2 * inner } else { inner };
                let arrays = [
                    Array::input(&[rows, hidden], &mut random),
                    Array::weight(&[width, hidden], &mut random),
                    Array::weight(&[hidden, inner], &mut random),
                    Array::weight(&[width], &mut random),
                    Array::weight(&[hidden], &mut random),
                ];
                let name =
                    format!("feed_forward {rows}×{hidden}→{inner}, gated {gated}, cpu {}, subgroup {:?}", traits.cpu, traits.subgroup);
                let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 5e-6, twice: true };
                check.run(
                    |g, t| {
                        let (input, output) = (Linear::new(t[1], Some(t[3])), Linear::new(t[2], Some(t[4])));
                        ops::feed_forward(g, t[0], &FeedForward { input: &input, output: &output, activation, gated })
                    },
                    |v| reference::feed_forward(v, hidden, activation, gated),
                );
            }
        }
    }
}
