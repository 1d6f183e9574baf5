//! The ops of sentence vectors: means and cosines.

use graftling::doctor::reference;
use graftling::ops;

use crate::harness::{Array, Check, Random, all_traits};

#[test]
fn means_and_their_gradients() {
    let (lengths, length) = ([7u32, 1, 4, 6], 7);
    for traits in all_traits() {
        for hidden in [5, 64, 260] {
            let arrays = [Array::input(&[4, length, hidden], &mut Random(5)), Array::whole(&lengths, &[4])];
            let check = Check { name: "mean", traits: &traits, arrays: &arrays, tolerance: 1e-6, twice: true };
            check.run(|g, t| ops::mean_rows(g, t[0], t[1]), |v| reference::mean_rows(&v[0], &lengths, length, hidden));
        }
    }
}

#[test]
fn cosines_and_their_gradients() {
    for traits in all_traits() {
        for (pairs, hidden) in [(1, 5), (19, 64), (70, 33)] {
            let arrays = [Array::input(&[2 * pairs, hidden], &mut Random(6))];
            let check = Check { name: "cosine", traits: &traits, arrays: &arrays, tolerance: 1e-5, twice: true };
            check.run(|g, t| ops::cosine(g, t[0]), |v| reference::cosine(&v[0], hidden));
        }
    }
}
