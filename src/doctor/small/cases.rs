//! One small case of each op, which records the kernel that is to be compared.

use super::super::Bench;
use super::super::array::{Array, Kind, Random, random_blocks};
use super::super::case::Case;
use super::super::reference::{self, Turn};
use super::super::special::{Loss, head_loss};
use super::{FROZEN, format_of};
use crate::error::Result;
use crate::graph::wgsl::Constant;
use crate::graph::{Graph, Kernel, Tensor};
use crate::ops::{
    self, Activation, Adapter, Attention, FeedForward, Half, HeadNorm, Linear, Norm, Pointwise, Pooling, Rope, RopePairs, RopeScaling,
};
use crate::weights::{GgmlType, repack};

const EPSILON: f32 = 0.03125;
/// The rows of a frozen matrix repeat after this many, which no tile divides: so a reference needs few of them, and still no row or column
/// of a product can be taken for another.
const PERIOD: usize = 15;

/// At least `least` columns, such that rows in this format are whole groups of blocks, however many there are.
fn columns(least: usize, format: GgmlType) -> usize {
    least.next_multiple_of(format.dtype().group_len() as usize)
}

/// A frozen matrix of random values, whose rows repeat.
fn matrix(format: GgmlType, [outputs, inputs]: [usize; 2], random: &mut Random) -> Array {
    let shape = [PERIOD.min(outputs), inputs];
    let mut matrix = match format.block_len() {
        1 => Array::new(Kind::Frozen(format.dtype()), &shape, random),
        _ => Array::blocks(format, &shape, random),
    };
    let row = matrix.values.len() / shape[0];
    matrix.values = matrix.values.iter().copied().cycle().take(outputs * row).collect();
    matrix.shape[0] = outputs;
    matrix
}

/// The same with small values, for ops whose results must stay within f16, and softmax's far from a step function.
fn small_matrix(format: GgmlType, [outputs, inputs]: [usize; 2], random: &mut Random) -> Array {
    let mut matrix = matrix(format, [outputs, inputs], random);
    if format.block_len() == 1 {
        matrix.values.iter_mut().for_each(|v| *v /= 8.0);
    } else {
        let count = outputs * inputs / format.block_len();
        let scale = |random: &mut Random| half::f16::from_f64((random.uniform() - 0.5) / 1024.0).to_bits();
        matrix.values = bytemuck::pod_collect_to_vec(&repack(format, &random_blocks(format, count, random, scale)));
    }
    matrix
}

