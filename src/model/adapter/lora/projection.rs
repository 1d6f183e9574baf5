//! A linear layer of the model with the updates that a LoRA gives it.

use std::collections::BTreeMap;

use super::Target;
use super::tensors::{A, B};
use crate::graph::{DType, Graph, Parameters, Piece, Tensor};
use crate::ops::{self, Activation, Linear, LowRank, LowRankGroup, LowRankTarget, MOST_TARGETS};

/// A linear layer, perhaps of several stacked matrices, and its updates.
pub(in crate::model) struct Projection {
    linear: Linear,
    low_rank: Option<LowRank>,
}

impl Projection {
    /// Adds the weights of the updates of a layer, whose `stacked` matrices have the given names and outputs.
    pub fn new(
        p: &mut Parameters,
        linear: Linear,
        stacked: &[(String, u32)],
        targets: &BTreeMap<String, Target>,
        dropout: f32,
    ) -> Projection {
        let mut column = 0;
        let mut found = Vec::new();
        for (name, outputs) in stacked {
            found.extend(targets.get(name).map(|target| (name, column, target)));
            column += outputs;
        }
        if found.is_empty() {
            return Projection { linear, low_rank: None };
        }
        let piece = |name: &str, end, rows, columns| Piece { name: format!("{name}{end}"), shape: [rows, columns].into() };
        let a = found.iter().map(|(name, _, target)| piece(name, A, target.rank, target.inputs)).collect();
        let a = p.add_stack(a, DType::F32, true);
        let mut groups = Vec::new();
        for group in found.chunk_by(|one, next| one.2.rank == next.2.rank).flat_map(|group| group.chunks(MOST_TARGETS)) {
            let b = group.iter().map(|(name, _, target)| piece(name, B, target.outputs, target.rank)).collect();
            let b = p.add_stack(b, DType::F32, true);
            let target =
                |&(_, column, target): &(_, u32, &Target)| LowRankTarget { column, outputs: target.outputs, scaling: target.scaling };
            groups.push(LowRankGroup { b, targets: group.iter().map(target).collect() });
        }
        Projection { linear, low_rank: Some(LowRank { a, groups, dropout }) }
    }

    /// The layer, if it has no updates, so that ops can fuse it with others.
    pub fn plain(&self) -> Option<&Linear> {
        self.low_rank.is_none().then_some(&self.linear)
    }

    /// x·Wᵀ + b with the updates: x (…, inputs) to (…, outputs).
    pub fn apply(&self, g: &mut Graph, x: Tensor) -> Tensor {
        match &self.low_rank {
            None => ops::linear(g, x, &self.linear),
            Some(low_rank) => ops::lora(g, x, &self.linear, low_rank),
        }
    }

    /// The same, activated.
    pub fn apply_activated(&self, g: &mut Graph, x: Tensor, kind: Activation) -> Tensor {
        match &self.low_rank {
            None => ops::linear_activated(g, x, &self.linear, kind),
            Some(low_rank) => {
                let y = ops::lora(g, x, &self.linear, low_rank);
                ops::activation(g, y, kind)
            }
        }
    }
}
