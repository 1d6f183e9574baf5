//! The halves of rows, from which coupling layers are made (Dinh et al. 2015, "NICE: Non-linear Independent Components Estimation").

use super::{flat, sum, vector};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(Params { len: u32, columns: u32, shift: u32, sign: f32, has_addend: u32 });

/// One of the halves of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The first half.
    First,
    /// The second half.
    Second,
}

/// One half of each row of x (…, 2·width): (…, width).
pub fn half_of(g: &mut Graph, x: Tensor, half: Half) -> Tensor {
    let width = g.shape(x).last() / 2;
    assert_eq!(g.shape(x).last(), 2 * width, "half_of: {} has rows without a middle", g.shape(x));
    let y = take(g, x, half, 1.0, None);
    g.on_backward(y, &[x], move |g, dy| g.contribute(x, |g, before| put(g, dy, half, 1.0, before, x)));
    y
}

/// x (…, 2·width) with sign · addend (…, width) added to one half of each row.
pub fn add_to_half(g: &mut Graph, x: Tensor, addend: Tensor, half: Half, sign: f32) -> Tensor {
    assert_eq!(g.shape(x).last(), 2 * g.shape(addend).last(), "add_to_half: x is {}, the addend {}", g.shape(x), g.shape(addend));
    let y = put(g, addend, half, sign, Some(x), x);
    g.on_backward(y, &[x, addend], move |g, dy| {
        g.contribute(x, |g, before| sum(g, before, dy));
        g.contribute(addend, |g, before| take(g, dy, half, sign, before));
    });
    y
}

fn take(g: &mut Graph, x: Tensor, half: Half, sign: f32, addend: Option<Tensor>) -> Tensor {
    let y = g.activation("half", g.shape(x).with_last(g.shape(x).last() / 2));
    record(g, "take", [x, addend.unwrap_or(x), y], half, sign, addend.is_some());
    y
}

/// A tensor like `like` with zeros, or `addend`, and sign · x in one half.
fn put(g: &mut Graph, x: Tensor, half: Half, sign: f32, addend: Option<Tensor>, like: Tensor) -> Tensor {
    let y = g.like("whole", like);
    record(g, "put", [x, addend.unwrap_or(x), y], half, sign, addend.is_some());
    y
}

fn record(g: &mut Graph, entry: &'static str, [x, addend, y]: [Tensor; 3], half: Half, sign: f32, has_addend: bool) {
    let width = g.shape(if entry == "take" { y } else { x }).last();
    let vector = vector(width);
    let (columns, len) = (width / vector, g.shape(y).len() / u64::from(vector));
    let shift = if half == Half::First { 0 } else { columns };
    let p = Params { len: len as u32, columns, shift, sign, has_addend: has_addend as u32 };
    let kernel = Kernel::new("halves", entry).with("VECTOR", vector);
    g.dispatch(kernel, p, [read(x), read(addend), write(y)], flat(len));
}
