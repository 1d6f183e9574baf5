//! The names of a LoRA's tensors and their initial values. In memory `MODULE.lora_A.weight` (rank, inputs) and `MODULE.lora_B.weight`
//! (outputs, rank), where MODULE is that of the base; on disk PEFT's, which are the same after [`PREFIX`].

use std::collections::BTreeMap;

use super::LoraConfig;
use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::model::Config;
use crate::model::names::Names;
use crate::random::Random;
use crate::weights::{Weight, Weights};
use crate::words::cut;

/// What precedes a module's name on disk: PEFT's model, and the base in it.
pub(super) const PREFIX: &str = "base_model.model.";

pub(in crate::model) const A: &str = ".lora_A.weight";
pub(in crate::model) const B: &str = ".lora_B.weight";

/// The module of the base that a tensor on disk belongs to.
pub(in super::super) fn module(on_disk: &str) -> Option<&str> {
    Some(on_disk.strip_prefix(PREFIX)?.rsplit_once('.')?.0)
}

/// Whether the tensor called `name` belongs to a LoRA.
pub(in super::super) fn is_lora(name: &str) -> bool {
    name.ends_with(A) || name.ends_with(B)
}

impl LoraConfig {
    /// The initial values of the tensor called `name`, PEFT's: A uniform within ±1/√inputs (He et al. 2015 with a = √5), B zero, so that the
    /// model starts identical to its base. `None` if it is not a LoRA's.
    pub(in super::super) fn start(name: &str, shape: &Shape, seed: u64, stream: u64) -> Option<Vec<f32>> {
        let (mut random, bound) = (Random::new(seed, stream), 1.0 / f64::from(shape.last()).sqrt());
        let len = 0..shape.len();
        match name {
            _ if name.ends_with(A) => Some(len.map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect()),
            _ if name.ends_with(B) => Some(len.map(|_| 0.0).collect()),
            _ => None,
        }
    }

    /// The shapes of all tensors in a model by their names in memory.
    fn tensors(&self, model: &Config) -> std::result::Result<BTreeMap<String, Shape>, String> {
        let both = |(name, target): (String, super::Target)| {
            [(format!("{name}{A}"), [target.rank, target.inputs].into()), (format!("{name}{B}"), [target.outputs, target.rank].into())]
        };
        Ok(self.targets(model)?.into_iter().flat_map(both).collect())
    }
}

/// The tensors for a model in memory: those of the LoRA, each of the shape that the configuration requires and with finite values only, and the
/// whole tensors of the base that were saved with them.
///
/// # Errors
/// [`Error::File`], naming the file and the tensor, if one is missing, has another shape, is not finite, or is not part of the model.
pub(in super::super) fn to_memory(disk: &Weights, config: &LoraConfig, model: &Config) -> Result<Weights> {
    let problem = |problem: String| Error::file(&disk.path, problem);
    let expected = config.tensors(model).map_err(problem)?;
    let names = Names::of(model.family);
    let outer = names.layers.split('.').next().expect("a name has a part");
    let mut memory = Weights { path: disk.path.clone(), ..Weights::default() };
    for (on_disk, weight) in &disk.tensors {
        let stray = |what: String| problem(format!("tensor '{}' {what}; the file does not match the config", cut(on_disk, 200)));
        let name = on_disk.strip_prefix(PREFIX).ok_or_else(|| stray(format!("does not begin with '{PREFIX}'")))?;
        // A base without a head has no outer module.
        let whole = name == names.head || name.starts_with(&format!("{}.", names.head)) || name.starts_with(&format!("{outer}."));
        let name = if whole { name.to_string() } else { format!("{outer}.{name}") };
        let weight = if is_lora(&name) {
            let Some(shape) = expected.get(&name) else {
                return Err(stray("is not part of this configuration and model".into()));
            };
            if weight.shape != *shape {
                return Err(stray(format!("has the shape {}, but the config and the model require {shape}", weight.shape)));
            }
            if let Some(at) = weight.first_non_finite() {
                return Err(problem(format!("tensor '{on_disk}' has a number that is not finite at element {at}; the file is damaged")));
            }
            model.outputs_in_model_order(&name, weight)
        } else {
            let tied = model.tied && name.starts_with(&format!("{}.", names.head));
            if names.translate(&name, names).is_none() || tied {
                let advice = if tied { "the model's head is its token embedding" } else { "it is not a tensor of the model" };
                return Err(problem(format!("tensor '{}' is not supported, since {advice}; train the LoRA without it", cut(on_disk, 200))));
            }
            model.in_model_order(&name, weight)
        };
        if memory.tensors.insert(name, weight).is_some() {
            return Err(stray("appears twice, with and without the base's prefix".into()));
        }
    }
    if let Some((name, shape)) = expected.iter().find(|(name, _)| !memory.tensors.contains_key(*name)) {
        return Err(problem(format!("has no tensor '{PREFIX}{name}' of shape {shape}; save the adapter again, or correct its config")));
    }
    Ok(memory)
}

/// The tensors under their names on disk, which they may have already, as have the elements Hugging Face's order.
pub(in super::super) fn to_disk<'a>(tensors: impl IntoIterator<Item = (&'a String, &'a Weight)>) -> Weights {
    let on_disk = |name: &str| if name.starts_with(PREFIX) { name.into() } else { format!("{PREFIX}{name}") };
    let tensors = tensors.into_iter().map(|(name, weight)| (on_disk(name), weight.clone())).collect();
    Weights { tensors, ..Weights::default() }
}