/// A product with one matrix.
#[derive(Clone, Copy)]
pub(super) struct Product {
    format: GgmlType,
    pub activation: Option<Activation>,
    /// Whether the matrix trains.
    trained: bool,
    /// Whether the gradient of the input is needed.
    backward: bool,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Product {
    pub fn of(kernel: &Kernel, trains: bool) -> Product {
        let format = format_of(kernel);
        let is_act = kernel.constants.contains(&("EPILOGUE", Constant::Word("act")));
        let activation = is_act.then(|| Activation::ALL[kernel.constant("ACTIVATION") as usize].0);
        let trained = kernel.entry == "weight_gradient";
        let number = |name: &str| match kernel.constants.iter().find(|(n, _)| *n == name) {
            Some((_, Constant::Number(number))) => *number as usize,
            _ => 0,
        };
        // Several tiles, the last of them only partly filled.
        let [mut rows, mut inputs, mut outputs] = [69, columns(36, format), 76];
        match kernel.file {
            "matmul_any" => [inputs, outputs] = [if format.block_len() == 1 { 35 } else { columns(1, format) }, 7],
            "matmul_row" => rows = 1,
            "matmul_cpu" if !trained && number("TILE_ROWS") < 32 => rows = number("TILE_ROWS") - 1,
            // Only large products have large tiles.
            "matmul_gpu" if number("QUADS") > 1 => {
                [rows, inputs, outputs] = match kernel.entry {
                    "forward" => [2060, columns(20, format), 2052],
                    "input_gradient" => [2060, 2048, 20],
                    _ => [20, 2052, 2060],
                }
            }
            _ if trained && number("ACCUMULATE") == 1 => rows = 37,
            _ => {}
        }
        Product { format, activation, trained, backward: trains && rows > 1, rows, inputs, outputs }
    }

    pub fn words(&self, entry: &str) -> String {
        let Product { format, activation, trained, backward, rows, inputs, outputs } = self;
        let activation = activation.map_or("", Activation::name);
        // Forward and backward of a frozen matrix are one comparison.
        let entry = if *trained || entry == "weight_gradient" { "trained" } else { "frozen" };
        format!("{} {entry} {rows}×{inputs}→{outputs}{activation}, gradients {backward}", format.dtype().word())
    }

    pub fn run(&self, bench: &mut Bench) -> Result<()> {
        let Product { format, activation, trained, backward, rows, inputs, outputs } = *self;
        let mut random = Random(23);
        let x = Array::new(if backward { Kind::Input } else { FROZEN }, &[rows, inputs], &mut random);
        let mut weight = matrix(format, [outputs, inputs], &mut random);
        if trained {
            weight.kind = Kind::Weight;
        }
        let (name, mut arrays) = (format!("{rows}×{inputs}→{outputs}"), vec![x, weight]);
        if let Some(kind) = activation {
            let record = |g: &mut Graph, t: &[Tensor]| ops::linear_activated(g, t[0], &Linear::new(t[1], None), kind);
            let want = |v: &[Vec<f64>]| {
                let y = reference::linear(&v[0], &v[1], None, inputs);
                y.iter().map(|&y| reference::activation(kind, y)).collect()
            };
            return bench.case(&format!("{name} with {}", kind.name()), &arrays, false, record, want);
        }
        if trained {
            arrays.push(Array::weight(&[outputs], &mut random));
        }
        let case = Case {
            name: &name,
            device: bench.device,
            unchecked: None,
            traits: bench.traits,
            arrays: &arrays,
            tolerance: bench.tolerance,
            half: bench.half,
            twice: false,
        };
        let period = PERIOD.min(outputs);
        let outcome = case.run_exact(
            &|g, t| ops::linear(g, t[0], &Linear::new(t[1], t.get(2).copied())),
            &|v| {
                let narrow = reference::linear(&v[0], &v[1][..period * inputs], None, inputs);
                let bias = |column: usize| v.get(2).map_or(0.0, |bias| bias[column]);
                narrow.chunks(period).flat_map(|row| (0..outputs).map(|j| row[j % period] + bias(j))).collect()
            },
            &|v, dy| {
                let narrow = dy.chunks(outputs).flat_map(|row| (0..period).map(|j| row[j..].iter().step_by(period).sum()));
                let dx = reference::input_gradient(&v[1][..period * inputs], &narrow.collect::<Vec<f64>>(), inputs);
                let dw = if trained { reference::weight_gradient(&v[0], dy, inputs) } else { Vec::new() };
                vec![dx, dw, (0..outputs).map(|j| dy[j..].iter().step_by(outputs).sum()).collect()]
            },
        )?;
        bench.add(outcome);
        Ok(())
    }
}

/// Queries, keys and values of two heads that share one, rotated as they are projected.
pub(super) fn self_attention(
    bench: &mut Bench,
    format: GgmlType,
    [head_size, rotary]: [u32; 2],
    pairs: RopePairs,
    trains: bool,
) -> Result<()> {
    let (length, hidden, heads, key_value_heads) = (5, columns(36, format), 2, 1);
    let frequencies = ops::rope_frequencies(100.0, rotary, &RopeScaling::None);
    let mut random = Random(15);
    let table = ops::rope_table(&frequencies, length);
    let arrays = [
        Array::new(if trains { Kind::Input } else { FROZEN }, &[1, length as usize, hidden], &mut random),
        small_matrix(format, [((heads + 2 * key_value_heads) * head_size) as usize, hidden], &mut random),
        Array { shape: vec![length as usize, rotary as usize], kind: FROZEN, values: table },
        Array::whole(&[length], &[1]),
    ];
    let form = Attention { heads, key_value_heads, head_size, causal: true, dropout: 0.0 };
    let length = length as usize;
    let turn = Turn { starts: &[0], length, heads, key_value_heads, head_size, pairs, frequencies: &frequencies };
    bench.case(
        &format!("{length}×{hidden}, {form:?}"),
        &arrays,
        false,
        |g, t| {
            let rotation = Rope { heads, key_value_heads, head_size, pairs, table: t[2] };
            ops::self_attention(g, t[0], &Linear::new(t[1], None), &rotation, t[3], form)
        },
        |v| reference::self_attention(&v[0], &v[1], None, &turn, &[length], &form),
    )
}

/// A feed-forward layer whose matrices are both in this format.
pub(super) fn feed_forward(bench: &mut Bench, format: GgmlType, activation: Activation, gated: bool, trains: bool) -> Result<()> {
    let (rows, width) = (5, columns(40, format));
    let mut random = Random(14);
    let arrays = [
        Array::new(if trains { Kind::Input } else { FROZEN }, &[rows, width], &mut random),
        small_matrix(format, [if gated { 2 * width } else { width }, width], &mut random),
        small_matrix(format, [width, width], &mut random),
    ];
    bench.case(
        &format!("{rows}×{width}"),
        &arrays,
        false,
        |g, t| {
            let (input, output) = (Linear::new(t[1], None), Linear::new(t[2], None));
            ops::feed_forward(g, t[0], &FeedForward { input: &input, output: &output, activation, gated })
        },
        |v| reference::feed_forward(v, width, activation, gated),
    )
}

/// Two sequences, one of them padded, over the edge of a tile.
pub(super) fn attention(bench: &mut Bench, form: Attention, trains: bool) -> Result<()> {
    let (lengths, length) = ([37, 21], 37);
    let width = (form.heads + 2 * form.key_value_heads) * form.head_size;
    let mut qkv = Array::new(if trains { Kind::Input } else { FROZEN }, &[lengths.len(), length, width as usize], &mut Random(10));
    qkv.values.iter_mut().for_each(|v| *v *= 2.0);
    bench.case(
        &format!("{form:?}, lengths {lengths:?}"),
        &[qkv, Array::whole(&lengths.map(|l| l as u32), &[lengths.len()])],
        false,
        |g, t| ops::attention(g, t[0], t[1], form),
        |v| reference::attention(&v[0], &lengths, length, &form, 1),
    )
}

/// A fused adapter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bottleneck {
    pub hidden: usize,
    pub width: usize,
    pub activation: Activation,
    pub dropout: f32,
    pub input: Kind,
}

