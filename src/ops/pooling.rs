//! What stands for each sequence, for a head that judges it as a whole and for sentence vectors.

use super::{flat, vector};
use crate::graph::{Argument, Graph, Kernel, Tensor, read, write};

crate::params!(Params { batch: u32, length: u32, columns: u32, has_addend: u32 });

/// What stands for a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token: `[CLS]` of an encoder.
    First,
    /// The last token that is not padding: the only one that has seen all others if attention is causal.
    Last,
    /// The mean of all tokens that are not padding.
    Mean,
}

impl Pooling {
    /// All of them, in the order of the kernel's constant.
    pub(crate) const ALL: [Pooling; 3] = [Pooling::First, Pooling::Last, Pooling::Mean];
}

/// What stands for each sequence of x (batch, length, hidden): (batch, hidden). `lengths` (batch) are those of the sequences without padding.
pub fn pool(g: &mut Graph, x: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor {
    let &[batch, length, hidden] = g.shape(x).axes() else { panic!("pool takes (batch, length, hidden), not {}", g.shape(x)) };
    assert_eq!(g.shape(lengths).len(), batch, "pool: x is {}, the lengths {}", g.shape(x), g.shape(lengths));
    let [batch, length, hidden] = [batch, length, hidden].map(|extent| extent as u32);
    let vector = vector(hidden);
    let kernel = move |entry| Kernel::new("pooling", entry).with("VECTOR", vector).with("POOLING", pooling as u32);
    let p = Params { batch, length, columns: hidden / vector, has_addend: 0 };
    let arguments = move |others: &[Argument]| -> Vec<Argument> {
        let lengths = (pooling != Pooling::First).then(|| read(lengths));
        lengths.into_iter().chain(others.iter().copied()).collect()
    };

    let y = g.single("pooled", [batch, hidden]);
    let len = u64::from(batch) * u64::from(p.columns);
    g.dispatch(kernel("forward"), p, arguments(&[read(x), write(y)]), flat(len));
    if pooling != Pooling::Mean {
        g.moves(2 * len * u64::from(vector) * 4);
    }
    g.on_backward(y, &[x], move |g, dy| {
        g.contribute(x, |g, before| {
            let dx = g.like("dx", x);
            let p = Params { has_addend: before.is_some() as u32, ..p };
            let addend = before.unwrap_or(x);
            g.dispatch(kernel("backward"), p, arguments(&[read(dy), read(addend), write(dx)]), flat(len * u64::from(length)));
            dx
        });
    });
    y
}
