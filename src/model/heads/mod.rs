//! Heads: what predicts something from the hidden states. A model has the head of a language model, which predicts words, or one that
//! predicts what people say about a text.

mod classes;
mod config;
mod files;
mod labels;
mod words;

pub(super) use config::is_label_head;
pub use config::{HeadConfig, HeadForm};
pub(super) use files::{read_head, write_head};
pub(super) use labels::LabelHead;
pub(super) use words::WordHead;

use super::{Inputs, Model};
use crate::graph::{Graph, Shape, Tensor};

/// A model's head.
pub(super) enum Head {
    /// Predicts the token after each token, or a masked one.
    Words(WordHead),
    /// Predicts the labels or the score of a text, or the label of each of its words.
    Labels(LabelHead),
}

impl Head {
    /// The shape of the targets of a batch.
    pub fn targets(&self, [rows, length]: [u32; 2]) -> Shape {
        match self {
            Head::Words(_) => [rows, length].into(),
            Head::Labels(head) => head.targets([rows, length]),
        }
    }

    /// Records the loss for `targets`, and outside of training what a head for labels predicts.
    pub fn loss(&self, g: &mut Graph, model: &Model, hidden: Tensor, inputs: &Inputs, targets: Tensor) -> (Tensor, Option<Tensor>) {
        match self {
            Head::Words(head) => (head.loss(g, &model.config, hidden, targets), None),
            Head::Labels(head) => head.loss(g, model, hidden, inputs, targets),
        }
    }
}
