//! Linear layers, alone or with an activation.

use super::activation::activation_backward;
use super::{Activation, fitting_rows, matmul, slice_of_rows};
use crate::graph::{Graph, Tensor};

/// The weights of y = x·Wᵀ + b.
#[derive(Clone, Debug)]
pub struct Linear {
    /// W (outputs, inputs): matrices that stand one below the other, each in a format of its own.
    pub weights: Vec<Tensor>,
    /// b (outputs).
    pub bias: Option<Tensor>,
}

/// The most bytes of a matrix that are copied to an image at a time, where kernels read it from there: else the image of a large head would take
/// as much memory as the head.
const IMAGE_BYTES: u64 = 32 << 20;

/// Some rows of a layer's W, no more than one binding holds.
pub(super) struct Part {
    /// The rows (outputs, inputs).
    pub weight: Tensor,
    /// Where their outputs begin in the layer's.
    pub column: u32,
    /// Whether other outputs follow.
    pub followed: bool,
}

impl Part {
    /// Whether the `outputs` of the part can be read as vectors of four from rows `stride` apart, the last one with what is behind it.
    pub fn aligned(&self, outputs: u32, stride: u32) -> bool {
        let ends_well = !self.followed || outputs.is_multiple_of(4);
        stride.is_multiple_of(4) && self.column.is_multiple_of(4) && ends_well
    }
}

impl Linear {
    /// A layer with one matrix (outputs, inputs) and perhaps a bias (outputs).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Linear {
        Linear { weights: vec![weight], bias }
    }

    /// The outputs of all matrices together.
    pub fn outputs(&self, g: &Graph) -> u32 {
        self.weights.iter().map(|&w| g.shape(w).rows()).sum()
    }

    /// The matrices, those that do not fit one binding, or one image, cut into slices of rows.
    pub(super) fn parts(&self, g: &mut Graph) -> Vec<Part> {
        let outputs = self.outputs(g);
        let bytes = if g.traits().lanes() > 0 { IMAGE_BYTES } else { u64::MAX };
        let (mut parts, mut column) = (Vec::new(), 0);
        for &whole in &self.weights {
            let (rows, most) = (g.shape(whole).rows(), fitting_rows(g, whole, bytes));
            for start in (0..rows).step_by(most as usize) {
                let count = most.min(rows - start);
                let weight = slice_of_rows(g, whole, start, count);
                parts.push(Part { weight, column, followed: column + count < outputs });
                column += count;
            }
        }
        parts
    }
}

/// x (…, inputs) to (…, outputs).
pub fn linear(g: &mut Graph, x: Tensor, layer: &Linear) -> Tensor {
    let layer = layer.clone();
    let outputs = layer.outputs(g);
    let (y, _) = matmul::forward(g, x, &layer, outputs, None);
    g.on_backward(y, &inputs(x, &layer), move |g, dy| backward(g, x, dy, &layer));
    y
}

/// activate(x·Wᵀ + b), fused: x (…, inputs) to (…, outputs).
pub fn linear_activated(g: &mut Graph, x: Tensor, layer: &Linear, kind: Activation) -> Tensor {
    let layer = layer.clone();
    let outputs = layer.outputs(g);
    let (y, pre) = matmul::forward(g, x, &layer, outputs, Some(kind));
    let pre = pre.expect("an activated product keeps what it was before");
    g.on_backward(y, &inputs(x, &layer), move |g, dy| {
        let dpre = activation_backward(g, pre, dy, kind);
        backward(g, x, dpre, &layer);
    });
    y
}

/// All that a gradient of the layer may reach.
pub(super) fn inputs(x: Tensor, layer: &Linear) -> Vec<Tensor> {
    [x].into_iter().chain(layer.weights.iter().copied()).chain(layer.bias).collect()
}

/// The gradients of x, W and b from that of the product.
fn backward(g: &mut Graph, x: Tensor, dy: Tensor, layer: &Linear) {
    matmul::layer_gradients(g, dy, x, layer);
    g.contribute(x, |g, before| matmul::input_gradient(g, dy, x, layer, before));
}
