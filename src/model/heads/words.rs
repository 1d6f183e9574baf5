//! The head that predicts words.

use crate::graph::{Graph, Tensor};
use crate::model::Config;
use crate::model::declared::Declared;
use crate::model::names::Names;
use crate::ops::{self, Linear, Norm};

/// What predicts words.
pub(in crate::model) struct WordHead {
    /// The linear layer, followed by the model's activation, and the norm of an encoder's head.
    transform: Option<(Linear, Norm)>,
    words: Linear,
}

impl WordHead {
    /// Declares the head of a model with these token embeddings.
    pub fn new(p: &mut Declared, config: &Config, tokens: Tensor) -> WordHead {
        let (names, trains, hidden) = (Names::of(config.family), p.trains.head, config.hidden_size);
        let [dense, norm] = names.head_transform;
        let transform = config.encoder.map(|_| (p.part_of_head(dense, [hidden, hidden]), p.norm_of(norm, trains)));
        let weight = if config.tied { tokens } else { p.matrix(names.head, config.vocab_size, hidden, trains) };
        let bias = config.biases.head.then(|| p.vector(format!("{}.bias", names.head_bias), config.vocab_size, trains));
        WordHead { transform, words: Linear::new(weight, bias) }
    }

    /// Records the loss for `targets` (batch, length); see [`ops::cross_entropy`].
    pub fn loss(&self, g: &mut Graph, config: &Config, hidden: Tensor, targets: Tensor) -> Tensor {
        let x = self.transformed(g, config, hidden);
        ops::cross_entropy(g, x, &self.words, targets)
    }

    /// The logits (…, vocabulary) of hidden states (…, hidden).
    pub fn logits(&self, g: &mut Graph, config: &Config, hidden: Tensor) -> Tensor {
        let x = self.transformed(g, config, hidden);
        ops::linear(g, x, &self.words)
    }

    /// The input of the last layer.
    fn transformed(&self, g: &mut Graph, config: &Config, x: Tensor) -> Tensor {
        let Some((dense, norm)) = &self.transform else { return x };
        let x = ops::linear_activated(g, x, dense, config.activation);
        ops::norm(g, x, norm)
    }
}
