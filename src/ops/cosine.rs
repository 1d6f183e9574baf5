//! How alike two vectors are.

use super::{row_threads, vector};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(Params { pairs: u32, columns: u32, has_addend: u32 });

/// The cosine of the angle between the rows 2i and 2i + 1 of x (2·pairs, hidden): (pairs, 1). A row of zeros has the cosine 0 with any
/// other.
pub fn cosine(g: &mut Graph, x: Tensor) -> Tensor {
    let &[rows, hidden] = g.shape(x).axes() else { panic!("cosine takes (2·pairs, hidden), not {}", g.shape(x)) };
    assert!(rows.is_multiple_of(2), "cosine takes pairs of rows, not {}", g.shape(x));
    let (pairs, vector, threads) = (rows as u32 / 2, vector(hidden), row_threads(g.traits()));
    let kernel = move |entry| Kernel::new("cosine", entry).with("VECTOR", vector).with("ROW_THREADS", threads);
    let p = Params { pairs, columns: hidden as u32 / vector, has_addend: 0 };
    let (y, lengths) = (g.single("cosine", [pairs, 1]), g.single("lengths", [pairs, 2]));
    let groups = |rows: u32| [rows.div_ceil(kernel("forward").constant("WORKGROUP_ROWS")), 1, 1];
    let (forward, backward) = (groups(pairs), groups(2 * pairs));
    g.dispatch(kernel("forward"), p, [read(x), write(y), write(lengths)], forward);
    g.on_backward(y, &[x], move |g, dy| {
        g.contribute(x, |g, before| {
            let dx = g.like("dx", x);
            let p = Params { has_addend: before.is_some() as u32, ..p };
            let arguments = [read(x), read(y), read(lengths), read(dy), read(before.unwrap_or(x)), write(dx)];
            g.dispatch(kernel("backward"), p, arguments, backward);
            dx
        });
    });
    y
}
