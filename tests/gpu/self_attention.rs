use graftling::doctor::reference::{self, Turn};
use graftling::graph::DType;
use graftling::ops::{self, Attention, Linear, Rope, RopePairs, RopeScaling, rope_frequencies, rope_table};

use crate::harness::{Array, Check, Kind, Random, all_traits};

/// One case: the projection is `parts` matrices of whole heads, of whose elements the first `rotary` rotate.
struct Case {
    lengths: &'static [usize],
    length: usize,
    hidden: usize,
    heads: u32,
    shared: u32,
    size: u32,
    rotary: u32,
    pairs: RopePairs,
    parts: bool,
}

fn check(case: &Case) {
    let &Case { lengths, length, hidden, heads, shared, size, rotary, pairs, parts } = case;
    let frequencies = rope_frequencies(100.0, rotary, &RopeScaling::None);
    let frozen = |shape: &[usize], values| Array { shape: shape.to_vec(), kind: Kind::Frozen(DType::F32), values };
    let outputs = ((heads + 2 * shared) * size) as usize;
    let heights = if parts { vec![(heads * size) as usize, (shared * size) as usize, (shared * size) as usize] } else { vec![outputs] };
    let mut random = Random(15);
    let ends: Vec<u32> = lengths.iter().map(|&l| l as u32).collect();
    let mut arrays = vec![
        Array::input(&[lengths.len(), length, hidden], &mut random),
        frozen(&[length, rotary as usize], rope_table(&frequencies, length as u32)),
        Array::whole(&ends, &[ends.len()]),
        Array::weight(&[outputs], &mut random),
    ];
    arrays.extend(heights.iter().map(|&height| Array::weight(&[height, hidden], &mut random)));
    let form = Attention { heads, key_value_heads: shared, head_size: size, causal: true, dropout: 0.0 };
    let starts = vec![0; lengths.len()];
    let turn = Turn { starts: &starts, length, heads, key_value_heads: shared, head_size: size, pairs, frequencies: &frequencies };
    for traits in all_traits() {
        let name = format!(
            "self_attention {lengths:?} of {length}, {heads} and {shared} heads of {size}, {rotary} rotated, {pairs:?}, cpu {}, subgroup {:?}",
            traits.cpu, traits.subgroup
        );
        let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-5, twice: true };
        check.run(
            |g, t| {
                let projection = Linear::stacked(t[4..].to_vec(), Some(t[3]));
                let rotation = Rope { heads, key_value_heads: shared, head_size: size, pairs, table: t[1] };
                ops::self_attention(g, t[0], &projection, &rotation, t[2], form)
            },
            |v| reference::self_attention(&v[0], &v[4..].concat(), Some(&v[3]), &turn, lengths, &form),
        );
    }
}

const GROUPED: Case =
    Case { lengths: &[9, 5], length: 9, hidden: 20, heads: 4, shared: 2, size: 16, rotary: 16, pairs: RopePairs::Halves, parts: false };

#[test]
fn values_and_gradients() {
    check(&GROUPED);
    check(&Case { pairs: RopePairs::Adjacent, parts: true, ..GROUPED });
    check(&Case { rotary: 8, pairs: RopePairs::Adjacent, ..GROUPED });
    check(&Case { rotary: 8, parts: true, ..GROUPED });
    // Four elements that rotate are too few for the sum over heads to rotate them back.
    check(&Case { rotary: 4, ..GROUPED });
    check(&Case { lengths: &[35], length: 35, heads: 2, shared: 2, ..GROUPED });
    check(&Case { lengths: &[1], length: 1, ..GROUPED });
}
