//! Ops that are fused with the products before or after them.

use super::array::{Array, Kind, Random};
use super::reference::{self, Turn};
use super::{Bench, Family};
use crate::error::Result;
use crate::graph::DType;
use crate::ops::{self, Activation, Attention, FeedForward, Linear, Rope, RopePairs, RopeScaling};

pub(super) fn families() -> Vec<Family> {
    vec![Family::new("feed_forward", 1e-5, feed_forward), Family::new("self_attention", 2e-5, self_attention)]
}

/// With and without a gate; with more rows and columns than one tile has, and without whole vectors of four, where nothing is fused.
fn feed_forward(bench: &mut Bench) -> Result<()> {
    for (gated, activation) in [(true, Activation::Silu), (false, Activation::GeluNew)] {
        for (rows, hidden, inner) in [(67, 20, 40), (5, 7, 6)] {
            let mut random = Random(14);
            let width = if gated { 2 * inner } else { inner };
            let arrays = [
                Array::input(&[rows, hidden], &mut random),
                Array::weight(&[width, hidden], &mut random),
                Array::weight(&[hidden, inner], &mut random),
                Array::weight(&[width], &mut random),
                Array::weight(&[hidden], &mut random),
            ];
            bench.case(
                &format!("{rows}×{hidden}→{inner}, gated {gated}"),
                &arrays,
                true,
                |g, t| {
                    let (input, output) = (Linear::new(t[1], Some(t[3])), Linear::new(t[2], Some(t[4])));
                    ops::feed_forward(g, t[0], &FeedForward { input: &input, output: &output, activation, gated })
                },
                |v| reference::feed_forward(v, hidden, activation, gated),
            )?;
        }
    }
    Ok(())
}

/// Grouped and single heads, one matrix and three, both kinds of pairs, and heads that rotate in part.
fn self_attention(bench: &mut Bench) -> Result<()> {
    use RopePairs::{Adjacent, Halves};
    let (heads, size, hidden) = (4, 16, 20);
    for (shared, rotary, pairs, apart, length) in [
        (2, 16, Halves, false, 9),
        (2, 16, Adjacent, true, 9),
        (2, 8, Adjacent, false, 9),
        (2, 4, Halves, false, 9),
        (4, 16, Halves, false, 35),
    ] {
        let frequencies = ops::rope_frequencies(100.0, rotary, &RopeScaling::None);
        let mut random = Random(15);
        let rows = [heads, shared, shared].map(|heads| (heads * size) as usize);
        let all: usize = rows.iter().sum();
        let table = ops::rope_table(&frequencies, length);
        let mut arrays = vec![
            Array::input(&[2, length as usize, hidden], &mut random),
            Array { shape: vec![length as usize, rotary as usize], kind: Kind::Frozen(DType::F32), values: table },
            Array::whole(&[length, length / 2], &[2]),
            Array::weight(&[all], &mut random),
        ];
        let matrices = if apart { rows.to_vec() } else { vec![all] };
        arrays.extend(matrices.iter().map(|&rows| Array::weight(&[rows, hidden], &mut random)));
        let form = Attention { heads, key_value_heads: shared, head_size: size, causal: true, dropout: 0.0 };
        let (length, key_value_heads, head_size) = (length as usize, shared, size);
        let turn = Turn { starts: &[0, 0], length, heads, key_value_heads, head_size, pairs, frequencies: &frequencies };
        bench.case(
            &format!("{heads} and {shared} heads of {size}, {rotary} rotated, {pairs:?}, {} matrices", matrices.len()),
            &arrays,
            rotary == 8,
            |g, t| {
                let projection = Linear::stacked(t[4..].to_vec(), Some(t[3]));
                let rotation = Rope { heads, key_value_heads, head_size, pairs, table: t[1] };
                ops::self_attention(g, t[0], &projection, &rotation, t[2], form)
            },
            |v| reference::self_attention(&v[0], &v[4..].concat(), Some(&v[3]), &turn, &[length, length / 2], &form),
        )?;
    }
    Ok(())
}
