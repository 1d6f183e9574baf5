//! Gradient checkpointing: the backward pass recomputes the activations of a segment of the recording, so that they need not be kept (Chen
//! et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
//!
//! A recording is data, so ops need no support for this. Before the backward pass of a segment is recorded, the segment's dispatches are
//! recorded again with new tensors in place of those that they write, and the backward pass reads the new tensors. Kernel parameters are
//! copied, so dropout masks and all results are bit-identical.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{Access, Dispatch, Graph, Info, Role, Tensor};

/// The ranges of the recording that belong to a segment.
pub(super) struct Segment {
    line: Range<usize>,
    pub(super) tape: Range<usize>,
    tensors: Range<usize>,
}

impl Graph {
    /// Turns checkpointing on or off. [`Graph::checkpointed`] has an effect only if it is on.
    pub fn set_checkpointing(&mut self, on: bool) {
        self.checkpointing = on;
    }

    /// Records `f`. If checkpointing is on, `f` becomes a segment: only those of its activations that later dispatches read are kept.
    /// Segments do not nest.
    pub fn checkpointed<T>(&mut self, f: impl FnOnce(&mut Graph) -> T) -> T {
        let begin = (self.line.len(), self.tape.len(), self.tensors.len());
        let result = f(self);
        if self.checkpointing {
            let (line, tape, tensors) = (begin.0..self.line.len(), begin.1..self.tape.len(), begin.2..self.tensors.len());
            self.segments.push(Segment { line, tape, tensors });
        }
        result
    }

    /// Whether segments are recorded.
    pub fn checkpointing(&self) -> bool {
        self.checkpointing
    }

    /// Records a segment again, followed by its backward pass, and removes dispatches that the backward pass does not need. The forward
    /// pass ends at `end`.
    pub(super) fn backward_of_segment(&mut self, segment: &Segment, end: usize) {
        let again = self.line.len();
        let mut renamed = self.record_again(segment, end);
        let backward = self.line.len();
        while self.tape.len() > segment.tape.start {
            self.backward_of_last();
        }
        for at in backward..self.line.len() {
            for i in 0..self.line[at].arguments.len() {
                let tensor = self.line[at].arguments[i].tensor;
                self.line[at].arguments[i].tensor = self.renamed(&mut renamed, tensor);
            }
        }
        let mut needed: HashSet<Tensor> = self.line[backward..].iter().flat_map(|d| self.read_by(d)).collect();
        for at in (again..backward).rev() {
            if self.written_by(&self.line[at]).any(|tensor| needed.contains(&tensor)) {
                needed.extend(self.read_by(&self.line[at]).collect::<Vec<_>>());
            } else {
                self.line.remove(at);
            }
        }
    }

    /// Records the segment's dispatches again, except those that write only kept tensors. Returns the new names.
    fn record_again(&mut self, segment: &Segment, end: usize) -> HashMap<Tensor, Tensor> {
        let stays: HashSet<Tensor> = self.line[segment.line.end..end].iter().flat_map(|d| self.read_by(d)).collect();
        let mut renamed = HashMap::new();
        for at in segment.line.clone() {
            let mut dispatch = self.line[at].clone();
            let own: Vec<_> = self.written_by(&dispatch).filter(|t| segment.tensors.contains(&t.index())).collect();
            if own.iter().all(|tensor| stays.contains(tensor)) {
                continue;
            }
            for old in own {
                renamed.entry(old).or_insert_with(|| self.again(old, Role::Activation));
            }
            for argument in &mut dispatch.arguments {
                argument.tensor = self.renamed(&mut renamed, argument.tensor);
            }
            self.line.push(dispatch);
        }
        renamed
    }

    /// A tensor's name after `renamed`; a view of a renamed tensor is renamed too.
    fn renamed(&mut self, renamed: &mut HashMap<Tensor, Tensor>, tensor: Tensor) -> Tensor {
        if let Some(&new) = renamed.get(&tensor) {
            return new;
        }
        let Role::View { of, offset } = self.info(tensor).role else { return tensor };
        let new = self.renamed(renamed, of);
        if new == of {
            return tensor;
        }
        let view = self.again(tensor, Role::View { of: new, offset });
        renamed.insert(tensor, view);
        view
    }

    /// Adds a second tensor like `tensor`, with another role.
    fn again(&mut self, tensor: Tensor, role: Role) -> Tensor {
        let info = self.info(tensor).clone();
        self.add(Info { role, ..info })
    }

    fn read_by<'a>(&'a self, dispatch: &'a Dispatch) -> impl Iterator<Item = Tensor> + 'a {
        dispatch.arguments.iter().filter(|a| a.access != Access::Write).map(|a| self.root(a.tensor).0)
    }

    fn written_by<'a>(&'a self, dispatch: &'a Dispatch) -> impl Iterator<Item = Tensor> + 'a {
        dispatch.arguments.iter().filter(|a| a.access != Access::Read).map(|a| self.root(a.tensor).0)
    }
}
