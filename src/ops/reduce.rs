//! Sums over tokens: the gradients of biases, factors and norms.

use super::{flat, vector};
use crate::graph::{Graph, Kernel, MAX_ELEMENTS, Tensor, Traits, read, update, write};

crate::params!(Params { rows: u32, columns: u32, stride: u32, chunk: u32 });

/// gradient += Σ dy over the rows of dy (rows, stride); gradient (columns), columns ≤ stride.
pub(super) fn column_sum(g: &mut Graph, dy: Tensor, gradient: Tensor) {
    let (rows, stride, columns) = (g.shape(dy).rows(), g.shape(dy).last(), g.shape(gradient).last());
    let chunk = rows_per_chunk(g.traits(), rows);
    let chunks = rows.div_ceil(chunk);
    let vector = vector(stride).min(vector(columns));
    let kernel = Kernel::new("reduce", "column_sum").with("VECTOR", vector);
    let p = Params { rows, columns: columns / vector, stride: stride / vector, chunk };
    let groups = [p.columns.div_ceil(64), chunks, 1];
    if chunks == 1 {
        g.dispatch(kernel.with("ACCUMULATE", true), p, [read(dy), update(gradient)], groups);
    } else {
        let partials = g.single("partials", [chunks, columns]);
        g.dispatch(kernel, p, [read(dy), write(partials)], groups);
        add_partials(g, partials, gradient);
    }
}

/// gradient += Σ partials over their first axis.
pub(super) fn add_partials(g: &mut Graph, partials: Tensor, gradient: Tensor) {
    let len = g.shape(gradient).len();
    let chunks = (g.shape(partials).len() / len) as u32;
    let vector = vector(len);
    let columns = len / u64::from(vector);
    let p = Params { rows: chunks, columns: columns as u32, stride: columns as u32, chunk: 0 };
    let kernel = Kernel::new("reduce", "add_partials").with("VECTOR", vector);
    g.dispatch(kernel, p, [read(partials), update(gradient)], flat(columns));
}

/// The rows per chunk, and the chunks, of a `gradient` that is a sum over `rows`. If one chunk has too few workgroups (across, down) to keep the
/// device busy, there are several, with at least 64 rows each and partial sums that fit one binding.
pub(super) fn busy_chunks(g: &Graph, rows: u32, [across, down]: [u32; 2], gradient: Tensor) -> (u32, u32) {
    let busy: u64 = if g.traits().cpu { 8 } else { 256 };
    let fitting = g.traits().max_binding.min(4 * MAX_ELEMENTS) / (4 * g.shape(gradient).len());
    let chunks = busy.div_ceil(u64::from(across) * u64::from(down)).min(rows.div_ceil(64).into()).min(fitting).max(1) as u32;
    let chunk = rows.div_ceil(chunks);
    (chunk, rows.div_ceil(chunk))
}

/// How many rows one invocation adds up: about the square root of `rows`, so that both passes are short. On a CPU device, whose few lanes
/// are busy with the columns, at least enough that a small batch needs only one pass.
pub(super) fn rows_per_chunk(traits: &Traits, rows: u32) -> u32 {
    (f64::from(rows).sqrt().ceil() as u32).max(if traits.cpu { 256 } else { 16 })
}
