//! LayerNorm, with the residual sum before it.

use super::matmul::{add_partials, rows_per_chunk};
use super::{row_lanes, sum};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(Params { rows: u32, columns: u32, epsilon: f32, has_residual: u32, has_addend: u32, chunk: u32 });

/// The weights of a LayerNorm (Ba, Kiros, Hinton 2016).
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// The scale (hidden).
    pub weight: Tensor,
    /// The shift (hidden).
    pub bias: Tensor,
    /// Added to the variance.
    pub epsilon: f32,
}

/// LN(x), x (…, hidden).
pub fn norm(g: &mut Graph, x: Tensor, layer: &Norm) -> Tensor {
    record(g, x, None, layer)
}

/// LN(x + residual), both (…, hidden).
pub fn add_norm(g: &mut Graph, x: Tensor, residual: Tensor, layer: &Norm) -> Tensor {
    assert_eq!(g.shape(x), g.shape(residual), "add_norm takes two tensors of one shape");
    record(g, x, Some(residual), layer)
}

fn record(g: &mut Graph, x: Tensor, residual: Option<Tensor>, layer: &Norm) -> Tensor {
    let layer = *layer;
    let (rows, columns) = (g.shape(x).rows(), g.shape(x).last());
    assert_eq!(g.shape(layer.weight).last(), columns, "norm: x is {}, the weight {}", g.shape(x), g.shape(layer.weight));
    let lanes = row_lanes(g);
    let p = Params { rows, columns, epsilon: layer.epsilon, has_residual: residual.is_some() as u32, has_addend: 0, chunk: 0 };
    let (s, stats, y) = (g.like("s", x), g.activation("stats", [rows, 2]), g.like("norm", x));
    let kernel = Kernel::new("norm", "forward").with("LANES", lanes);
    let arguments = [read(x), read(residual.unwrap_or(x)), read(layer.weight), read(layer.bias), write(s), write(stats), write(y)];
    let groups = rows.div_ceil(kernel.constant("ROWS"));
    g.dispatch(kernel, p, arguments, [groups, 1, 1]);

    let inputs: Vec<_> = [Some(x), residual, Some(layer.weight), Some(layer.bias)].into_iter().flatten().collect();
    g.on_backward(y, &inputs, move |g, dy| {
        let gradients = g.weight_gradient(layer.weight).zip(g.weight_gradient(layer.bias));
        if let Some((dweight, dbias)) = gradients {
            let chunk = rows_per_chunk(rows);
            let chunks = rows.div_ceil(chunk);
            let partials = [g.activation("dweight", [chunks, columns]), g.activation("dbias", [chunks, columns])];
            let kernel = Kernel::new("norm", "weight_gradient").with("LANES", lanes);
            let arguments = [read(dy), read(s), read(stats), write(partials[0]), write(partials[1])];
            g.dispatch(kernel, Params { chunk, ..p }, arguments, [columns.div_ceil(64), chunks, 1]);
            add_partials(g, partials[0], dweight);
            add_partials(g, partials[1], dbias);
        }
        // x and the residual have the same gradient. The kernel adds what x has already; the residual gets a tensor of its own
        // only if it has something too.
        let mut ds = None;
        for input in [Some(x), residual].into_iter().flatten() {
            g.contribute(input, |g, before| match (ds, before) {
                (Some(ds), before) => sum(g, before, ds),
                (None, before) => {
                    let out = g.like("ds", x);
                    let kernel = Kernel::new("norm", "backward").with("LANES", lanes);
                    let has_addend = before.is_some() as u32;
                    let arguments = [read(dy), read(s), read(layer.weight), read(stats), read(before.unwrap_or(dy)), write(out)];
                    g.dispatch(kernel, Params { has_addend, ..p }, arguments, [groups, 1, 1]);
                    if before.is_none() {
                        ds = Some(out);
                    }
                    out
                }
            });
        }
    });
    y
}
