//! The losses of predictions that are judged one by one: scores, and the labels of which a row can have several.

use super::flat;
use crate::graph::{DType, Graph, Kernel, Tensor, read, update, write};

crate::params!(Params { len: u32, has_addend: u32 });

/// How a prediction x is compared with its target t.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointwise {
    /// (x − t)²
    SquaredError,
    /// The binary cross-entropy of σ(x), max(x, 0) − x·t + ln(1 + e^−|x|), for t from 0 to 1.
    Logistic,
}

/// Adds target_weight · Σ loss(x, target) to the loss of the step. x (…) is f32; `targets` (…) holds the bits of f32 numbers, or the
/// shader's `IGNORED`. The result represents the loss: pass it to [`Graph::backward`] as both arguments.
pub fn pointwise_loss(g: &mut Graph, x: Tensor, targets: Tensor, kind: Pointwise) -> Tensor {
    assert_eq!(g.shape(x).len(), g.shape(targets).len(), "pointwise_loss: x is {}, the targets {}", g.shape(x), g.shape(targets));
    assert_eq!(g.info(x).dtype, DType::F32, "pointwise_loss takes f32");
    let (len, metrics) = (g.shape(x).len(), g.arenas().metrics);
    let kernel = move |entry| Kernel::new("pointwise_loss", entry).with("LOGISTIC", kind == Pointwise::Logistic);
    let p = Params { len: len as u32, has_addend: 0 };
    let slopes = g.like("slopes", x);
    g.dispatch(kernel("forward"), p, [read(x), read(targets), write(slopes), update(metrics)], [1, 1, 1]);
    g.on_backward(slopes, &[x], move |g, _| {
        g.contribute(x, |g, before| {
            let dx = g.like("dx", x);
            let p = Params { has_addend: before.is_some() as u32, ..p };
            g.dispatch(kernel("backward"), p, [read(slopes), read(before.unwrap_or(x)), write(dx), read(metrics)], flat(len));
            dx
        });
    });
    slopes
}
