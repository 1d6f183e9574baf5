//! The weights of a linear layer, and the parts in which kernels take them.

use super::{fitting_rows, slice_of_rows};
use crate::graph::{Graph, Tensor};

/// The weights of y = x·Wᵀ + b.
#[derive(Clone, Debug)]
pub struct Linear {
    /// W (outputs, inputs): matrices stacked along the outputs, each in its own format.
    pub weights: Vec<Tensor>,
    /// b (outputs).
    pub bias: Option<Tensor>,
    /// Low-rank updates of the matrices, one LoRA after another.
    pub low_rank: Vec<LowRank>,
}

/// The updates that a LoRA gives a layer's matrices: s·B·A each. Matrices without an update need no entry.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// The A of all targets, one below the other (Σ rank, inputs).
    pub a: Tensor,
    /// The targets in the order of A's rows, as few groups as their ranks allow.
    pub groups: Vec<LowRankGroup>,
    /// The share of A's input that dropout sets to zero. All targets see the same mask.
    pub dropout: f32,
}

/// Up to three targets of one rank.
#[derive(Clone, Debug)]
pub struct LowRankGroup {
    /// Their B, one below the other (Σ outputs, rank).
    pub b: Tensor,
    /// The targets.
    pub targets: Vec<LowRankTarget>,
}

/// One matrix of a layer that has an update.
#[derive(Clone, Copy, Debug)]
pub struct LowRankTarget {
    /// Where its outputs begin in the layer's.
    pub column: u32,
    /// Their number.
    pub outputs: u32,
    /// s.
    pub scaling: f32,
}

/// The most targets of a group: queries, keys and values.
pub const MOST_TARGETS: usize = 3;

/// The most bytes of a matrix that are copied to an image at a time, where kernels read images. Otherwise, the image of a large head would
/// take as much memory as the head.
const IMAGE_BYTES: u64 = 32 << 20;

/// Some rows of a layer's W, at most as many as fit in one binding.
pub(super) struct Part {
    /// The rows (outputs, inputs).
    pub weight: Tensor,
    /// Where their outputs begin in the layer's.
    pub column: u32,
    /// Whether other outputs follow.
    pub followed: bool,
}

impl Part {
    /// Whether the `outputs` of the part can be read as vectors of four from rows `stride` apart, the last vector including what follows.
    pub fn aligned(&self, outputs: u32, stride: u32) -> bool {
        let ends_well = !self.followed || outputs.is_multiple_of(4);
        stride.is_multiple_of(4) && self.column.is_multiple_of(4) && ends_well
    }
}

impl Linear {
    /// A layer with one matrix (outputs, inputs) and perhaps a bias (outputs).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Linear {
        Linear::stacked(vec![weight], bias)
    }

    /// A layer with several matrices and perhaps a bias (outputs).
    pub fn stacked(weights: Vec<Tensor>, bias: Option<Tensor>) -> Linear {
        Linear { weights, bias, low_rank: Vec::new() }
    }

    /// The outputs of all matrices together.
    pub fn outputs(&self, g: &Graph) -> u32 {
        self.weights.iter().map(|&w| g.shape(w).rows()).sum()
    }

    /// All tensors that may get a gradient from the layer, whose input is `x`.
    pub(super) fn inputs(&self, x: Tensor) -> Vec<Tensor> {
        [x].into_iter().chain(self.weights.iter().copied()).chain(self.bias).collect()
    }

    /// The matrices; those that do not fit in one binding, or one image, are cut into slices of rows.
    pub(super) fn parts(&self, g: &mut Graph) -> Vec<Part> {
        let outputs = self.outputs(g);
        let bytes = if g.traits().cpu_subgroup() > 0 { IMAGE_BYTES } else { u64::MAX };
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
