use graftling::doctor::reference::{self, Turn};
use graftling::graph::DType;
use graftling::ops::{self, Rope, RopePairs, RopeScaling, rope_frequencies, rope_table};

use crate::harness::{Array, Check, Kind, Random, all_traits};

/// One case: heads of `size` elements, of which the first `rotary` rotate; `starts` holds the first position of each row of the batch.
struct Case {
    starts: &'static [u32],
    length: usize,
    heads: u32,
    shared: u32,
    size: u32,
    rotary: u32,
    pairs: RopePairs,
}

const THETA: f64 = 10000.0;

fn reference(qkv: &[f64], frequencies: &[f32], case: &Case) -> Vec<f64> {
    let Case { starts, length, heads, shared, size, pairs, .. } = *case;
    reference::rope(qkv, &Turn { starts, length, heads, key_value_heads: shared, head_size: size, pairs, frequencies })
}

/// Runs a case with `starts` as a tensor, and also without if all are zero.
fn check(case: Case) {
    let frequencies = rope_frequencies(THETA, case.rotary, &RopeScaling::None);
    // The table is no longer than necessary, so that a position past its end would show.
    let positions = case.starts.iter().max().expect("a row") + case.length as u32;
    let width = ((case.heads + 2 * case.shared) * case.size) as usize;
    let frozen = |shape: &[usize], values| Array { shape: shape.to_vec(), kind: Kind::Frozen(DType::F32), values };
    let arrays = [
        Array::input(&[case.starts.len(), case.length, width], &mut Random(11)),
        frozen(&[positions as usize, case.rotary as usize], rope_table(&frequencies, positions)),
        frozen(&[case.starts.len()], case.starts.iter().map(|&s| f32::from_bits(s)).collect()),
    ];
    for traits in all_traits() {
        for with_start in [true, false] {
            if !with_start && case.starts.iter().any(|&s| s > 0) {
                continue;
            }
            let Case { starts, length, heads, shared, size, rotary, pairs } = case;
            let name = format!("rope {starts:?} + {length}, {heads} and {shared} heads of {size}, {rotary} rotated, {pairs:?}");
            let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-6, twice: true };
            check.run(
                |g, t| {
                    let form = Rope { heads, key_value_heads: shared, head_size: size, pairs, table: t[1] };
                    ops::rope(g, t[0], with_start.then_some(t[2]), &form)
                },
                |v| reference(&v[0], &frequencies, &case),
            );
        }
    }
}

#[test]
fn values_and_gradients() {
    for pairs in [RopePairs::Halves, RopePairs::Adjacent] {
        check(Case { starts: &[0], length: 3, heads: 1, shared: 1, size: 4, rotary: 4, pairs });
        check(Case { starts: &[0, 0], length: 9, heads: 4, shared: 2, size: 16, rotary: 16, pairs });
        check(Case { starts: &[0], length: 257, heads: 3, shared: 1, size: 16, rotary: 16, pairs });
        check(Case { starts: &[0, 8187], length: 5, heads: 3, shared: 1, size: 64, rotary: 64, pairs });
    }
}

#[test]
fn a_part_of_a_head() {
    for pairs in [RopePairs::Halves, RopePairs::Adjacent] {
        check(Case { starts: &[5, 0, 2], length: 7, heads: 2, shared: 1, size: 20, rotary: 6, pairs });
        check(Case { starts: &[5, 0, 2], length: 7, heads: 2, shared: 1, size: 24, rotary: 8, pairs });
    }
}

/// A llama GGUF file stores the elements of each query and key head in another order, with the axes (2, size / 2) swapped, and rotates
/// adjacent pairs. The result equals that of Hugging Face's order with the axes swapped.
#[test]
fn both_orders_are_one_turn() {
    const SIZE: usize = 16;
    let frequencies = rope_frequencies(THETA, SIZE as u32, &RopeScaling::None);
    let case = Case { starts: &[0], length: 5, heads: 2, shared: 1, size: SIZE as u32, rotary: SIZE as u32, pairs: RopePairs::Halves };
    // Such a file does not swap value heads; swapping them here does no harm, since they are not rotated.
    let heads = |x: &[f64], from: &dyn Fn(usize) -> usize| -> Vec<f64> {
        x.chunks(SIZE).flat_map(|head| (0..SIZE).map(|i| head[from(i)]).collect::<Vec<_>>()).collect()
    };
    let table = Array { shape: vec![5, SIZE], kind: Kind::Frozen(DType::F32), values: rope_table(&frequencies, 5) };
    let arrays = [Array::input(&[1, 5, 4 * SIZE], &mut Random(14)), table];
    let check = Check { name: "swapped heads", traits: &all_traits()[0], arrays: &arrays, tolerance: 1e-6, twice: false };
    check.run(
        |g, t| {
            let pairs = RopePairs::Adjacent;
            ops::rope(g, t[0], None, &Rope { heads: 2, key_value_heads: 1, head_size: SIZE as u32, pairs, table: t[1] })
        },
        |v| {
            let x = heads(&v[0], &|i| i % (SIZE / 2) * 2 + i / (SIZE / 2));
            heads(&reference(&x, &frequencies, &case), &|i| i % 2 * (SIZE / 2) + i / 2)
        },
    );
}
