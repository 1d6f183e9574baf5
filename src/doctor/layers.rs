//! Everything except the products of linear layers: one family per shader, in all variants that differ in more than size.

use super::array::{Array, Kind, Random};
use super::reference::{self, Turn};
use super::special::cached_attention;
use super::{Bench, Family};
use crate::error::Result;
use crate::graph::{DType, Graph, Tensor};
use crate::ops::{self, Activation, Adapter, Attention, Half, HeadNorm, Linear, Norm, Rope, RopePairs, RopeScaling};
use crate::weights::GgmlType;

const FROZEN: Kind = Kind::Frozen(DType::F32);
/// Large, so that omitting it is noticed.
const EPSILON: f32 = 0.03125;

pub(super) fn families() -> Vec<Family> {
    // The tolerances leave room for any driver's exponential functions and roots; a wrong kernel is off by far more.
    vec![
        Family::new("adapter", 2e-5, adapter),
        Family::new("lora", 1e-5, lora),
        Family::new("fusion", 1e-5, fusion),
        Family::new("attention", 2e-5, attention),
        Family::new("cached_attention", 2e-5, cached),
        Family::new("norm", 1e-5, norm),
        Family::new("head_norm", 1e-5, head_norm),
        Family::new("rope", 2e-6, rope),
        Family::new("activation", 1e-5, activation),
        Family::new("gated", 1e-5, gated),
        Family::new("dropout", 1e-6, dropout),
        Family::new("halves", 2e-6, halves),
        Family::new("scale", 5e-6, scale),
        Family::new("embedding", 2e-6, embedding),
        Family::new("positions", 2e-6, positions),
    ]
}

/// The adapter, in the device's variant and fused: narrow and as wide as allowed, with and without whole vectors of four, with dropout and
/// a scaling factor, and on a frozen input.
fn adapter(bench: &mut Bench) -> Result<()> {
    use Activation::{Gelu, Relu, Silu, Tanh};
    for (rows, hidden, bottleneck, biases, scaling, share, kind, x) in [
        (19, 32, 8, true, 1.0, 0.0, Gelu, Kind::Input),
        (64, 36, 8, false, 1.0, 0.0, Gelu, Kind::Input),
        (3, 260, 68, true, 0.5, 0.25, Relu, Kind::Input),
        (5, 17, 3, true, 4.0, 0.0, Silu, Kind::Input),
        (9, 8, 512, true, 1.0, 0.0, Tanh, Kind::Input),
        (19, 32, 8, true, 1.0, 0.0, Gelu, FROZEN),
    ] {
        let mut random = Random(9);
        let mut arrays = vec![
            Array::new(x, &[rows, hidden], &mut random),
            Array::weight(&[bottleneck, hidden], &mut random),
            Array::weight(&[hidden, bottleneck], &mut random),
        ];
        // Otherwise the sums of a wide layer are so large that σ is a step function.
        let shrink = |a: &mut Array, by: usize| a.values.iter_mut().for_each(|v| *v /= (by as f32).sqrt());
        shrink(&mut arrays[1], hidden);
        shrink(&mut arrays[2], bottleneck);
        if biases {
            arrays.extend([Array::weight(&[bottleneck], &mut random), Array::weight(&[hidden], &mut random)]);
        }
        for (form, record) in [("", ops::adapter as fn(&mut Graph, Tensor, &Adapter) -> Tensor), (" fused,", ops::adapter::fused)] {
            bench.case(
                &format!("{rows}×{hidden}, {bottleneck} wide,{form} {}, factor {scaling}, dropout {share}, input {x:?}", kind.name()),
                &arrays,
                false,
                |g, t| {
                    let biases = biases.then(|| (t[3], t[4]));
                    record(g, t[0], &Adapter { down: t[1], up: t[2], biases, activation: kind, scaling, dropout: share })
                },
                |v| reference::adapter(v, hidden, kind, scaling, share),
            )?;
        }
    }
    Ok(())
}

/// The first column, the outputs, the rank and the factor of each target of a LoRA, by group.
pub(super) type Targets = &'static [&'static [(usize, usize, usize, f32)]];

