//! The gate of a feed-forward layer.

use super::{Activation, flat, sum, vector};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(Params { len: u32, columns: u32 });

/// activate(gate) · up (Shazeer 2020, "GLU variants improve transformer"; SwiGLU with [`Activation::Silu`]) for x (…, 2·inner), whose rows
/// have the gate first, then up: (…, inner). So one product computes both. The result is f32 even where activations are f16: in models
/// with massive activations (Sun et al. 2024), it exceeds 65,504, the largest f16.
pub fn gated(g: &mut Graph, x: Tensor, kind: Activation) -> Tensor {
    let width = g.shape(x).last();
    assert!(width.is_multiple_of(2), "gated: {} is not a gate and an up", g.shape(x));
    let y = g.single("gated", g.shape(x).with_last(width / 2));
    let vector = vector(width / 2);
    let kernel = move |entry| Kernel::new("gated", entry).with("VECTOR", vector).with("ACTIVATION", kind.number());
    let len = g.shape(y).len() / u64::from(vector);
    let p = Params { len: len as u32, columns: width / 2 / vector };
    g.dispatch(kernel("forward"), p, [read(x), write(y)], flat(len));

    g.on_backward(y, &[x], move |g, dy| {
        g.contribute(x, |g, before| {
            let dx = g.like("dx", x);
            g.dispatch(kernel("backward"), p, [read(x), read(dy), write(dx)], flat(len));
            sum(g, before, dx)
        });
    });
    y
}
