use graftling::ops::{self, Pooling};

use crate::harness::{Array, Check, Random, all_traits};

#[test]
fn values_and_gradients() {
    let lengths = [7u32, 1, 4, 6];
    for traits in all_traits() {
        for (hidden, pooling) in [(5, Pooling::First), (5, Pooling::Last), (64, Pooling::First), (260, Pooling::Last)] {
            let (batch, length) = (lengths.len(), 7);
            let arrays = [Array::input(&[batch, length, hidden], &mut Random(5)), Array::whole(&lengths, &[batch])];
            let name = format!("{pooling:?} of {batch}×{length}×{hidden}");
            let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-6, twice: true };
            let chosen = |row: usize| if pooling == Pooling::Last { lengths[row] as usize - 1 } else { 0 };
            check.run(
                |g, t| ops::gather_rows(g, t[0], t[1], pooling),
                |v| (0..batch).flat_map(|row| v[0][(row * length + chosen(row)) * hidden..][..hidden].to_vec()).collect(),
            );
        }
    }
}