/// Low-rank updates of one matrix and of some of several, of one rank and of several, with and without whole vectors of four, with dropout, on
/// a frozen input, and with enough rows for more than one chunk.
fn lora(bench: &mut Bench) -> Result<()> {
    let cases: [([usize; 3], f32, Kind, Targets); 5] = [
        ([19, 32, 24], 0.0, Kind::Input, &[&[(0, 24, 8, 2.0)]]),
        ([9, 20, 44], 0.25, Kind::Input, &[&[(0, 20, 4, 0.5), (28, 16, 4, 1.5)]]),
        ([150, 12, 70], 0.0, Kind::Input, &[&[(0, 65, 4, 1.0), (65, 3, 4, 3.0), (68, 2, 4, 0.25)]]),
        ([5, 7, 13], 0.5, Kind::Input, &[&[(2, 3, 3, 0.5)], &[(5, 5, 1, 2.0), (11, 2, 1, 4.0)]]),
        ([19, 32, 24], 0.0, FROZEN, &[&[(0, 24, 8, 2.0)]]),
    ];
    cases.into_iter().try_for_each(|(size, share, x, groups)| low_rank(bench, size, share, x, groups))
}

/// Updates of a layer with `size` rows, inputs and outputs.
pub(super) fn low_rank(bench: &mut Bench, size: [usize; 3], share: f32, x: Kind, groups: Targets) -> Result<()> {
    let [rows, inputs, outputs] = size;
    let mut random = Random(21);
    let ranks: usize = groups.iter().flat_map(|targets| targets.iter().map(|target| target.2)).sum();
    let mut arrays = vec![
        Array::new(x, &[rows, inputs], &mut random),
        Array::new(FROZEN, &[outputs, inputs], &mut random),
        Array::weight(&[ranks, inputs], &mut random),
    ];
    for targets in groups {
        arrays.push(Array::weight(&[targets.iter().map(|target| target.1).sum(), targets[0].2], &mut random));
    }
    bench.case(
        &format!("{rows}×{inputs}→{outputs}, {groups:?}, dropout {share}, input {x:?}"),
        &arrays,
        share == 0.0,
        |g, t| {
            let target = |&(column, outputs, _, scaling): &(usize, usize, usize, f32)| ops::LowRankTarget {
                column: column as u32,
                outputs: outputs as u32,
                scaling,
            };
            let group = |(&b, targets): (&Tensor, &&[(usize, usize, usize, f32)])| ops::LowRankGroup {
                b,
                targets: targets.iter().map(target).collect(),
            };
            let groups = t[3..].iter().zip(groups).map(group).collect();
            ops::lora(g, t[0], &Linear::new(t[1], None), &ops::LowRank { a: t[2], groups, dropout: share })
        },
        |v| reference::lora(v, inputs, groups, share),
    )
}

/// Causal and full attention, with separate and shared key and value heads, with padding and dropout, narrow and wide.
fn attention(bench: &mut Bench) -> Result<()> {
    let form = Attention { heads: 2, key_value_heads: 2, head_size: 16, causal: true, dropout: 0.0 };
    let full = Attention { heads: 4, key_value_heads: 2, head_size: 20, causal: false, dropout: 0.2 };
    for (form, lengths, length) in [
        (form, &[9, 5][..], 9),
        (Attention { heads: 4, ..form }, &[71], 71),
        (Attention { heads: 3, key_value_heads: 1, ..form }, &[0, 3], 3),
        (full, &[11, 8, 1], 11),
        (full, &[71, 66], 71),
        (Attention { heads: 3, key_value_heads: 1, head_size: 64, ..form }, &[19], 19),
        (Attention { heads: 1, key_value_heads: 1, head_size: 128, ..form }, &[7], 7),
    ] {
        let width = (form.heads + 2 * form.key_value_heads) * form.head_size;
        let mut qkv = Array::input(&[lengths.len(), length, width as usize], &mut Random(10));
        qkv.values.iter_mut().for_each(|v| *v *= 2.0);
        let ends: Vec<u32> = lengths.iter().map(|&l| l as u32).collect();
        bench.case(
            &format!("{form:?}, lengths {lengths:?} of {length}"),
            &[qkv, Array::whole(&ends, &[ends.len()])],
            form.heads == 2,
            |g, t| ops::attention(g, t[0], t[1], form),
            |v| reference::attention(&v[0], lengths, length, &form, 1),
        )?;
    }
    Ok(())
}

