use graftling::doctor::reference;
use graftling::graph::DType;
use graftling::ops::{self, HeadNorm};

use crate::harness::{Array, Check, Kind, Random, all_traits};

/// Large, so that omitting it shows.
const EPSILON: f32 = 0.03125;

fn check(kinds: [Kind; 2], batch: usize, length: usize, heads: u32, shared: u32, size: usize) {
    for traits in all_traits() {
        let mut random = Random(13);
        let width = (heads + 2 * shared) as usize * size;
        let weights = kinds.map(|kind| Array::new(kind, &[size], &mut random));
        let [query, key] = weights;
        let arrays = [Array::input(&[batch, length, width], &mut random), query, key];
        let name = format!("head norm ({batch}, {length}), {heads} and {shared} heads of {size}, cpu {}", traits.cpu);
        let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-5, twice: true };
        check.run(
            |g, t| {
                let (query_weight, key_weight) = (t[1], t[2]);
                ops::head_norm(g, t[0], &HeadNorm { heads, key_value_heads: shared, query_weight, key_weight, epsilon: EPSILON })
            },
            |v| reference::head_norm(&v[0], [&v[1], &v[2]], heads as usize, shared as usize, EPSILON),
        );
    }
}

#[test]
fn values_and_gradients() {
    let train = [Kind::Weight; 2];
    check(train, 1, 1, 1, 1, 4);
    check(train, 2, 9, 4, 2, 16);
    check(train, 1, 5, 3, 1, 64);
    check(train, 1, 5, 3, 1, 6);
    check(train, 1, 257, 2, 1, 20);
    // More heads than one dimension of workgroups can hold.
    check(train, 1, 21_900, 1, 1, 4);
}

#[test]
fn frozen_weights() {
    let frozen = Kind::Frozen(DType::F32);
    check([frozen, frozen], 3, 7, 4, 2, 16);
    check([frozen, Kind::Weight], 3, 7, 4, 2, 16);
    check([Kind::Weight, frozen], 3, 7, 4, 2, 16);
}