impl Bottleneck {
    pub fn run(&self, bench: &mut Bench) -> Result<()> {
        let Bottleneck { hidden, width, activation, dropout, input } = *self;
        let mut random = Random(9);
        let mut arrays = [
            Array::new(input, &[19, hidden], &mut random),
            Array::weight(&[width, hidden], &mut random),
            Array::weight(&[hidden, width], &mut random),
            Array::weight(&[width], &mut random),
            Array::weight(&[hidden], &mut random),
        ];
        // Otherwise the sums are so large that σ is a step function.
        for array in &mut arrays[1..3] {
            let by = (array.shape[1] as f32).sqrt();
            array.values.iter_mut().for_each(|v| *v /= by);
        }
        let record = |g: &mut Graph, t: &[Tensor]| {
            let layer = Adapter { down: t[1], up: t[2], biases: Some((t[3], t[4])), activation, scaling: 1.0, dropout };
            ops::adapter(g, t[0], &layer)
        };
        bench.case("19 rows", &arrays, false, record, |v| reference::adapter(v, hidden, activation, 1.0, dropout))
    }
}

pub(super) fn norm(bench: &mut Bench, rms: bool, sum: bool, hidden: usize, weight: Kind) -> Result<()> {
    let mut random = Random(6);
    let mut arrays = vec![Array::input(&[5, hidden], &mut random), Array::input(&[5, hidden], &mut random)];
    arrays.extend((0..2 - usize::from(rms)).map(|_| Array::new(weight, &[hidden], &mut random)));
    let record = |g: &mut Graph, t: &[Tensor]| {
        let layer = Norm { weight: t[2], bias: t.get(3).copied(), epsilon: EPSILON };
        if sum { ops::add_norm(g, t[0], t[1], &layer) } else { ops::norm(g, t[0], &layer) }
    };
    let want = |v: &[Vec<f64>]| {
        let s: Vec<_> = v[0].iter().zip(&v[1]).map(|(x, y)| if sum { x + y } else { *x }).collect();
        reference::norm(&s, &v[2], v.get(3).map(Vec::as_slice), EPSILON)
    };
    bench.case(&format!("5×{hidden}"), &arrays, false, record, want)
}

