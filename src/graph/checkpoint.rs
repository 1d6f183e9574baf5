//! Checkpointing: a segment of the line whose activations the backward pass computes again, so that they need not stay (Chen et al. 2016,
//! "Training Deep Nets with Sublinear Memory Cost").
//!
//! A recording is data, so no op knows of it. Before the backward of a segment is recorded, the segment's dispatches are recorded a second
//! time with new tensors in the place of those that they write; what the backward then reads of the old ones is renamed. Parameters are
//! copied, so dropout masks and all bits are the same.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{Access, Dispatch, Graph, Info, Role, Tensor};

/// What was recorded of a segment.
pub(super) struct Segment {
    line: Range<usize>,
    pub(super) tape: Range<usize>,
    tensors: Range<usize>,
}

impl Graph {
    /// Lets [`Graph::checkpointed`] have an effect.
    pub fn set_checkpointing(&mut self, on: bool) {
        self.checkpointing = on;
    }

    /// Records `f` as a segment, where checkpointing is on: of its activations only those stay that later ones are computed from. Segments
    /// do not nest.
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

    /// Records a segment again, its backward behind it, and takes out what the backward does without. The forward line ends at `end`.
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

    /// Records the segment's dispatches again, but for those that only write what stays. Returns the new names.
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

    /// What a tensor is called after `renamed`; a view of one that has a new name gets one too.
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

    /// A second tensor like `tensor`, in a role of its own.
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