/// Prompts in chunks, then decoding token by token.
fn cached(bench: &mut Bench) -> Result<()> {
    let form = Attention { heads: 4, key_value_heads: 2, head_size: 8, causal: true, dropout: 0.0 };
    for (form, chunks, length) in [
        (form, &[8, 8, 2][..], 21),
        (Attention { heads: 3, key_value_heads: 1, ..form }, &[8, 8, 8, 8, 8, 8, 8, 8, 8], 75),
        (Attention { head_size: 64, ..form }, &[8, 5], 16),
        (Attention { heads: 2, key_value_heads: 1, head_size: 128, ..form }, &[8], 10),
    ] {
        let outcome = cached_attention(bench.device, bench.traits, form, chunks, length, bench.tolerance)?;
        bench.add(outcome);
    }
    Ok(())
}

/// LayerNorm and RMSNorm: of x alone, and of a sum that is also a result.
fn norm(bench: &mut Bench) -> Result<()> {
    let sum = |x: &[f64], y: &[f64]| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x + y).collect() };
    for (with_bias, (rows, hidden)) in [(3, 257), (130, 12)].map(|size| [(true, size), (false, size)]).into_iter().flatten() {
        let mut random = Random(6);
        let shapes = [&[rows, hidden][..], &[rows, hidden]];
        let mut arrays = shapes.map(|shape| Array::input(shape, &mut random)).to_vec();
        arrays.extend((0..1 + usize::from(with_bias)).map(|_| Array::weight(&[hidden], &mut random)));
        let layer = |t: &[Tensor]| Norm { weight: t[2], bias: t.get(3).copied(), epsilon: EPSILON };
        let normed = |s: &[f64], v: &[Vec<f64>]| reference::norm(s, &v[2], v.get(3).map(Vec::as_slice), EPSILON);
        let name = format!("{} {rows}×{hidden}", if with_bias { "LayerNorm" } else { "RMSNorm" });
        bench.case(&name, &arrays, true, |g, t| ops::norm(g, t[0], &layer(t)), |v| normed(&v[0], v))?;
        // The two results are used differently, so that their gradients differ.
        bench.case(
            &format!("sum and {name}"),
            &arrays,
            false,
            |g, t| {
                let (s, n) = ops::residual_norm(g, t[0], t[1], &layer(t));
                let s = ops::activation(g, s, Activation::Tanh);
                ops::add(g, s, n)
            },
            |v| {
                let s = sum(&v[0], &v[1]);
                sum(&s.iter().map(|s| s.tanh()).collect::<Vec<_>>(), &normed(&s, v))
            },
        )?;
    }
    Ok(())
}

fn head_norm(bench: &mut Bench) -> Result<()> {
    for (batch, length, heads, shared, size, kind) in
        [(2, 9, 4, 2, 16, Kind::Weight), (1, 5, 3, 1, 64, Kind::Weight), (1, 67, 2, 1, 20, FROZEN)]
    {
        let mut random = Random(13);
        let width = (heads + 2 * shared) * size;
        let arrays = [(Kind::Input, &[batch, length, width][..]), (kind, &[size]), (kind, &[size])]
            .map(|(kind, s)| Array::new(kind, s, &mut random));
        bench.case(
            &format!("({batch}, {length}), {heads} and {shared} heads of {size}"),
            &arrays,
            length == 9,
            |g, t| {
                let (heads, key_value_heads) = (heads as u32, shared as u32);
                ops::head_norm(g, t[0], &HeadNorm { heads, key_value_heads, query_weight: t[1], key_weight: t[2], epsilon: EPSILON })
            },
            |v| reference::head_norm(&v[0], [&v[1], &v[2]], heads, shared, EPSILON),
        )?;
    }
    Ok(())
}

