//! Dropout whose mask is a function of (seed, batch, place, element), so that nothing is stored for the backward pass.

use super::activation::Params;
use super::{flat, vector};
use crate::graph::{Graph, Kernel, Tensor, read, write};

/// Dropout in training: sets a share of the elements to zero and scales the others by one over the share that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share in units of 2^-32.
    pub(super) threshold: u32,
    /// One over the share that is kept.
    pub(super) scale: f32,
    /// The number of this place in the model; masks of different places differ.
    pub(super) site: u32,
}

impl Dropout {
    /// Dropout of the share `p` at a new place of the recording; `None` if it has no effect, because p is 0 or the recording is not for
    /// training.
    ///
    /// # Panics
    /// Unless `0 ≤ p < 1`.
    pub fn new(g: &mut Graph, p: f32) -> Option<Dropout> {
        assert!((0.0..1.0).contains(&p), "the dropout {p} is not at least 0 and below 1");
        let site = g.dropout_site();
        (g.training() && p > 0.0).then(|| Dropout { threshold: (f64::from(p) * 4294967296.0) as u32, scale: 1.0 / (1.0 - p), site })
    }
}

/// `x · mask / (1 - p)` in training, else `x` itself.
pub fn dropout(g: &mut Graph, x: Tensor, p: f32) -> Tensor {
    let columns = g.shape(x).last();
    masked(g, x, p, columns, false)
}

/// The same for x (batch, length, hidden) with one decision for each sequence of the batch (Huang et al. 2016, "Deep Networks with
/// Stochastic Depth").
pub fn stochastic_depth(g: &mut Graph, x: Tensor, p: f32) -> Tensor {
    let columns = (g.shape(x).len() / g.shape(x).axes()[0]) as u32;
    masked(g, x, p, columns, true)
}

fn masked(g: &mut Graph, x: Tensor, p: f32, columns: u32, whole: bool) -> Tensor {
    let Some(d) = Dropout::new(g, p) else { return x };
    let apply = move |g: &mut Graph, x: Tensor, addend: Option<Tensor>| {
        let (y, vector) = (g.like("dropout", x), vector(columns));
        let len = g.shape(x).len() / u64::from(vector);
        let has_addend = addend.is_some() as u32;
        let p = Params { len: len as u32, columns: columns / vector, threshold: d.threshold, scale: d.scale, site: d.site, has_addend };
        let kernel = Kernel::new("elementwise", "dropout").with("VECTOR", vector).with("WHOLE", whole);
        g.dispatch(kernel, p, [read(x), read(addend.unwrap_or(x)), write(y)], flat(len));
        y
    };
    let y = apply(g, x, None);
    g.on_backward(y, &[x], move |g, dy| g.contribute(x, |g, before| apply(g, dy, before)));
    y
}
