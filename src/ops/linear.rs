//! Linear layers with what a LoRA adds to them, alone or with an activation.

use super::lora::updated;
use super::product::{product, product_activated};
use super::{Activation, Linear, activation};
use crate::graph::{Graph, Tensor};

/// x·Wᵀ + b, with the layer's low-rank updates: x (…, inputs) to (…, outputs).
pub fn linear(g: &mut Graph, x: Tensor, layer: &Linear) -> Tensor {
    let y = product(g, x, layer);
    layer.low_rank.iter().fold(y, |y, low_rank| updated(g, x, y, low_rank))
}

/// activate(linear(x)), fused unless the layer has updates: x (…, inputs) to (…, outputs).
pub fn linear_activated(g: &mut Graph, x: Tensor, layer: &Linear, kind: Activation) -> Tensor {
    if layer.low_rank.is_empty() {
        return product_activated(g, x, layer, kind);
    }
    let y = linear(g, x, layer);
    activation(g, y, kind)
}
