//! The mean of each sequence's tokens, for sentence vectors.

use super::{flat, vector};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(Params { batch: u32, length: u32, columns: u32, has_addend: u32 });

/// The mean of the hidden states of each sequence: x (batch, length, hidden) to (batch, hidden). `lengths` (batch) are those of the sequences
/// without padding, which does not count.
pub fn mean_rows(g: &mut Graph, x: Tensor, lengths: Tensor) -> Tensor {
    let &[batch, length, hidden] = g.shape(x).axes() else { panic!("mean_rows takes (batch, length, hidden), not {}", g.shape(x)) };
    assert_eq!(g.shape(lengths).len(), batch, "mean_rows: x is {}, the lengths {}", g.shape(x), g.shape(lengths));
    let [batch, length, hidden] = [batch, length, hidden].map(|extent| extent as u32);
    let vector = vector(hidden);
    let kernel = move |entry| Kernel::new("mean", entry).with("VECTOR", vector);
    let p = Params { batch, length, columns: hidden / vector, has_addend: 0 };
    let y = g.single("mean", [batch, hidden]);
    let len = u64::from(batch) * u64::from(p.columns);
    g.dispatch(kernel("forward"), p, [read(lengths), read(x), write(y)], flat(len));
    g.on_backward(y, &[x], move |g, dy| {
        g.contribute(x, |g, before| {
            let dx = g.like("dx", x);
            let p = Params { has_addend: before.is_some() as u32, ..p };
            let arguments = [read(lengths), read(dy), read(before.unwrap_or(x)), write(dx)];
            g.dispatch(kernel("backward"), p, arguments, flat(len * u64::from(length)));
            dx
        });
    });
    y
}
