//! Self-attention with rotary positions, from the projection of queries, keys and values on.

use super::attention::Recorded;
use super::matmul::{self, Epilogue};
use super::product::backward;
use super::{Attention, Linear, Rope, attention, linear, rope};
use crate::graph::{Graph, Tensor};

/// [`attention`] over the queries, keys and values that `projection` makes of x (batch, length, hidden), rotated from position 0 on as in
/// [`rope`](super::rope): (batch, length, heads·head_size).
///
/// Where the kernels allow it, the projection is rotated before it is stored, and attention's gradients are rotated back as they are summed.
pub fn self_attention(g: &mut Graph, x: Tensor, projection: &Linear, rotation: &Rope, lengths: Tensor, form: Attention) -> Tensor {
    let rows = g.shape(x).rows();
    let whole_heads = projection.weights.iter().all(|&w| g.shape(w).rows().is_multiple_of(form.head_size));
    if whole_heads && form.head_size.is_multiple_of(2) && matmul::pairs(g, rows, projection) {
        return fused(g, x, projection.clone(), *rotation, lengths, form);
    }
    let qkv = linear(g, x, projection);
    let qkv = rope(g, qkv, None, rotation);
    attention(g, qkv, lengths, form)
}

fn fused(g: &mut Graph, x: Tensor, projection: Linear, rotation: Rope, lengths: Tensor, form: Attention) -> Tensor {
    let width = projection.outputs(g);
    let (qkv, _) = matmul::forward(g, x, &projection, width, Epilogue::Rotated(rotation));
    let recorded = Recorded::forward(g, qkv, lengths, form);
    let y = recorded.y;
    g.on_backward(y, &projection.inputs(x), move |g, dy| {
        let dqkv = recorded.backward(g, dy, Some(&rotation));
        backward(g, x, dqkv, &projection);
    });
    y
}
