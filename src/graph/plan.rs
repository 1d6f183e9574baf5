//! The buffer plan: which activations may lie in the same buffer because their lives do not meet.

use super::{Graph, Role, Tensor};

/// Where each activation of a recording lies.
#[derive(Debug)]
pub struct Plan {
    /// The buffer of each tensor by index; `None` where the tensor is not a planned activation or is never used.
    pub buffer: Vec<Option<usize>>,
    /// The size of each buffer in bytes.
    pub sizes: Vec<u64>,
}

impl Plan {
    /// Walks the line once. A buffer is taken by the dispatch that first touches the activation and is free for later dispatches
    /// once the last one that touches it is past, so no dispatch ever finds one buffer on both of its sides.
    pub(super) fn of(graph: &Graph) -> Plan {
        let tensors = graph.tensors();
        let planned = |t: Tensor| tensors[t.index()].role == Role::Activation;
        let mut last = vec![0; tensors.len()];
        for (at, dispatch) in graph.line().iter().enumerate() {
            for argument in &dispatch.arguments {
                last[graph.root(argument.tensor).0.index()] = at;
            }
        }

        let mut plan = Plan { buffer: vec![None; tensors.len()], sizes: Vec::new() };
        let mut free: Vec<usize> = Vec::new();
        for (at, dispatch) in graph.line().iter().enumerate() {
            let roots: Vec<_> = dispatch.arguments.iter().map(|a| graph.root(a.tensor).0).filter(|&t| planned(t)).collect();
            for &root in &roots {
                if plan.buffer[root.index()].is_none() {
                    plan.buffer[root.index()] = Some(plan.take(&mut free, tensors[root.index()].bytes()));
                }
            }
            let mut ended: Vec<_> = roots.into_iter().filter(|t| last[t.index()] == at).collect();
            ended.sort();
            ended.dedup();
            free.extend(ended.iter().filter_map(|t| plan.buffer[t.index()]));
        }
        plan
    }

    /// The free buffer that fits best: the smallest that is large enough, else the largest, which grows.
    fn take(&mut self, free: &mut Vec<usize>, bytes: u64) -> usize {
        let sizes = &self.sizes;
        let fitting = (0..free.len()).filter(|&i| sizes[free[i]] >= bytes).min_by_key(|&i| (sizes[free[i]], free[i]));
        let chosen = fitting.or_else(|| (0..free.len()).max_by_key(|&i| (sizes[free[i]], free[i])));
        match chosen {
            Some(i) => {
                let buffer = free.swap_remove(i);
                self.sizes[buffer] = self.sizes[buffer].max(bytes);
                buffer
            }
            None => {
                self.sizes.push(bytes);
                self.sizes.len() - 1
            }
        }
    }
}
