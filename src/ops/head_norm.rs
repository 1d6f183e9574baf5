//! RMSNorm of each query and key head, as in Qwen3.

use super::reduce::{add_partials, rows_per_chunk};
use super::{qkv_shape, row_threads, sum, vector};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(Params { rows: u32, parts: u32, heads: u32, normed: u32, size: u32, epsilon: f32, chunk: u32 });

/// The weights and configuration of a norm of heads.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub key_value_heads: u32,
    /// The scale that all query heads share (head_size).
    pub query_weight: Tensor,
    /// The scale that all key heads share (head_size).
    pub key_weight: Tensor,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Normalises each query and key head of qkv (batch, length, (heads + 2·key_value_heads)·head_size), queries first, then keys, then
/// values, to x / √(mean(x²) + epsilon) · weight (RMSNorm: Zhang, Sennrich 2019). Values are copied.
pub fn head_norm(g: &mut Graph, qkv: Tensor, layer: &HeadNorm) -> Tensor {
    let HeadNorm { heads, key_value_heads, query_weight, key_weight, epsilon } = *layer;
    let size = g.shape(query_weight).last();
    assert_eq!(g.shape(key_weight), g.shape(query_weight), "head_norm takes two weights of one shape");
    qkv_shape(g, "head_norm", qkv, heads, key_value_heads, size);
    let (tokens, parts, normed) = (g.shape(qkv).rows(), heads + 2 * key_value_heads, heads + key_value_heads);
    let (threads, vector) = (row_threads(g.traits()), vector(size));
    let kernel = move |entry| Kernel::new("head_norm", entry).with("VECTOR", vector).with("ROW_THREADS", threads);
    let p = Params { rows: tokens.saturating_mul(parts), parts, heads, normed, size: size / vector, epsilon, chunk: 0 };
    let groups = [p.rows.div_ceil(kernel("forward").constant("WORKGROUP_ROWS")), 1, 1];
    let (scales, y) = (g.single("scales", [tokens, parts]), g.like("head_norm", qkv));
    g.dispatch(kernel("forward"), p, [read(qkv), read(query_weight), read(key_weight), write(scales), write(y)], groups);

    g.on_backward(y, &[qkv, query_weight, key_weight], move |g, dy| {
        let gradients = [g.weight_gradient(query_weight), g.weight_gradient(key_weight)];
        if gradients.iter().any(Option::is_some) {
            let chunk = rows_per_chunk(g.traits(), tokens);
            let chunks = tokens.div_ceil(chunk);
            let partials = [("dquery", heads), ("dkey", key_value_heads)].map(|(name, count)| g.single(name, [chunks, count, size]));
            let arguments = [read(qkv), read(scales), read(dy), write(partials[0]), write(partials[1])];
            let kernel = kernel("weight_gradient");
            let groups = [(normed * p.size).div_ceil(kernel.constant("WORKGROUP")), chunks, 1];
            g.dispatch(kernel, Params { chunk, ..p }, arguments, groups);
            for (partials, gradient) in partials.into_iter().zip(gradients) {
                if let Some(gradient) = gradient {
                    add_partials(g, partials, gradient);
                }
            }
        }
        g.contribute(qkv, |g, before| {
            let dx = g.like("dx", qkv);
            let weights = [read(query_weight), read(key_weight)];
            let arguments = [read(qkv), weights[0], weights[1], read(scales), read(dy), write(dx)];
            g.dispatch(kernel("backward"), p, arguments, groups);
            sum(g, before, dx)
        });
    });
    y
}
