//! Linear layers, alone or with an activation.

use super::activation::activation_backward;
use super::{Activation, matmul};
use crate::graph::{Graph, Tensor};

/// The weights of y = x·Wᵀ + b.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// W (outputs, inputs).
    pub weight: Tensor,
    /// b (outputs).
    pub bias: Option<Tensor>,
}

/// x (…, inputs) to (…, outputs).
pub fn linear(g: &mut Graph, x: Tensor, layer: &Linear) -> Tensor {
    let layer = *layer;
    let outputs = g.shape(layer.weight).rows();
    let (y, _) = matmul::forward(g, x, layer.weight, layer.bias, outputs, None);
    g.on_backward(y, &inputs(x, &layer), move |g, dy| backward(g, x, dy, &layer));
    y
}

/// activate(x·Wᵀ + b), fused: x (…, inputs) to (…, outputs).
pub fn linear_activated(g: &mut Graph, x: Tensor, layer: &Linear, kind: Activation) -> Tensor {
    let layer = *layer;
    let outputs = g.shape(layer.weight).rows();
    let (y, pre) = matmul::forward(g, x, layer.weight, layer.bias, outputs, Some(kind));
    let pre = pre.expect("an activated product keeps what it was before");
    g.on_backward(y, &inputs(x, &layer), move |g, dy| {
        let dpre = activation_backward(g, pre, dy, None, kind);
        backward(g, x, dpre, &layer);
    });
    y
}

/// All that a gradient of the layer may reach.
pub(super) fn inputs(x: Tensor, layer: &Linear) -> Vec<Tensor> {
    [Some(x), Some(layer.weight), layer.bias].into_iter().flatten().collect()
}

/// The gradients of x, W and b from that of the product.
pub(super) fn backward(g: &mut Graph, x: Tensor, dy: Tensor, layer: &Linear) {
    if let Some(dw) = g.weight_gradient(layer.weight) {
        matmul::weight_gradient(g, dy, x, dw);
    }
    if let Some(db) = layer.bias.and_then(|b| g.weight_gradient(b)) {
        matmul::column_sum(g, dy, db);
    }
    g.contribute(x, |g, before| matmul::input_gradient(g, dy, layer.weight, before));
}
