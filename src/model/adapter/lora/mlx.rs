//! Reading the adapters of mlx-lm: `adapter_config.json` with `lora_parameters`, and `adapters.safetensors` with A and B transposed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::keys::{number, python, whole};
use super::tensors::{A, B, PREFIX};
use super::{LoraConfig, Targets};
use crate::weights::Weights;
use crate::words::shown;

/// Whether an `adapter_config.json` is mlx-lm's.
pub(in super::super) fn is_mlx(json: &Value) -> bool {
    ["lora_parameters", "fine_tune_type"].iter().any(|key| json.get(key).is_some())
}

/// A LoRA of mlx-lm as one of PEFT: the configuration, and the tensors under PEFT's names. mlx-lm's factor is s itself, so alpha is scale · rank.
///
/// # Errors
/// One sentence that names the key or the tensor.
pub(in super::super) fn from_mlx(json: &Value, weights: &Weights) -> Result<(LoraConfig, Weights), String> {
    if let Some(kind) = json.get("fine_tune_type").filter(|kind| *kind != "lora") {
        return Err(format!("'fine_tune_type' is {}, but of mlx-lm's kinds Graftling reads lora only", shown(&python(kind))));
    }
    let parameters =
        json.get("lora_parameters").ok_or("has no 'lora_parameters', so it does not describe a LoRA of mlx-lm; save it again")?;
    let field = |key: &str| parameters.get(key).ok_or_else(|| format!("has no '{key}' in 'lora_parameters'; save it again with mlx-lm"));
    let rank = whole("rank", field("rank")?)?;
    let alpha = (number("scale", field("scale")?)? * f64::from(rank)) as f32;
    let dropout = parameters.get("dropout").map_or(Ok(0.0), |dropout| number("dropout", dropout))? as f32;

    let mut tensors = BTreeMap::new();
    let mut modules = BTreeSet::new();
    for (name, weight) in &weights.tensors {
        let (module, end) = name.rsplit_once('.').unwrap_or((name, ""));
        let end = match end {
            "lora_a" => A,
            "lora_b" => B,
            _ => return Err(format!("tensor '{}' is neither a lora_a nor a lora_b; only plain LoRAs of mlx-lm are read", shown(name))),
        };
        if weight.shape.axes().len() != 2 {
            return Err(format!("tensor '{}' is not a matrix, as those of experts; only plain linear layers can have a LoRA", shown(name)));
        }
        // mlx-lm calls the decoder of every family `model`.
        let module = module.strip_prefix("model.h.").map_or_else(|| module.to_string(), |rest| format!("transformer.h.{rest}"));
        tensors.insert(format!("{PREFIX}{module}{end}"), weight.transposed());
        modules.insert(module);
    }
    let (targets, layers) = named(modules);
    let config = LoraConfig { rank, alpha, dropout, targets: Targets::Named(targets), layers, ..LoraConfig::default() };
    config.check()?;
    Ok((config, Weights { tensors, path: weights.path.clone(), ..Weights::default() }))
}

/// Modules as names inside a block and layers, if all combinations occur, else by their whole names.
pub(super) fn named(modules: BTreeSet<String>) -> (Vec<String>, Option<Vec<u32>>) {
    let split = |module: &String| {
        let mut parts = module.splitn(4, '.').skip(2);
        Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.to_string()))
    };
    let Some(places) = modules.iter().map(split).collect::<Option<Vec<_>>>() else { return (modules.into_iter().collect(), None) };
    let layers: BTreeSet<_> = places.iter().map(|(layer, _)| *layer).collect();
    let inside: BTreeSet<_> = places.into_iter().map(|(_, inside)| inside).collect();
    match layers.len() * inside.len() == modules.len() {
        true => (inside.into_iter().collect(), Some(layers.into_iter().collect())),
        false => (modules.into_iter().collect(), None),
    }
}
