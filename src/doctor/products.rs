//! The products of linear layers in every weight format, at sizes that select each of their kernels.

use super::array::{Array, Kind, Random};
use super::case::Case;
use super::{Bench, Family, reference};
use crate::error::Result;
use crate::graph::{DType, Traits};
use crate::ops::{self, Activation, Linear};
use crate::weights::GgmlType;

/// Wide enough for any driver's division and exponential function, and far below the error of a wrong kernel.
const TOLERANCE: f64 = 5e-6;

pub(super) fn families(traits: &Traits) -> Vec<Family> {
    let mut all = vec![
        Family::new("matmul f32", TOLERANCE, trained),
        Family::new("matmul stacked", TOLERANCE, stacked),
        Family::new("matmul activated", 2.0 * TOLERANCE, activated),
    ];
    for format in GgmlType::ALL.into_iter().filter(|&format| format != GgmlType::F32) {
        all.push(Family::new(format!("matmul {}", format.dtype().word()), TOLERANCE, move |bench| frozen(bench, format)));
    }
    if !traits.cpu {
        for format in GgmlType::ALL {
            let name = format!("matmul {}, large", format.dtype().word());
            all.push(Family::new(name, TOLERANCE, move |bench| large(bench, format)));
        }
    }
    all
}

/// A weight and a bias that train: all three products. The sizes have few and many rows, with and without whole vectors of four; one
/// has enough rows that the sum over them is split.
fn trained(bench: &mut Bench) -> Result<()> {
    for (rows, inputs, outputs) in
        [(1, 1, 1), (1, 72, 150), (5, 7, 3), (8, 36, 20), (13, 132, 68), (65, 36, 132), (257, 64, 4), (31, 257, 3)]
    {
        let mut random = Random(2);
        let arrays = [
            Array::input(&[rows, inputs], &mut random),
            Array::weight(&[outputs, inputs], &mut random),
            Array::weight(&[outputs], &mut random),
        ];
        bench.case(
            &format!("{rows}×{inputs}→{outputs}"),
            &arrays,
            rows == 13,
            |g, t| ops::linear(g, t[0], &Linear::new(t[1], Some(t[2]))),
            |v| reference::linear(&v[0], &v[1], Some(&v[2]), inputs),
        )?;
    }
    Ok(())
}

/// Stacked matrices, each in its own format.
fn stacked(bench: &mut Bench) -> Result<()> {
    for (outputs, inputs) in [([8, 4, 5], 16), ([6, 3, 7], 16)] {
        let mut random = Random(5);
        let kinds = [Kind::Weight, Kind::Frozen(DType::F16), Kind::Frozen(DType::F32)];
        let all: usize = outputs.iter().sum();
        let mut arrays = vec![Array::input(&[9, inputs], &mut random), Array::weight(&[all], &mut random)];
        arrays.extend(kinds.into_iter().zip(outputs).map(|(kind, outputs)| Array::new(kind, &[outputs, inputs], &mut random)));
        bench.case(
            &format!("{outputs:?} outputs of one layer"),
            &arrays,
            false,
            |g, t| ops::linear(g, t[0], &Linear::stacked(t[2..].to_vec(), Some(t[1]))),
            |v| reference::linear(&v[0], &v[2..].concat(), Some(&v[1]), inputs),
        )?;
    }
    Ok(())
}

fn activated(bench: &mut Bench) -> Result<()> {
    for (rows, inputs, outputs) in [(1, 16, 24), (33, 16, 24), (5, 7, 9)] {
        let mut random = Random(4);
        let arrays = [
            Array::input(&[rows, inputs], &mut random),
            Array::weight(&[outputs, inputs], &mut random),
            Array::weight(&[outputs], &mut random),
        ];
        bench.case(
            &format!("{rows}×{inputs}→{outputs} with gelu"),
            &arrays,
            false,
            |g, t| ops::linear_activated(g, t[0], &Linear::new(t[1], Some(t[2])), Activation::Gelu),
            |v| {
                let y = reference::linear(&v[0], &v[1], Some(&v[2]), inputs);
                y.iter().map(|&y| reference::activation(Activation::Gelu, y)).collect()
            },
        )?;
    }
    Ok(())
}

/// A frozen matrix of random values in `format`.
fn matrix(format: GgmlType, shape: &[usize], random: &mut Random) -> Array {
    if format.block_len() == 1 { Array::new(Kind::Frozen(format.dtype()), shape, random) } else { Array::blocks(format, shape, random) }
}

/// A frozen matrix in one format: the value and the gradient of the input, for one row and several, with vectors of four and scalars.
fn frozen(bench: &mut Bench, format: GgmlType) -> Result<()> {
    let block = format.block_len();
    // Only plain numbers can have rows that are not whole vectors of four.
    let odd = if block == 1 { 7 } else { block };
    let mut shapes = vec![(1, block.max(12), 12), (33, block.max(12), 12), (3, odd, 7)];
    if bench.traits.cpu_subgroup() > 0 {
        // These devices have separate kernels for products with few rows.
        shapes.extend([(5, block.max(12), 12), (12, block.max(12), 12)]);
    }
    for (rows, inputs, outputs) in shapes {
        let mut random = Random(19);
        let arrays = [Array::input(&[rows, inputs], &mut random), matrix(format, &[outputs, inputs], &mut random)];
        bench.case(
            &format!("{rows}×{inputs}→{outputs}"),
            &arrays,
            false,
            |g, t| ops::linear(g, t[0], &Linear::new(t[1], None)),
            |v| reference::linear(&v[0], &v[1], None, inputs),
        )?;
    }
    Ok(())
}

/// Products so large that a GPU uses larger tiles: the value, the gradient of the input and, in f32, that of the weight.
fn large(bench: &mut Bench, format: GgmlType) -> Result<()> {
    let (trains, short) = (format == GgmlType::F32, format.block_len().max(20));
    // Each shape makes one product large: x·Wᵀ, dy·W or dyᵀ·x. The last tiles are only partly filled.
    let mut shapes = vec![(2060, short, 2052), (2060, 2048, 20)];
    if trains {
        shapes.push((20, 2052, 2060));
    }
    for (rows, inputs, outputs) in shapes {
        let mut random = Random(21);
        let weight = if trains { Array::weight(&[outputs, inputs], &mut random) } else { matrix(format, &[outputs, inputs], &mut random) };
        let case = Case {
            name: &format!("{rows}×{inputs}→{outputs}"),
            device: bench.device,
            unchecked: None,
            traits: bench.traits,
            arrays: &[Array::input(&[rows, inputs], &mut random), weight],
            tolerance: bench.tolerance,
            half: bench.half,
            twice: false,
        };
        let outcome = case.run_exact(
            &|g, t| ops::linear(g, t[0], &Linear::new(t[1], None)),
            &|v| reference::linear(&v[0], &v[1], None, inputs),
            &|v, dy| {
                let dw = if trains { reference::weight_gradient(&v[0], dy, inputs) } else { Vec::new() };
                vec![reference::input_gradient(&v[1], dy, inputs), dw]
            },
        )?;
        bench.add(outcome);
    }
    Ok(())
}
