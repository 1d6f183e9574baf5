//! The product of a linear layer without updates, alone or with an activation.

use super::activation::activation_backward;
use super::layer::Linear;
use super::matmul::Epilogue;
use super::{Activation, matmul};
use crate::graph::{Graph, Tensor};

/// x·Wᵀ + b: x (…, inputs) to (…, outputs).
pub(super) fn product(g: &mut Graph, x: Tensor, layer: &Linear) -> Tensor {
    let layer = layer.clone();
    let outputs = layer.outputs(g);
    let (y, _) = matmul::forward(g, x, &layer, outputs, Epilogue::Plain);
    g.on_backward(y, &layer.inputs(x), move |g, dy| backward(g, x, dy, &layer));
    y
}

/// activate(x·Wᵀ + b), fused: x (…, inputs) to (…, outputs).
pub(super) fn product_activated(g: &mut Graph, x: Tensor, layer: &Linear, kind: Activation) -> Tensor {
    let layer = layer.clone();
    let outputs = layer.outputs(g);
    let (y, pre) = matmul::forward(g, x, &layer, outputs, Epilogue::Activated(kind));
    let pre = pre.expect("a product with an activation keeps its value before it");
    g.on_backward(y, &layer.inputs(x), move |g, dy| {
        let dpre = activation_backward(g, pre, dy, kind);
        backward(g, x, dpre, &layer);
    });
    y
}

/// The gradients of x, W and b from the gradient of the product.
pub(super) fn backward(g: &mut Graph, x: Tensor, dy: Tensor, layer: &Linear) {
    matmul::layer_gradients(g, dy, x, layer);
    g.contribute(x, |g, before| matmul::input_gradient(g, dy, x, layer, before));
}
