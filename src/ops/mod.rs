//! The operations that models are built from. Each file records the forward dispatches of one family and pushes its backward pass; most
//! have their kernels in the `.wgsl` file of the same name.
//!
//! To add an op: write `shaders/<family>/<op>.wgsl` and list it in `graph/wgsl.rs`; write `ops/<op>.rs`; write `tests/gpu/<op>.rs`,
//! which gives a forward in f64 and gets the comparison of values and gradients from the harness; and add it and its reference to [`crate::doctor`].

mod activation;
pub mod adapter;
mod attention;
mod cached_attention;
mod dropout;
mod embedding;
mod feed_forward;
mod fusion;
mod gated;
mod halves;
mod head_norm;
mod layer;
mod linear;
mod lora;
mod loss;
pub mod matmul;
mod norm;
pub mod optimizer;
mod pointwise_loss;
mod pooling;
mod product;
mod reduce;
mod rope;
mod scale;
mod self_attention;

pub use activation::{Activation, activation};
pub use adapter::{Adapter, adapter};
pub use attention::{Attention, attention};
pub use cached_attention::cached_attention;
pub use dropout::{Dropout, dropout, stochastic_depth};
pub use embedding::{embedding, positions};
pub use feed_forward::{FeedForward, feed_forward};
pub use fusion::{collected, fusion};
pub use gated::gated;
pub use halves::{Half, add_to_half, half_of};
pub use head_norm::{HeadNorm, head_norm};
pub use layer::{Linear, LowRank, LowRankGroup, LowRankTarget, MOST_TARGETS};
pub use linear::{linear, linear_activated};
pub use lora::lora;
pub use loss::cross_entropy;
pub use norm::{Norm, add_norm, norm, residual_norm};
pub use pointwise_loss::{Pointwise, pointwise_loss};
pub use pooling::{Pooling, pool};
pub use rope::{Rope, RopePairs, RopeScaling, rope, rope_frequencies, rope_table};
pub use scale::{multiply, scale};
pub use self_attention::self_attention;

use crate::graph::{Argument, DType, Graph, Kernel, MAX_ELEMENTS, Params, Tensor, Traits, read, write};

/// Workgroups for an elementwise kernel over `len` elements (`shaders/shared/grid.wgsl`).
fn flat(len: u64) -> [u32; 3] {
    [u32::try_from(len.div_ceil(64).max(1)).unwrap_or(u32::MAX), 1, 1]
}

/// The most dispatches that one op is split into, so that an absurd batch cannot make a recording outgrow memory.
const DISPATCHES: u64 = 256;

/// How many of an op's `parts`, each of which takes `operations`, go into one dispatch, so that it stays below
/// [`Traits::dispatch_operations`].
fn parts_per_dispatch(traits: &Traits, parts: u64, operations: u64) -> u64 {
    let allowed = traits.dispatch_operations / operations.max(1);
    allowed.max(parts.div_ceil(DISPATCHES)).clamp(1, parts.max(1))
}

/// Records a kernel of attention or of an adapter, in several dispatches if it is long. Its `Params` have the field `first`.
fn dispatch_in_parts<P: Params>(
    g: &mut Graph,
    kernel: Kernel,
    params: impl Fn(u32) -> P,
    arguments: &[Argument],
    workgroups: [u32; 3],
    operations: u64,
) {
    // An operation of these kernels takes longer than one of a product: much longer on GPUs with few registers and little cache.
    let slower = if g.traits().cpu { 2 } else { 8 };
    let total = workgroups.map(u64::from).into_iter().fold(1, u64::saturating_mul);
    let each = operations.div_ceil(total);
    let most = parts_per_dispatch(g.traits(), total, each.saturating_mul(slower)).min(g.traits().max_workgroups.into());
    if operations.saturating_mul(slower) <= g.traits().dispatch_operations || total.div_ceil(most) > DISPATCHES {
        g.dispatch(kernel, params(0), arguments, workgroups);
        g.operations(operations);
        return;
    }
    let kernel = kernel.in_parts(workgroups);
    for first in (0..total).step_by(most as usize) {
        let count = most.min(total - first);
        g.dispatch(kernel.clone(), params(first as u32), arguments, [count as u32, 1, 1]);
        g.operations(each * count);
        let bytes = g.line().last().map_or(0, |dispatch| dispatch.bytes);
        g.moves((bytes as f64 * count as f64 / total as f64) as u64);
    }
}

