//! The buffer plan: which activations can share a buffer because their lifetimes do not overlap.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use super::{Graph, Role};

/// Where each activation of a recording is stored.
#[derive(Debug)]
pub struct Plan {
    /// The buffer of each tensor by index; `None` if the tensor is not a planned activation or is never used.
    pub buffer: Vec<Option<usize>>,
    /// The size of each buffer in bytes.
    pub sizes: Vec<u64>,
    /// The bytes of the images that tensors are copied to for kernels that read images. All dispatches share them.
    pub images: HashMap<Image, u64>,
}

/// The number of the argument that an image replaces, and the format of its texels.
pub type Image = (usize, naga::StorageFormat);

impl Plan {
    /// Plans the buffers. From the largest to the smallest, each activation gets the smallest buffer that is free during its lifetime, or a
    /// new one (greedy by size, after Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"). An activation
    /// lives from the first dispatch that touches it to the last, inclusive, so no dispatch reads one activation and writes another in the
    /// same buffer.
    pub(super) fn of(graph: &Graph) -> Plan {
        let tensors = graph.tensors();
        let mut images = HashMap::new();
        let mut lives: Vec<Option<RangeInclusive<usize>>> = vec![None; tensors.len()];
        for (at, dispatch) in graph.line().iter().enumerate() {
            for argument in &dispatch.arguments {
                let life = &mut lives[graph.root(argument.tensor).0.index()];
                *life = Some(life.as_ref().map_or(at, |life| *life.start())..=at);
            }
            for image in dispatch.kernel.reflect().images() {
                let largest = images.entry(image).or_default();
                *largest = tensors[dispatch.arguments[image.0].tensor.index()].bytes().max(*largest);
            }
        }
        let planned = |i: usize| Some((i, lives[i].clone().filter(|_| tensors[i].role == Role::Activation)?));
        let mut order: Vec<_> = (0..tensors.len()).filter_map(planned).collect();
        order.sort_by_key(|(i, life)| (Reverse(tensors[*i].bytes()), *life.start(), *i));

        let mut plan = Plan { buffer: vec![None; tensors.len()], sizes: Vec::new(), images };
        // The ends of the lifetimes in each buffer, by their beginnings.
        let mut taken: Vec<BTreeMap<usize, usize>> = Vec::new();
        for (i, life) in order {
            let (begin, end) = life.into_inner();
            let free = |lives: &BTreeMap<usize, usize>| lives.range(..=end).next_back().is_none_or(|(_, &before)| before < begin);
            // Later buffers are smaller.
            let chosen = taken.iter().rposition(free).unwrap_or_else(|| {
                taken.push(BTreeMap::new());
                plan.sizes.push(tensors[i].bytes());
                taken.len() - 1
            });
            taken[chosen].insert(begin, end);
            plan.buffer[i] = Some(chosen);
        }
        plan
    }
}
