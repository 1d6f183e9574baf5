//! Linear layers with what a LoRA adds to them, alone or with an activation.

use super::lora::lora;
use super::product::{product, product_activated};
use super::{Activation, Linear, activation};
use crate::graph::{Graph, Tensor};

/// x·Wᵀ + b, with the layer's low-rank updates: x (…, inputs) to (…, outputs).
pub fn linear(g: &mut Graph, x: Tensor, layer: &Linear) -> Tensor {
    match &layer.low_rank {
        None => product(g, x, layer),
        Some(low_rank) => lora(g, x, layer, low_rank),
    }
}

/// activate(linear(x)), fused unless the layer has updates: x (…, inputs) to (…, outputs).
pub fn linear_activated(g: &mut Graph, x: Tensor, layer: &Linear, kind: Activation) -> Tensor {
    if layer.low_rank.is_none() {
        return product_activated(g, x, layer, kind);
    }
    let y = linear(g, x, layer);
    activation(g, y, kind)
}
