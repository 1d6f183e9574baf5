//! The weights of the updates that a LoRA gives the linear layers of a model.

use std::collections::BTreeMap;

use super::Target;
use super::tensors::{A, B};
use crate::graph::Piece;
use crate::model::adapter::setup::Declaring;
use crate::ops::{LowRank, LowRankGroup, LowRankTarget, MOST_TARGETS};

/// Adds the weights of the updates of a linear layer, whose `stacked` matrices have the given names and outputs. `None` if it is not a target.
pub(in crate::model::adapter) fn updates(
    p: &mut Declaring,
    stacked: &[(String, u32)],
    targets: &BTreeMap<String, Target>,
    dropout: f32,
) -> Option<LowRank> {
    let mut column = 0;
    let mut found = Vec::new();
    for (name, outputs) in stacked {
        found.extend(targets.get(name).map(|target| (name, column, target)));
        column += outputs;
    }
    if found.is_empty() {
        return None;
    }
    let piece = |name: &str, end, rows, columns| Piece { name: format!("{name}{end}"), shape: [rows, columns].into() };
    let a = found.iter().map(|(name, _, target)| piece(name, A, target.rank, target.inputs)).collect();
    let a = p.add(a);
    let mut groups = Vec::new();
    for group in found.chunk_by(|one, next| one.2.rank == next.2.rank).flat_map(|group| group.chunks(MOST_TARGETS)) {
        let b = group.iter().map(|(name, _, target)| piece(name, B, target.outputs, target.rank)).collect();
        let b = p.add(b);
        let target = |&(_, column, target): &(_, u32, &Target)| LowRankTarget { column, outputs: target.outputs, scaling: target.scaling };
        groups.push(LowRankGroup { b, targets: group.iter().map(target).collect() });
    }
    Some(LowRank { a, groups, dropout })
}