pub(super) fn head_norm(bench: &mut Bench, size: usize, weight: Kind) -> Result<()> {
    let (heads, shared) = (2, 1);
    let mut random = Random(13);
    let width = (heads + 2 * shared) * size;
    let arrays = [(Kind::Input, &[1, 5, width][..]), (weight, &[size]), (weight, &[size])].map(|(k, s)| Array::new(k, s, &mut random));
    let record = |g: &mut Graph, t: &[Tensor]| {
        let (heads, key_value_heads) = (heads as u32, shared as u32);
        ops::head_norm(g, t[0], &HeadNorm { heads, key_value_heads, query_weight: t[1], key_weight: t[2], epsilon: EPSILON })
    };
    bench.case("5 tokens", &arrays, false, record, |v| reference::head_norm(&v[0], [&v[1], &v[2]], heads, shared, EPSILON))
}

pub(super) fn rope(bench: &mut Bench, size: u32, rotary: u32, pairs: RopePairs) -> Result<()> {
    let (starts, length, heads, key_value_heads) = ([0, 3], 5, 2, 1);
    let frequencies = ops::rope_frequencies(10_000.0, rotary, &RopeScaling::None);
    let positions = 8;
    let arrays = [
        Array::input(&[2, length, ((heads + 2 * key_value_heads) * size) as usize], &mut Random(11)),
        Array { shape: vec![positions, rotary as usize], kind: FROZEN, values: ops::rope_table(&frequencies, positions as u32) },
        Array::whole(&starts, &[2]),
    ];
    let turn = Turn { starts: &starts, length, heads, key_value_heads, head_size: size, pairs, frequencies: &frequencies };
    let record =
        |g: &mut Graph, t: &[Tensor]| ops::rope(g, t[0], Some(t[2]), &Rope { heads, key_value_heads, head_size: size, pairs, table: t[1] });
    bench.case("5 tokens", &arrays, false, record, |v| reference::rope(&v[0], &turn))
}

pub(super) fn dropout(bench: &mut Bench, columns: usize, whole: bool) -> Result<()> {
    let p = 0.3f32;
    let mask = |i: usize| {
        let column = if whole { 0 } else { i % columns };
        reference::dropout_factor((i / columns) as u32, column as u32, 1, p.into())
    };
    let record = |g: &mut Graph, t: &[Tensor]| {
        if whole { ops::stochastic_depth(g, t[0], p) } else { ops::dropout(g, t[0], p) }
    };
    let want = |v: &[Vec<f64>]| v[0].iter().enumerate().map(|(i, x)| x * mask(i)).collect();
    bench.case("7 rows", &[Array::input(&[7, 1, columns], &mut Random(8))], false, record, want)
}

pub(super) fn fusion(bench: &mut Bench, hidden: usize) -> Result<()> {
    let record = |g: &mut Graph, t: &[Tensor]| {
        let outputs = ops::collected(g, &t[1..]);
        ops::fusion(g, t[0], outputs, outputs, 0.0)
    };
    let mut random = Random(12);
    let arrays = [(); 3].map(|()| Array::input(&[3, hidden], &mut random));
    bench.case("3 rows", &arrays, false, record, |v| reference::fusion(&v[0], &v[1..], hidden))
}

pub(super) fn halves(bench: &mut Bench, width: usize) -> Result<()> {
    let record = |g: &mut Graph, t: &[Tensor]| {
        let taken = ops::half_of(g, t[0], Half::First);
        ops::add_to_half(g, t[0], taken, Half::Second, -0.5)
    };
    let want = |v: &[Vec<f64>]| reference::add_halves(&v[0], width, [Half::Second, Half::First], -0.5);
    bench.case("3 rows", &[Array::input(&[3, 2 * width], &mut Random(12))], false, record, want)
}

pub(super) fn scale(bench: &mut Bench, learned: bool, columns: usize) -> Result<()> {
    let mut random = Random(11);
    let arrays = [Array::input(&[7, columns], &mut random), Array::weight(&[columns], &mut random)];
    let record = |g: &mut Graph, t: &[Tensor]| if learned { ops::scale(g, t[0], t[1]) } else { ops::multiply(g, t[0], 2.5) };
    let want = |v: &[Vec<f64>]| v[0].iter().enumerate().map(|(i, x)| x * if learned { v[1][i % columns] } else { 2.5 }).collect();
    bench.case("7 rows", &arrays, false, record, want)
}