/// Both pairings, over whole heads and parts of them, and at large positions too.
fn rope(bench: &mut Bench) -> Result<()> {
    let cases = [(&[0, 0][..], 9, 16, 16), (&[0, 8187], 5, 64, 64), (&[5, 0, 2], 7, 20, 6)];
    for (pairs, (starts, length, size, rotary)) in [RopePairs::Halves, RopePairs::Adjacent].into_iter().flat_map(|p| cases.map(|c| (p, c)))
    {
        let frequencies = ops::rope_frequencies(10000.0, rotary, &RopeScaling::None);
        let (heads, shared) = (3, 1);
        let positions = starts.iter().max().map_or(0, |last| last + length);
        let arrays = [
            Array::input(&[starts.len(), length as usize, ((heads + 2 * shared) * size) as usize], &mut Random(11)),
            Array { shape: vec![positions as usize, rotary as usize], kind: FROZEN, values: ops::rope_table(&frequencies, positions) },
            Array::whole(starts, &[starts.len()]),
        ];
        let (length, key_value_heads) = (length as usize, shared);
        let turn = Turn { starts, length, heads, key_value_heads, head_size: size, pairs, frequencies: &frequencies };
        bench.case(
            &format!("{starts:?} + {length}, {rotary} of {size} rotated, {pairs:?}"),
            &arrays,
            rotary == 16,
            |g, t| ops::rope(g, t[0], Some(t[2]), &Rope { heads, key_value_heads, head_size: size, pairs, table: t[1] }),
            |v| reference::rope(&v[0], &turn),
        )?;
    }
    Ok(())
}

fn activation(bench: &mut Bench) -> Result<()> {
    for (kind, name) in Activation::ALL {
        let mut x = Array::input(&[257], &mut Random(1));
        x.values.iter_mut().for_each(|v| *v *= 5.0);
        let want = |v: &[Vec<f64>]| v[0].iter().map(|&x| reference::activation(kind, x)).collect();
        bench.case(name, &[x], false, |g, t| ops::activation(g, t[0], kind), want)?;
    }
    Ok(())
}

fn gated(bench: &mut Bench) -> Result<()> {
    for (kind, rows, inner) in [(Activation::Silu, 3, 257), (Activation::GeluNew, 13, 64)] {
        let mut x = Array::input(&[rows, 2 * inner], &mut Random(12));
        x.values.iter_mut().for_each(|v| *v *= 3.0);
        let name = format!("{rows}×{inner} {}", kind.name());
        bench.case(&name, &[x], true, |g, t| ops::gated(g, t[0], kind), |v| reference::gated(&v[0], inner, kind))?;
    }
    Ok(())
}

/// The attention of a fusion.
fn fusion(bench: &mut Bench) -> Result<()> {
    let record = |g: &mut Graph, t: &[Tensor]| {
        let outputs = ops::collected(g, &t[1..]);
        ops::fusion(g, t[0], outputs, outputs, 0.0)
    };
    for (hidden, count) in [(7, 3), (64, 2)] {
        let mut random = Random(12);
        let arrays: Vec<_> = (0..=count).map(|_| Array::input(&[13, hidden], &mut random)).collect();
        bench.case(&format!("{count} adapters, {hidden} wide"), &arrays, true, record, |v| reference::fusion(&v[0], &v[1..], hidden))?;
    }
    Ok(())
}

/// Halves of rows, taken and added to.
fn halves(bench: &mut Bench) -> Result<()> {
    let record = |g: &mut Graph, t: &[Tensor]| {
        let taken = ops::half_of(g, t[0], Half::Second);
        ops::add_to_half(g, t[0], taken, Half::First, -0.5)
    };
    for width in [7, 64] {
        let x = Array::input(&[13, 2 * width], &mut Random(12));
        let want = |v: &[Vec<f64>]| reference::add_halves(&v[0], width, [Half::First, Half::Second], -0.5);
        bench.case(&format!("{width} wide"), &[x], true, record, want)?;
    }
    Ok(())
}