/// How many elements a kernel processes at once (`shaders/shared/value.wgsl`) if rows have `extent` of them.
fn vector(extent: impl Into<u64>) -> u32 {
    if extent.into().is_multiple_of(4) { 4 } else { 1 }
}

/// How many invocations of a workgroup share a row (`shaders/shared/row_sum.wgsl`).
fn row_threads(traits: &Traits) -> u32 {
    if traits.cpu { 1 } else { 32 }
}

/// A matrix that does not fit in one binding is cut at multiples of this many rows, where every format has whole groups and a multiple of
/// 256 bytes, whatever the length of its rows.
const SLICE_ROWS: u32 = 128;

/// How many rows of a matrix fit in `bytes`, in one binding, and in the [`MAX_ELEMENTS`] that kernels can count: all rows, or a multiple of
/// [`SLICE_ROWS`].
fn fitting_rows(g: &Graph, matrix: Tensor, bytes: u64) -> u32 {
    let (info, bytes) = (g.info(matrix), bytes.min(g.traits().max_binding));
    if info.bytes() <= bytes && info.shape.len() <= MAX_ELEMENTS {
        return info.shape.rows();
    }
    let slice_len = u64::from(SLICE_ROWS) * u64::from(info.shape.last());
    let slices = (bytes / info.dtype.bytes(slice_len)).min(MAX_ELEMENTS / slice_len);
    slices.max(1) as u32 * SLICE_ROWS
}

/// `count` rows of a matrix, or elements of a vector, from `start` on, which is a multiple of [`SLICE_ROWS`].
fn slice_of_rows(g: &mut Graph, matrix: Tensor, start: u32, count: u32) -> Tensor {
    match *g.shape(matrix).axes() {
        [len] if len == u64::from(count) => matrix,
        [_] => g.view(matrix, "slice", u64::from(start), [count]),
        _ if g.shape(matrix).rows() == count => matrix,
        _ => {
            let columns = g.shape(matrix).last();
            g.view(matrix, "slice", u64::from(start) * u64::from(columns), [count, columns])
        }
    }
}

/// The batch and the length of packed queries, keys and values (batch, length, (heads + 2·key_value_heads)·head_size).
///
/// # Panics
/// If `qkv` has another shape.
fn qkv_shape(g: &Graph, op: &str, qkv: Tensor, heads: u32, key_value_heads: u32, head_size: u32) -> [u32; 2] {
    let shape = g.shape(qkv);
    let &[batch, length, width] = shape.axes() else { panic!("{op} takes (batch, length, width), not {shape}") };
    let fits = width == u64::from(heads + 2 * key_value_heads) * u64::from(head_size);
    assert!(fits, "{op}: qkv is {shape} for {heads} and {key_value_heads} heads of {head_size}");
    [batch as u32, length as u32]
}

/// `before + more`, or `more` if there is nothing before.
fn sum(g: &mut Graph, before: Option<Tensor>, more: Tensor) -> Tensor {
    match before {
        None => more,
        Some(before) => {
            // A gradient of the residual stream is f32, whatever is added to it.
            let like = if g.info(before).dtype == DType::F32 { before } else { more };
            let total = g.like("sum", like);
            let (kernel, p, groups) = activation::elementwise("add", g.shape(more).len());
            g.dispatch(kernel, p, [read(more), read(before), write(total)], groups);
            total
        }
    }
}

/// `x + y`, elementwise, both (…, hidden).
pub fn add(g: &mut Graph, x: Tensor, y: Tensor) -> Tensor {
    assert_eq!(g.shape(x), g.shape(y), "add takes two tensors of one shape");
    let total = sum(g, Some(y), x);
    g.on_backward(total, &[x, y], move |g, dy| {
        for input in [x, y] {
            g.contribute(input, |g, before| sum(g, before, dy));
        }
    });
    total
}

#[cfg(test)]
mod tests {
    use super::SLICE_ROWS;
    use crate::weights::GgmlType;

    #[test]
    fn every_slice_begins_at_a_whole_group_and_256_bytes() {
        for format in GgmlType::ALL {
            // The shortest rows that a format can have; all others are multiples of them.
            let (dtype, len) = (format.dtype(), u64::from(SLICE_ROWS) * format.block_len() as u64);
            assert!(len.is_multiple_of(dtype.group_len()), "{format}");
            assert!(dtype.bytes(len).is_multiple_of(256), "{format}");
        }
    }
}
