//! LayerNorm and RMSNorm, with the residual sum before them.

use super::reduce::{add_partials, rows_per_chunk};
use super::{row_threads, sum, vector};
use crate::graph::{Argument, Graph, Kernel, Tensor, read, write};

crate::params!(Params { rows: u32, columns: u32, epsilon: f32, has_addend: u32, chunk: u32 });

/// The weights of a LayerNorm (Ba, Kiros, Hinton 2016), or of an RMSNorm (Zhang, Sennrich 2019), which has no bias and subtracts no mean.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// The scale (hidden).
    pub weight: Tensor,
    /// The shift (hidden); `None` makes it an RMSNorm.
    pub bias: Option<Tensor>,
    /// Added to the variance, or to the mean square.
    pub epsilon: f32,
}

/// x (…, hidden) normalised over its last axis: (x - mean(x)) / √(var(x) + epsilon) · weight + bias as LayerNorm,
/// x / √(mean(x²) + epsilon) · weight as RMSNorm.
pub fn norm(g: &mut Graph, x: Tensor, layer: &Norm) -> Tensor {
    record(g, x, None, layer)
}

/// The norm of x + residual, both (…, hidden): what follows a sublayer of a post-norm block.
pub fn add_norm(g: &mut Graph, x: Tensor, residual: Tensor, layer: &Norm) -> Tensor {
    residual_norm(g, x, residual, layer).1
}

/// s = x + residual and the norm of s, all (…, hidden): what precedes a sublayer of a pre-norm block, where s continues as the residual
/// stream. One kernel computes both, and one kernel adds the gradient of s to that of the norm.
pub fn residual_norm(g: &mut Graph, x: Tensor, residual: Tensor, layer: &Norm) -> (Tensor, Tensor) {
    assert_eq!(g.shape(x), g.shape(residual), "a norm of a sum takes two tensors of one shape");
    let s = g.single("s", g.shape(x).clone());
    // The tape runs backward: the norm's part comes before this one and leaves the whole gradient of s, which is also that of both terms.
    g.on_backward(s, &[x, residual], move |g, ds| {
        for term in [x, residual] {
            g.contribute(term, |g, before| sum(g, before, ds));
        }
    });
    let y = record(g, s, Some([x, residual]), layer);
    (s, y)
}

/// The norm of `s`, which the same kernel computes first if it is the sum of `terms`.
fn record(g: &mut Graph, s: Tensor, terms: Option<[Tensor; 2]>, layer: &Norm) -> Tensor {
    let layer = *layer;
    let (rows, columns) = (g.shape(s).rows(), g.shape(s).last());
    assert_eq!(g.shape(layer.weight).last(), columns, "norm: x is {}, the weight {}", g.shape(s), g.shape(layer.weight));
    let (threads, vector) = (row_threads(g.traits()), vector(columns));
    let kernel =
        move |entry| Kernel::new("norm", entry).with("VECTOR", vector).with("ROW_THREADS", threads).with("RMS", layer.bias.is_none());
    let p = Params { rows, columns: columns / vector, epsilon: layer.epsilon, has_addend: 0, chunk: 0 };
    let (stats, y) = (g.single("stats", [rows, 2]), g.activation("norm", g.shape(s).clone()));
    let mut arguments: Vec<Argument> = terms.map_or(vec![s], Vec::from).into_iter().map(read).collect();
    arguments.push(read(layer.weight));
    arguments.extend(layer.bias.map(read));
    arguments.extend(terms.map(|_| write(s)));
    arguments.extend([write(stats), write(y)]);
    let forward = kernel("forward").with("SUM", terms.is_some());
    let groups = [rows.div_ceil(forward.constant("WORKGROUP_ROWS")), 1, 1];
    g.dispatch(forward, p, arguments, groups);

    let inputs: Vec<_> = [Some(s), Some(layer.weight), layer.bias].into_iter().flatten().collect();
    g.on_backward(y, &inputs, move |g, dy| {
        let (dweight, dbias) = (g.weight_gradient(layer.weight), layer.bias.and_then(|b| g.weight_gradient(b)));
        if dweight.is_some() || dbias.is_some() {
            let chunk = rows_per_chunk(g.traits(), rows);
            let chunks = rows.div_ceil(chunk);
            let weight_partials = g.single("dweight", [chunks, columns]);
            let bias_partials = layer.bias.map(|_| g.single("dbias", [chunks, columns]));
            let mut arguments: Vec<Argument> = vec![read(dy), read(s), read(stats), write(weight_partials)];
            arguments.extend(bias_partials.map(write));
            let kernel = kernel("weight_gradient");
            let groups = [p.columns.div_ceil(kernel.constant("WORKGROUP")), chunks, 1];
            g.dispatch(kernel, Params { chunk, ..p }, arguments, groups);
            for (partials, gradient) in [(Some(weight_partials), dweight), (bias_partials, dbias)] {
                if let Some((partials, gradient)) = partials.zip(gradient) {
                    add_partials(g, partials, gradient);
                }
            }
        }
        g.contribute(s, |g, before| {
            let ds = g.like("ds", s);
            let has_addend = before.is_some() as u32;
            let arguments = [read(dy), read(s), read(layer.weight), read(stats), read(before.unwrap_or(dy)), write(ds)];
            g.dispatch(kernel("backward"), Params { has_addend, ..p }, arguments, groups);
            ds
        });
    });
    y
}