/// Masks of single elements and of whole sequences must match the generator exactly.
fn dropout(bench: &mut Bench) -> Result<()> {
    let mask = |i: usize, width: usize, whole: bool, p: f64| {
        let column = if whole { 0 } else { i % width };
        reference::dropout_factor((i / width) as u32, column as u32, 1, p)
    };
    let arrays = [Array::input(&[37, 11], &mut Random(8))];
    let want = |v: &[Vec<f64>]| v[0].iter().enumerate().map(|(i, x)| x * (1.0 + mask(i, 11, false, 0.3))).collect();
    let record = |g: &mut Graph, t: &[Tensor]| {
        let dropped = ops::dropout(g, t[0], 0.3);
        ops::add(g, dropped, t[0])
    };
    bench.case("elements", &arrays, false, record, want)?;
    let arrays = [Array::input(&[9, 3, 5], &mut Random(9))];
    let want = |v: &[Vec<f64>]| v[0].iter().enumerate().map(|(i, x)| x * mask(i, 15, true, 0.5)).collect();
    bench.case("sequences", &arrays, false, |g, t| ops::stochastic_depth(g, t[0], 0.5), want)
}

/// Trained factors, whose gradients are sums over rows, and a constant.
fn scale(bench: &mut Bench) -> Result<()> {
    for columns in [1, 7] {
        let mut random = Random(11);
        let arrays = [Array::input(&[2, 150, 7], &mut random), Array::weight(&[columns], &mut random)];
        let want = |v: &[Vec<f64>]| v[0].iter().enumerate().map(|(i, x)| x * v[1][i % columns]).collect();
        bench.case(&format!("{columns} factors"), &arrays, true, |g, t| ops::scale(g, t[0], t[1]), want)?;
    }
    let arrays = [Array::input(&[5, 7], &mut Random(12))];
    bench.case("a constant", &arrays, true, |g, t| ops::multiply(g, t[0], 2.5), |v| v[0].iter().map(|x| 2.5 * x).collect())
}

/// A trainable table, and frozen ones in every format.
fn embedding(bench: &mut Bench) -> Result<()> {
    let tokens = [4u32, 0, 4, 2, 10, 4];
    let mut order: Vec<u32> = (0..6).collect();
    order.sort_by_key(|&i| tokens[i as usize]);
    for format in GgmlType::ALL {
        let mut random = Random(12);
        let hidden = if format.block_len() == 1 { 7 } else { format.block_len() };
        let shape = [11, hidden];
        let trains = format == GgmlType::F32;
        let table = match trains {
            true => Array::weight(&shape, &mut random),
            false if format.block_len() == 1 => Array::new(Kind::Frozen(format.dtype()), &shape, &mut random),
            false => Array::blocks(format, &shape, &mut random),
        };
        bench.case(
            format.name(),
            &[table, Array::whole(&tokens, &[2, 3]), Array::whole(&order, &[6])],
            trains,
            |g, t| ops::embedding(g, t[1], t[0], trains.then_some(t[2])),
            |v| tokens.iter().flat_map(|&t| v[0][t as usize * hidden..][..hidden].to_vec()).collect(),
        )?;
    }
    Ok(())
}

/// Positions from 0 and from a later row with a trainable table, and from a start.
fn positions(bench: &mut Bench) -> Result<()> {
    let (batch, length, hidden) = (3, 7, 5);
    for (row, start) in [(0, None), (2, None), (0, Some(2)), (1, Some(1))] {
        let mut random = Random(17);
        let table = if start.is_some() { Kind::Frozen(DType::F16) } else { Kind::Weight };
        let arrays = [
            Array::input(&[batch, length, hidden], &mut random),
            Array::new(table, &[9, hidden], &mut random),
            Array::whole(&[start.unwrap_or(0)], &[1]),
        ];
        let first = (row + start.unwrap_or(0)) as usize;
        bench.case(
            &format!("from {row} and {start:?}"),
            &arrays,
            start.is_none(),
            |g, t| ops::positions(g, t[0], t[1], row, start.map(|_| t[2])),
            |v| v[0].iter().enumerate().map(|(i, x)| x + v[1][(first + i / hidden % length) * hidden + i % hidden]).collect(),
        )?;
    }
    Ok(())
}
