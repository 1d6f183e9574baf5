//! Which linear layers of a model are targets, by the rules of PEFT (`check_target_module_exists` in its `tuners/tuners_utils.py`).

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};

use super::{LoraConfig, Targets};
use crate::model::names::Names;
use crate::model::{Config, Family};
use crate::words::{did_you_mean, shown};

/// The memory that a compiled regular expression may take.
const REGEX_BYTES: usize = 1 << 20;

/// The update of one linear layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::model) struct Target {
    pub rank: u32,
    /// s.
    pub scaling: f32,
    pub outputs: u32,
    pub inputs: u32,
}

/// A linear layer in a block.
struct Module {
    /// Such as `model.layers.3.self_attn.q_proj`.
    name: String,
    layer: u32,
    outputs: u32,
    inputs: u32,
}

/// The names of the linear layers inside a block, with their outputs and inputs.
fn inside_block(model: &Config) -> Vec<(&'static str, u32, u32)> {
    let names = Names::of(model.family);
    let (hidden, ffn) = (model.hidden_size, model.intermediate_size);
    let (queries, keys) = (model.heads * model.head_size, model.key_value_heads * model.head_size);
    let qkv = if names.qkv.len() == 1 { vec![model.qkv_width()] } else { vec![queries, keys, keys] };
    let mut inside: Vec<_> = names.qkv.iter().zip(qkv).map(|(name, outputs)| (*name, outputs, hidden)).collect();
    inside.push((names.attention_output, hidden, queries));
    inside.extend(names.ffn_input(model.gated).iter().map(|name| (*name, ffn, hidden)));
    inside.push((names.ffn_output, hidden, ffn));
    inside
}

fn modules(model: &Config) -> Vec<Module> {
    let (names, inside) = (Names::of(model.family), inside_block(model));
    let module = |layer: u32, &(name, outputs, inputs): &(&str, u32, u32)| Module {
        name: format!("{}.{layer}.{name}", names.layers),
        layer,
        outputs,
        inputs,
    };
    (0..model.layers).flat_map(|layer| inside.iter().map(move |own| module(layer, own))).collect()
}

/// The last part of a module's name; of an encoder's many `dense`, the last two, since a name of PEFT's selects every module that ends with
/// it, outside of blocks too.
pub(super) fn short(name: &str) -> &str {
    let parts = if name.ends_with(".dense") { 2 } else { 1 };
    let start = name.rmatch_indices('.').nth(parts - 1).map_or(0, |(dot, _)| dot + 1);
    &name[start..]
}

/// PEFT's default for a model (`TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING`), or what is usual where it has none.
fn usual(family: Family) -> &'static [&'static str] {
    match family {
        Family::Graftling => &["in_proj"],
        Family::Gpt2 => &["c_attn"],
        Family::Llama | Family::Qwen2 | Family::Qwen3 => &["q_proj", "v_proj"],
        Family::Bert | Family::Roberta => &["query", "value"],
        Family::DistilBert => &["q_lin", "v_lin"],
    }
}

/// Whether a module is that of a list's entry.
fn is_named(module: &str, entry: &str) -> bool {
    module.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The regular expression for a whole name: `pattern`, after `before`.
fn expression(key: &str, before: &str, pattern: &str) -> Result<Regex, String> {
    let problem = |_| {
        format!("{key} has '{}', which is not a regular expression that Graftling supports (no look-around, no references)", shown(pattern))
    };
    RegexBuilder::new(&format!("^{before}(?:{pattern})$")).size_limit(REGEX_BYTES).build().map_err(problem)
}

/// The value of the first pattern that matches a module's name.
fn of_pattern<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|&(_, value)| value)
}

impl LoraConfig {
    /// The targets of a model by their modules' names, which are also those of its weights without `.weight`.
    ///
    /// # Errors
    /// One sentence that names the field, if the configuration is not valid or does not fit the model.
    pub(in crate::model) fn targets(&self, model: &Config) -> Result<BTreeMap<String, Target>, String> {
        self.check()?;
        let modules = modules(model);
        let all: Vec<_> = inside_block(model).iter().map(|&(name, ..)| short(name)).collect();
        let usual: Vec<_> = usual(model.family).iter().map(|name| name.to_string()).collect();
        let listed = match &self.targets {
            Targets::Usual => Some(&usual),
            Targets::Named(names) => Some(names),
            Targets::AllLinear | Targets::Matching(_) => None,
        };
        if let Some(strange) = listed.into_iter().flatten().find(|name| !modules.iter().any(|module| is_named(&module.name, name))) {
            let advice = did_you_mean(strange, all.iter().copied()).unwrap_or("leave it out".into());
            let (kind, all) = (model.family.model_type(), all.join(", "));
            return Err(format!("target_modules has '{}', but a LoRA of this {kind} model can be on {all}; {advice}", shown(strange)));
        }
        if let Some(beyond) = self.layers.iter().flatten().find(|&&layer| layer >= model.layers) {
            let layers = model.layers;
            return Err(format!("layers_to_transform has {beyond}, but the model has {layers} layers, counted from 0; name another layer"));
        }
        let matching = match &self.targets {
            Targets::Matching(pattern) => Some(expression("target_modules", "", pattern)?),
            _ => None,
        };
        let ranks = self.rank_pattern.iter().map(|(key, &rank)| Ok((expression("rank_pattern", r"(?:.*\.)?", key)?, rank)));
        let alphas = self.alpha_pattern.iter().map(|(key, &alpha)| Ok((expression("alpha_pattern", r"(?:.*\.)?", key)?, alpha)));
        let (ranks, alphas) = (ranks.collect::<Result<Vec<_>, String>>()?, alphas.collect::<Result<Vec<_>, String>>()?);

        let is_target = |module: &Module| {
            let chosen = match (&listed, &matching) {
                (Some(names), _) => names.iter().any(|name| is_named(&module.name, name)),
                (_, Some(pattern)) => pattern.is_match(&module.name),
                _ => true,
            };
            chosen
                && !self.exclude.iter().any(|name| is_named(&module.name, name))
                && self.layers.as_ref().is_none_or(|layers| layers.contains(&module.layer))
        };
        let target = |module: Module| {
            let rank = of_pattern(&ranks, &module.name).unwrap_or(self.rank);
            let alpha = f64::from(of_pattern(&alphas, &module.name).unwrap_or(self.alpha));
            let divisor = if self.rslora { f64::from(rank).sqrt() } else { f64::from(rank) };
            let Module { name, outputs, inputs, .. } = module;
            (name, Target { rank, scaling: (alpha / divisor) as f32, outputs, inputs })
        };
        let targets: BTreeMap<_, _> = modules.into_iter().filter(is_target).map(target).collect();
        if targets.is_empty() {
            let all = all.join(", ");
            return Err(format!("target_modules leaves no linear layer; as a list it names some of {all}, as text it matches whole names"));
        }
        Ok(targets)
    }

    /// The same configuration with the targets as PEFT saves them: a list of modules, or a regular expression.
    pub(in crate::model) fn resolved(&self, model: &Config) -> LoraConfig {
        let targets = match &self.targets {
            Targets::Usual => Targets::Named(usual(model.family).iter().map(|name| name.to_string()).collect()),
            Targets::AllLinear => {
                let mut names: Vec<_> = inside_block(model).iter().map(|&(name, ..)| short(name).to_string()).collect();
                names.sort();
                names.dedup();
                Targets::Named(names)
            }
            other => other.clone(),
        };
        LoraConfig { targets, ..self.clone() }
    }
}
