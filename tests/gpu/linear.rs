use graftling::doctor::reference;
use graftling::graph::{DType, Traits};
use graftling::ops::{self, Activation, Linear};

use crate::harness::{Array, Check, Kind, Random, all_traits, device, linear};

/// Values and gradients of every variant, chosen by device and shape (rows, inputs, outputs).
#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        for (rows, inputs, outputs) in
            [(1, 1, 1), (3, 5, 7), (33, 36, 20), (65, 132, 68), (257, 64, 4), (2, 8, 260), (31, 257, 3), (1, 72, 150)]
        {
            let mut random = Random(2);
            let arrays = [
                Array::input(&[rows, inputs], &mut random),
                Array::weight(&[outputs, inputs], &mut random),
                Array::weight(&[outputs], &mut random),
            ];
            let name = format!("linear {rows}×{inputs}→{outputs}, cpu {}, subgroup {:?}", traits.cpu, traits.subgroup);
            let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 2e-6, twice: rows == 33 };
            check.run(|g, t| ops::linear(g, t[0], &Linear::new(t[1], Some(t[2]))), |v| linear(&v[0], &v[1], Some(&v[2]), inputs));
        }
    }
}

/// One row with a vocabulary so large that it has more tiles than one dimension of a dispatch allows.
#[test]
fn a_row_of_many_outputs() {
    let traits = Traits { cpu: false, ..device().traits().clone() };
    let outputs = 2 * 65_535 + 7;
    let mut random = Random(6);
    // No gradients: llvmpipe exits a loop after 65,535 iterations, and the input gradient of such a layer is only ever computed in slices.
    let arrays = [[1, 4], [outputs, 4]].map(|shape| Array::new(Kind::Frozen(DType::F32), &shape, &mut random));
    let check = Check { name: "a long row", traits: &traits, arrays: &arrays, tolerance: 2e-6, twice: false };
    check.run(|g, t| ops::linear(g, t[0], &Linear::new(t[1], None)), |v| linear(&v[0], &v[1], None, 4));
}

#[test]
fn formats_of_frozen_weights() {
    for traits in all_traits() {
        for format in [DType::F16, DType::Bf16, DType::F32] {
            for (rows, inputs, outputs) in [(9, 12, 20), (5, 7, 3)] {
                let mut random = Random(3);
                let arrays =
                    [Array::input(&[rows, inputs], &mut random), Array::new(Kind::Frozen(format), &[outputs, inputs], &mut random)];
                let name = format!("linear with {format:?} weights, {rows}×{inputs}→{outputs}, cpu {}", traits.cpu);
                let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 2e-6, twice: true };
                check.run(|g, t| ops::linear(g, t[0], &Linear::new(t[1], None)), |v| linear(&v[0], &v[1], None, inputs));
            }
        }
    }
}

/// Stacked matrices, each in its own format, also where they exceed a binding: (the outputs of each, inputs, bytes per binding).
#[test]
fn stacked_matrices() {
    for traits in all_traits() {
        for (outputs, inputs, max_binding) in [([8, 4, 5], 16, 1 << 20), ([6, 3, 7], 16, 1 << 20), ([132, 4, 134], 32, 128 * 32 * 4)] {
            let traits = Traits { max_binding, ..traits.clone() };
            let mut random = Random(5);
            let kinds = [Kind::Weight, Kind::Frozen(DType::F16), Kind::Frozen(DType::F32)];
            let all: usize = outputs.iter().sum();
            let mut arrays = vec![Array::input(&[9, inputs], &mut random), Array::weight(&[all], &mut random)];
            arrays.extend(kinds.into_iter().zip(outputs).map(|(kind, outputs)| Array::new(kind, &[outputs, inputs], &mut random)));
            let name = format!("{outputs:?} outputs of one layer, cpu {}, subgroup {:?}", traits.cpu, traits.subgroup);
            let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 2e-6, twice: true };
            check.run(
                |g, t| ops::linear(g, t[0], &Linear::stacked(t[2..].to_vec(), Some(t[1]))),
                |v| {
                    let weights: Vec<f64> = v[2..].concat();
                    linear(&v[0], &weights, Some(&v[1]), inputs)
                },
            );
        }
    }
}

#[test]
fn fused_activation() {
    for traits in all_traits() {
        for (rows, inputs, outputs) in [(11, 16, 24), (5, 7, 9)] {
            let mut random = Random(4);
            let arrays = [
                Array::input(&[rows, inputs], &mut random),
                Array::weight(&[outputs, inputs], &mut random),
                Array::weight(&[outputs], &mut random),
            ];
            let check = Check { name: "linear with gelu", traits: &traits, arrays: &arrays, tolerance: 3e-6, twice: false };
            check.run(
                |g, t| ops::linear_activated(g, t[0], &Linear::new(t[1], Some(t[2])), Activation::Gelu),
                |v| {
                    let y = linear(&v[0], &v[1], Some(&v[2]), inputs);
                    y.iter().map(|&y| reference::activation(Activation::Gelu, y)).collect()
                },
            );
        }
    }
}
