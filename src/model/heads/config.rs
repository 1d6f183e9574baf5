//! The configuration of a head that predicts labels or scores.

use super::classes::Classes;
use crate::model::Config;
use crate::ops::Activation;
use crate::text::Task;
use crate::weights::Weights;

/// A head that predicts labels or scores: dropout, a linear layer and, if there are two, an activation, dropout and another one. It reads
/// the hidden state of each word, or of the first token of a text (the last one in a decoder).
#[derive(Clone, Debug, PartialEq)]
pub struct HeadConfig {
    /// What it predicts; not [`Task::Language`].
    pub task: Task,
    /// Linear layers, 1 or 2.
    pub layers: u32,
    /// The activation between two layers.
    pub activation: Option<Activation>,
    /// Whether it reads the output of an encoder's pooler instead.
    pub pooler: bool,
    /// Whether the last layer has a bias.
    pub bias: bool,
    /// The dropout rate before each layer, in place of the base's.
    pub dropout: Option<f32>,
    /// The names of its tensors in files.
    pub form: HeadForm,
}

/// Whose names a head's tensors have in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadForm {
    /// Those of a model class of the `transformers` library, such as `score.weight`.
    Class,
    /// Those of the `adapters` library's heads, such as `heads.NAME.4.weight`.
    Flexible,
}

/// What precedes a layer's place in its name in memory.
const IN_MEMORY: &str = "heads.default.";

/// Whether the tensor called `name` in memory belongs to a head for labels.
pub(in crate::model) fn is_label_head(name: &str) -> bool {
    name.starts_with(IN_MEMORY)
}

impl HeadConfig {
    /// The usual head of a model for a task: that of its class in the `transformers` library, or for an encoder without a pooler the `adapters`
    /// library's.
    pub fn new(task: &Task, model: &Config) -> HeadConfig {
        let class = Classes::of(model.family.model_type()).map(|classes| classes.head(task.kind()));
        let class = class.filter(|class| !class.pooler || model.encoder.is_some_and(|encoder| encoder.pooler));
        let task = task.clone();
        match class {
            Some(class) => HeadConfig {
                task,
                layers: class.layers.len() as u32,
                activation: class.activation,
                pooler: class.pooler,
                bias: class.bias,
                dropout: None,
                form: HeadForm::Class,
            },
            None => HeadConfig {
                task,
                layers: 2,
                activation: Some(Activation::Tanh),
                pooler: false,
                bias: true,
                dropout: None,
                form: HeadForm::Flexible,
            },
        }
    }

    /// The number of values that it predicts for a text or a word.
    pub fn outputs(&self) -> u32 {
        self.task.labels().map_or(1, |labels| labels.len() as u32)
    }

    /// Each linear layer's name in memory, its outputs, and whether it has a bias. The number in the name is the layer's place in the
    /// library's sequence of dropouts, layers and activations.
    pub(super) fn layers(&self, hidden: u32) -> impl Iterator<Item = (String, u32, bool)> {
        let last = if self.layers == 1 { 1 } else { 3 + u32::from(self.activation.is_some()) };
        let dense = (self.layers == 2).then_some((1, hidden, true));
        let layers = dense.into_iter().chain([(last, self.outputs(), self.bias)]);
        layers.map(|(place, outputs, bias)| (format!("{IN_MEMORY}{place}"), outputs, bias))
    }

    /// The names of its linear layers on disk, for an architecture and a head called `name`; in memory they are those of
    /// [`HeadConfig::layers`].
    fn on_disk(&self, model_type: &str, name: &str) -> Vec<(String, String)> {
        let in_memory = self.layers(0).map(|(in_memory, ..)| in_memory);
        match (self.form, Classes::of(model_type)) {
            (HeadForm::Class, Some(classes)) => {
                in_memory.zip(classes.head(self.task.kind()).layers.iter().map(|layer| layer.to_string())).collect()
            }
            _ => in_memory.map(|layer| (layer.clone(), layer.replacen("default", name, 1))).collect(),
        }
    }

    /// Its tensors under their names on disk.
    pub fn to_disk(&self, memory: &Weights, model_type: &str, name: &str) -> Weights {
        let mut disk = Weights { path: memory.path.clone(), ..Weights::default() };
        for (in_memory, on_disk) in self.on_disk(model_type, name) {
            for kind in ["weight", "bias"] {
                if let Some(weight) = memory.tensors.get(&format!("{in_memory}.{kind}")) {
                    disk.tensors.insert(format!("{on_disk}.{kind}"), weight.clone());
                }
            }
        }
        disk
    }

    /// Gives the tensors of the head in `weights` their names in memory; all others keep theirs.
    pub(in crate::model) fn to_memory(&self, weights: &mut Weights, model_type: &str, name: &str) {
        for (in_memory, on_disk) in self.on_disk(model_type, name) {
            for kind in ["weight", "bias"] {
                if let Some(weight) = weights.tensors.remove(&format!("{on_disk}.{kind}")) {
                    weights.tensors.insert(format!("{in_memory}.{kind}"), weight);
                }
            }
        }
    }

    /// Takes the tensors of the head out of those of a model that was saved with it, under their names in memory.
    pub(in crate::model) fn take(&self, model: &mut Weights, model_type: &str) -> Weights {
        self.to_memory(model, model_type, "");
        let mut taken = Weights { path: model.path.clone(), ..Weights::default() };
        taken.tensors =
            model.tensors.iter().filter(|(name, _)| is_label_head(name)).map(|(name, weight)| (name.clone(), weight.clone())).collect();
        model.tensors.retain(|name, _| !is_label_head(name));
        taken
    }
}
