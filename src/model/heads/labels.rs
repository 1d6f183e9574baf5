//! The head that predicts labels or scores.

use super::HeadConfig;
use crate::graph::{DType, Graph, Shape, Tensor};
use crate::model::declared::Declared;
use crate::model::{Inputs, Model};
use crate::ops::{self, Linear, Pointwise, Pooling};
use crate::text::Task;

/// One or two linear layers on the hidden states of a text. It always trains, as adapters do.
pub(in crate::model) struct LabelHead {
    config: HeadConfig,
    dense: Option<Linear>,
    output: Linear,
}

impl LabelHead {
    /// Declares the head.
    pub fn new(p: &mut Declared, config: &HeadConfig) -> LabelHead {
        let hidden = p.config.hidden_size;
        let mut layers: Vec<_> = config
            .layers(hidden)
            .map(|(name, outputs, bias)| {
                let weight = p.parameters.add(format!("{name}.weight"), [outputs, hidden], DType::F32, true);
                Linear::new(weight, bias.then(|| p.parameters.add(format!("{name}.bias"), [outputs], DType::F32, true)))
            })
            .collect();
        let output = layers.pop().expect("a head has a layer");
        LabelHead { config: config.clone(), dense: layers.pop(), output }
    }

    pub fn config(&self) -> &HeadConfig {
        &self.config
    }

    pub fn targets(&self, [rows, length]: [u32; 2]) -> Shape {
        match &self.config.task {
            Task::Tagging(_) => [rows, length].into(),
            Task::MultiLabel(_) => [rows, self.config.outputs()].into(),
            _ => [rows].into(),
        }
    }

    /// The loss is the mean cross-entropy of labels, of which a text or a word has one; the mean squared error of scores; or the mean binary
    /// cross-entropy of labels of which a text can have several, over texts and labels.
    pub fn loss(&self, g: &mut Graph, model: &Model, hidden: Tensor, inputs: &Inputs, targets: Tensor) -> (Tensor, Option<Tensor>) {
        // There is so little of it that f16 would save nothing.
        g.in_single(|g| {
            let x = self.features(g, model, hidden, inputs);
            let kind = match &self.config.task {
                Task::MultiLabel(_) => Pointwise::Logistic,
                Task::Regression => Pointwise::SquaredError,
                _ => {
                    let loss = ops::cross_entropy(g, x, &self.output, targets);
                    return (loss, (!g.training()).then(|| ops::linear(g, x, &self.output)));
                }
            };
            let logits = ops::linear(g, x, &self.output);
            (ops::pointwise_loss(g, logits, targets, kind), (!g.training()).then_some(logits))
        })
    }

    /// The input of the last layer: of each word (batch, length, hidden), or of each text (batch, hidden).
    fn features(&self, g: &mut Graph, model: &Model, hidden: Tensor, inputs: &Inputs) -> Tensor {
        let dropout = self.config.dropout.unwrap_or(model.config.dropout.head);
        let mut x = hidden;
        if !matches!(self.config.task, Task::Tagging(_)) {
            let pooling = if model.config.encoder.is_some() { Pooling::First } else { Pooling::Last };
            x = ops::pool(g, hidden, inputs.lengths, pooling);
        }
        if self.config.pooler {
            x = model.pooled(g, x);
        }
        x = ops::dropout(g, x, dropout);
        if let Some(dense) = &self.dense {
            x = match self.config.activation {
                Some(activation) => ops::linear_activated(g, x, dense, activation),
                None => ops::linear(g, x, dense),
            };
            x = ops::dropout(g, x, dropout);
        }
        x
    }
}
