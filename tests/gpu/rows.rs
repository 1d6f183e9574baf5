use graftling::ops::{self, Place};

use crate::harness::{Array, Check, Random, all_traits};

#[test]
fn values_and_gradients() {
    let lengths = [7u32, 1, 4, 6];
    for traits in all_traits() {
        for (hidden, place) in [(5, Place::First), (5, Place::Last), (64, Place::First), (260, Place::Last)] {
            let (batch, length) = (lengths.len(), 7);
            let arrays = [Array::input(&[batch, length, hidden], &mut Random(5)), Array::whole(&lengths, &[batch])];
            let name = format!("{place:?} of {batch}×{length}×{hidden}");
            let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-6, twice: true };
            let chosen = |row: usize| if place == Place::Last { lengths[row] as usize - 1 } else { 0 };
            check.run(
                |g, t| ops::gather_rows(g, t[0], t[1], place),
                |v| (0..batch).flat_map(|row| v[0][(row * length + chosen(row)) * hidden..][..hidden].to_vec()).collect(),
            );
        }
    }
}