pub(super) fn tokens(bench: &mut Bench, format: GgmlType, table: Kind) -> Result<()> {
    let tokens = [4u32, 0, 4, 2, 10, 4];
    let order = [1, 3, 0, 2, 5, 4];
    let hidden = columns(8, format);
    let mut rows = matrix(format, [11, hidden], &mut Random(12));
    rows.kind = table;
    bench.case(
        format.name(),
        &[rows, Array::whole(&tokens, &[2, 3]), Array::whole(&order, &[6])],
        false,
        |g, t| ops::embedding(g, t[1], t[0], (table == Kind::Weight).then_some(t[2])),
        |v| tokens.iter().flat_map(|&t| v[0][t as usize * hidden..][..hidden].to_vec()).collect(),
    )
}

pub(super) fn positions(bench: &mut Bench, table: Kind, start: bool) -> Result<()> {
    let (length, hidden, before) = (7, 8, u32::from(start));
    let mut random = Random(17);
    let arrays =
        [Array::input(&[2, length, hidden], &mut random), Array::new(table, &[9, hidden], &mut random), Array::whole(&[before], &[1])];
    let first = 1 + before as usize;
    let want = |v: &[Vec<f64>]| {
        let place = |i: usize| (first + i / hidden % length) * hidden + i % hidden;
        v[0].iter().enumerate().map(|(i, x)| x + v[1][place(i)]).collect()
    };
    bench.case("7 places", &arrays, false, |g, t| ops::positions(g, t[0], t[1], 1, start.then_some(t[2])), want)
}

pub(super) fn loss(bench: &mut Bench, head: GgmlType) -> Result<()> {
    let (rows, vocabulary, hidden) = (35, 67, columns(36, head));
    let mut random = Random(14);
    let mut targets: Vec<u32> = (0..rows).map(|_| random.below(vocabulary)).collect();
    targets[5] = crate::text::IGNORED;
    let arrays = [Array::input(&[rows, hidden], &mut random), matrix(head, [vocabulary as usize, hidden], &mut random)];
    let case = Loss { name: "67 tokens", arrays: &arrays, targets: &targets, tolerance: [bench.tolerance; 2], half: bench.half };
    let want = |v: &[Vec<f64>]| reference::cross_entropy(&v[0], &v[1], None, hidden, &targets);
    let outcome = case.run(bench.device, bench.traits, head_loss, want)?;
    bench.add(outcome);
    Ok(())
}

pub(in super::super) fn pointwise(bench: &mut Bench, len: usize, kind: Pointwise) -> Result<()> {
    let mut random = Random(15);
    let mut x = Array::input(&[len], &mut random);
    x.values.iter_mut().for_each(|v| *v *= 5.0);
    let mut targets: Vec<u32> = random.values(len).iter().map(|&t| t.abs().to_bits()).collect();
    targets[len / 2] = crate::text::IGNORED;
    let (name, arrays) = (format!("{len} of {kind:?}"), [x]);
    let case = Loss { name: &name, arrays: &arrays, targets: &targets, tolerance: [bench.tolerance; 2], half: false };
    let record = |g: &mut Graph, t: &[Tensor], targets| ops::pointwise_loss(g, t[0], targets, kind);
    let outcome = case.run(bench.device, bench.traits, record, |v| reference::pointwise_loss(&v[0], &targets, kind))?;
    bench.add(outcome);
    Ok(())
}

pub(in super::super) fn pooling(bench: &mut Bench, hidden: usize, pooling: Pooling) -> Result<()> {
    let (lengths, length) = ([5u32, 1, 3], 5);
    let arrays = [Array::input(&[3, length, hidden], &mut Random(18)), Array::whole(&lengths, &[3])];
    bench.case(
        &format!("3×{length}×{hidden}, {pooling:?}"),
        &arrays,
        true,
        |g, t| ops::pool(g, t[0], t[1], pooling),
        |v| reference::pool(&v[0], &lengths, length, hidden, pooling),
    )
}
