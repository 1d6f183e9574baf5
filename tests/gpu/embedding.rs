use graftling::graph::{DType, Graph, Tensor};
use graftling::ops;

use crate::harness::{Array, Check, Kind, Random, all_traits};

#[test]
fn values_and_gradients() {
    let (batch, length, hidden, vocabulary, context) = (3, 7, 5, 11, 9);
    let mut random = Random(12);
    let tokens: Vec<u32> = (0..batch * length).map(|_| random.below(vocabulary as u32)).collect();
    let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
    order.sort_by_key(|&i| tokens[i as usize]);
    let arrays = [
        Array::weight(&[vocabulary, hidden], &mut random),
        Array::weight(&[context, hidden], &mut random),
        Array::whole(&tokens, &[batch, length]),
        Array::whole(&order, &[batch * length]),
    ];
    let check = Check { name: "embedding", traits: &all_traits()[0], arrays: &arrays, tolerance: 1e-6, twice: true };
    let record = |g: &mut Graph, t: &[Tensor]| {
        let x = ops::embedding(g, t[2], t[0], Some(t[3]));
        ops::positions(g, x, t[1], 2, None)
    };
    check.run(record, |v| {
        (0..batch * length * hidden)
            .map(|i| {
                let (row, c) = (i / hidden, i % hidden);
                v[0][tokens[row] as usize * hidden + c] + v[1][(2 + row % length) * hidden + c]
            })
            .collect()
    });
}

/// A table too large for one binding is read in slices of 128 rows.
#[test]
fn large_tables() {
    let (hidden, vocabulary) = (6, 300);
    let mut random = Random(16);
    let tokens = [299u32, 3, 127, 128, 3, 255, 256, 0];
    let mut order: Vec<u32> = (0..8).collect();
    order.sort_by_key(|&i| tokens[i as usize]);
    let arrays = [Array::weight(&[vocabulary, hidden], &mut random), Array::whole(&tokens, &[2, 4]), Array::whole(&order, &[8])];
    let traits = graftling::graph::Traits { max_binding: 128 * 6 * 4, ..all_traits()[0].clone() };
    let check = Check { name: "large embedding", traits: &traits, arrays: &arrays, tolerance: 1e-6, twice: true };
    check.run(
        |g, t| ops::embedding(g, t[1], t[0], Some(t[2])),
        |v| tokens.iter().flat_map(|&t| v[0][t as usize * hidden..][..hidden].to_vec()).collect(),
    );
}

#[test]
fn formats_of_frozen_tables() {
    for format in [DType::F32, DType::F16, DType::Bf16] {
        let mut random = Random(13);
        let tokens = [4u32, 0, 4, 2];
        let arrays = [Array::new(Kind::Frozen(format), &[5, 7], &mut random), Array::whole(&tokens, &[1, 4])];
        let check = Check { name: "embedding", traits: &all_traits()[0], arrays: &arrays, tolerance: 1e-6, twice: false };
        check.run(
            |g, t| ops::embedding(g, t[1], t[0], None),
            |v| tokens.iter().flat_map(|&t| v[0][t as usize * 7..][..7].to_vec()).collect(),
        );
    }
}
