//! The names of an adapter's tensors: on disk with the adapter's own name and in the modules where the library has it, in memory with `default`
//! and the same two places in every family. Any other tensor is an error.

use std::collections::BTreeMap;

use super::keys::layer_number;
use super::{ATTENTION_PLACE, BottleneckConfig, FFN_PLACE};
use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::model::names::Names;
use crate::weights::Weights;
use crate::words::{cut, shown};

/// The part of a tensor's name in memory between the adapter's place and the end.
const IN_MEMORY: &str = ".adapters.default.";

/// The places in memory.
const PLACES: [&str; 2] = [ATTENTION_PLACE, FFN_PLACE];
/// Where the invertible adapter sits, in tensor names.
const INVERTIBLE: &str = "invertible_adapters";

/// The library's second name for the LayerNorm before the down-projection, which it also calls `adapter_down.0`.
const NORM_BEFORE: &str = "adapter_norm_before.";

/// The parts of a tensor's name.
#[derive(Debug, PartialEq)]
struct Name<'a> {
    /// The layer and the place in it; `None` for the invertible adapter.
    at: Option<(u32, &'a str)>,
    adapter: &'a str,
    end: &'a str,
}

impl<'a> Name<'a> {
    /// Parses `{prefix}.{layer}.{module}.adapters.{adapter}.{end}` and `{outer}.invertible_adapters.{adapter}.{end}`, with or without the base's
    /// part of the prefix (`transformer.` of `transformer.h`), which is `outer`. Returns `None` for any other name.
    fn parse(name: &'a str, prefix: &str, modules: [&str; 2]) -> Option<Name<'a>> {
        let (outer, bare) = prefix.split_once('.').unwrap_or((prefix, prefix));
        let inner = name.strip_prefix(outer).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
        if let Some(rest) = inner.strip_prefix(INVERTIBLE) {
            let (adapter, end) = rest.strip_prefix('.')?.split_once('.')?;
            return Some(Name { at: None, adapter, end });
        }
        let rest = name.strip_prefix(prefix).or_else(|| name.strip_prefix(bare))?.strip_prefix('.')?;
        let (layer, rest) = rest.split_once('.')?;
        let (module, rest) = rest.split_once(".adapters.")?;
        let (adapter, end) = rest.split_once('.')?;
        let place = PLACES[modules.iter().position(|own| *own == module)?];
        Some(Name { at: Some((layer_number(layer)?, place)), adapter, end })
    }
}

/// Whether the tensor called `name`, on disk or in memory, belongs to a bottleneck adapter.
pub(super) fn is_bottleneck(name: &str) -> bool {
    name.contains(".adapters.") || name.contains("invertible_adapters.")
}

/// The name in memory of an adapter's tensor: `end` is one of those that [`BottleneckConfig::parameters`] lists, and `layer` the part before
/// the place, such as `transformer.h.0`.
pub(in crate::model) fn name_in_memory(layer: &str, place: &str, end: &str) -> String {
    format!("{layer}.{place}{IN_MEMORY}{end}")
}

/// The name in memory of a tensor of the invertible adapter: `end` is one of those that [`BottleneckConfig::invertible_parameters`] lists, and
/// `outer` what all names of the base begin with.
pub(super) fn invertible_in_memory(outer: &str, end: &str) -> String {
    format!("{outer}.{INVERTIBLE}.default.{end}")
}

/// The end of a name that [`name_in_memory`] or [`invertible_in_memory`] made, or `None` for any other name.
pub(in crate::model) fn end_of(name: &str) -> Option<&str> {
    name.split_once(IN_MEMORY).or_else(|| name.split_once("invertible_adapters.default.")).map(|(_, end)| end)
}

fn name_on_disk(in_memory: &str, adapter: &str, modules: [&str; 2]) -> String {
    let place =
        PLACES.into_iter().zip(modules).find_map(|(place, module)| Some((in_memory.split_once(&format!(".{place}{IN_MEMORY}"))?, module)));
    match place {
        Some(((layer, end), module)) => format!("{layer}.{module}.adapters.{adapter}.{end}"),
        None => renamed(in_memory, "default", adapter),
    }
}

/// The name on disk of the tensor `on_disk` if its adapter were called `to`, not `from`. A LoRA's tensors do not have its name.
pub(super) fn renamed(on_disk: &str, from: &str, to: &str) -> String {
    let invertible = on_disk.contains("invertible_adapters.");
    let place = if invertible { "invertible_adapters." } else { ".adapters." };
    on_disk.replacen(&format!("{place}{from}."), &format!("{place}{to}."), 1)
}

/// Converts the tensors of the adapter called `name` to their names in memory, for a model of `layers` layers. Checks that each has the
/// shape that the configuration requires and only finite values. `names` are the model's.
///
/// # Errors
/// [`Error::File`], naming the file and the tensor, if a tensor is missing, has another shape or a value that is not finite, or is not part
/// of the adapter.
pub(super) fn to_memory(
    weights: &Weights,
    name: &str,
    config: &BottleneckConfig,
    (names, layers, hidden): (&Names, u32, u32),
) -> Result<Weights> {
    let (prefix, modules) = (names.layers, names.adapters);
    let problem = |problem: String| Error::file(&weights.path, problem);
    let expected = config.tensors(prefix, layers, hidden).map_err(problem)?;
    let mut memory = Weights { path: weights.path.clone(), ..Weights::default() };
    let mut norms = BTreeMap::new();
    for (on_disk, weight) in &weights.tensors {
        let stray = |what: String| problem(format!("tensor '{}' {what}; the file does not match the config", cut(on_disk, 200)));
        let Some(parts) = Name::parse(on_disk, prefix, modules) else {
            return Err(stray(format!("is not an adapter's tensor in '{prefix}'")));
        };
        let Name { at, adapter, end } = parts;
        if adapter != name {
            return Err(stray(format!("belongs to the adapter '{}', not to '{name}'", shown(adapter))));
        }
        match at {
            Some((layer, _)) if layer >= layers => {
                return Err(stray(format!("is for layer {layer}, but the model has {layers} layers")));
            }
            Some((layer, _)) if config.leaves_out(layer) => return Err(stray(format!("is for layer {layer}, which leave_out excludes"))),
            _ => {}
        }
        // The second name of the first norm is converted to its first.
        let norm = end.strip_prefix(NORM_BEFORE).filter(|_| config.ln_before);
        let end = norm.map_or_else(|| end.to_string(), |kind| format!("adapter_down.0.{kind}"));
        let in_memory = match at {
            Some((layer, place)) => name_in_memory(&format!("{prefix}.{layer}"), place, &end),
            None => invertible_in_memory(prefix.split('.').next().expect("a prefix has a part"), &end),
        };
        let Some(shape) = expected.get(&in_memory) else {
            return Err(stray("is not part of this configuration".into()));
        };
        if weight.shape != *shape {
            return Err(stray(format!("has the shape {}, but the config requires {shape}", weight.shape)));
        }
        if let Some(at) = weight.to_f32().iter().position(|value| !value.is_finite()) {
            let damaged = format!("tensor '{on_disk}' has a number that is not finite at element {at}; the file is damaged");
            return Err(problem(damaged));
        }
        let tensors = if norm.is_some() { &mut norms } else { &mut memory.tensors };
        if tensors.insert(in_memory, weight.clone()).is_some() {
            return Err(stray("appears twice, with and without the base's prefix".into()));
        }
    }
    for (in_memory, weight) in norms {
        if memory.tensors.entry(in_memory.clone()).or_insert_with(|| weight.clone()) != &weight {
            return Err(problem(format!("tensor '{in_memory}' differs from its copy in 'adapter_norm_before'; save the adapter again")));
        }
    }
    let here = |in_memory: &&String| !memory.tensors.contains_key(*in_memory);
    if let Some(missing) = expected.keys().find(here) {
        let on_disk = name_on_disk(missing, name, modules);
        let of: &Shape = &expected[missing];
        return Err(problem(format!("has no tensor '{on_disk}' of shape {of}; save the adapter again, or correct its config")));
    }
    Ok(memory)
}

/// Converts the tensors to the names that the library loads: with the adapter's own name, and with both names for a LayerNorm before the
/// down-projection. `names` are those of the adapter's model.
pub(super) fn to_disk(weights: &Weights, name: &str, config: &BottleneckConfig, names: &Names) -> Weights {
    let mut disk = Weights::default();
    for (in_memory, weight) in &weights.tensors {
        let on_disk = name_on_disk(in_memory, name, names.adapters);
        if config.ln_before && on_disk.contains(".adapter_down.0.") {
            disk.tensors.insert(on_disk.replacen("adapter_down.0.", NORM_BEFORE, 1), weight.clone());
        }
        disk.tensors.insert(on_disk, weight.clone());
    }
    disk
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::weights::Weight;

    const LAYERS: u32 = 3;
    const HIDDEN: u32 = 8;

    fn model(family: Family) -> (&'static Names, u32, u32) {
        (Names::of(family), LAYERS, HIDDEN)
    }

    /// Leaves out a layer, and has both norms.
    fn config() -> BottleneckConfig {
        BottleneckConfig { leave_out: vec![1], ln_before: true, ln_after: true, ..BottleneckConfig::seq_bn() }
    }

    fn memory(config: &BottleneckConfig, family: Family) -> Weights {
        let mut weights = Weights::default();
        for (i, (name, shape)) in config.tensors(Names::of(family).layers, LAYERS, HIDDEN).expect("a good config").into_iter().enumerate() {
            let values: Vec<f32> = (0..shape.len()).map(|j| (i * 100 + j as usize) as f32).collect();
            weights.tensors.insert(name, Weight::from_f32(shape, &values));
        }
        weights
    }

    #[test]
    fn names_come_back() {
        let configs = [config(), BottleneckConfig::identity_bn(4), BottleneckConfig::adapter_plus()];
        for (config, family) in configs.iter().flat_map(|config| [Family::Gpt2, Family::Bert, Family::DistilBert].map(|f| (config, f))) {
            let weights = memory(config, family);
            let disk = to_disk(&weights, "task", config, Names::of(family));
            assert!(disk.tensors.keys().all(|name| name.contains(".adapters.task.")));
            assert_eq!(to_memory(&disk, "task", config, model(family)).expect("good tensors").tensors, weights.tensors);
            // Without the base's prefix, as a model without a head saves it.
            let without = |name: &str| name.split_once('.').expect("a prefix").1.to_string();
            let bare = disk.tensors.iter().map(|(name, weight)| (without(name), weight.clone())).collect();
            let bare = Weights { tensors: bare, ..Weights::default() };
            assert_eq!(to_memory(&bare, "task", config, model(family)).expect("good tensors").tensors, weights.tensors);
        }
    }

    #[test]
    fn the_modules_are_the_librarys() {
        let config = BottleneckConfig::double_seq_bn();
        let disk = |family| to_disk(&memory(&config, family), "task", &config, Names::of(family));
        let (bert, distilbert) = (disk(Family::Bert), disk(Family::DistilBert));
        for (disk, module) in [
            (&bert, "bert.encoder.layer.2.attention.output.adapters"),
            (&bert, "bert.encoder.layer.0.output.adapters"),
            (&distilbert, "distilbert.transformer.layer.1.attention_adapters.adapters"),
            (&distilbert, "distilbert.transformer.layer.1.output_adapters.adapters"),
        ] {
            assert!(disk.tensors.contains_key(&format!("{module}.task.adapter_down.0.weight")), "{module}");
        }
    }

    #[test]
    fn one_name_of_the_first_norm_is_enough() {
        let disk = to_disk(&memory(&config(), Family::Gpt2), "task", &config(), Names::of(Family::Gpt2));
        for gone in ["adapter_norm_before.", "adapter_down.0."] {
            let kept = disk.tensors.clone().into_iter().filter(|(name, _)| !name.contains(gone)).collect();
            let kept = Weights { tensors: kept, ..Weights::default() };
            assert_eq!(
                to_memory(&kept, "task", &config(), model(Family::Gpt2)).expect("good tensors").tensors,
                memory(&config(), Family::Gpt2).tensors
            );
        }
    }

    #[test]
    fn what_does_not_belong_is_named() {
        let at = "transformer.h.0.output_adapters.adapters.task";
        let (up, down) = (format!("{at}.adapter_up.bias"), format!("{at}.adapter_down.1.weight"));
        let ones = |shape: [u32; 1]| Weight::from_f32(shape.into(), &vec![1.0; shape[0] as usize]);
        let put = |name: &str| (None, Some((name.to_string(), ones([8]))));
        let cases = [
            ((Some(up.clone()), None), format!("has no tensor '{up}' of shape (8)")),
            ((None, Some((up.clone(), ones([7])))), format!("tensor '{up}' has the shape (7), but the config requires (8)")),
            ((None, Some((down.clone(), ones([8])))), format!("tensor '{down}' has the shape (8), but the config requires (1, 8)")),
            ((None, Some((up.clone(), Weight::from_f32([8].into(), &[f32::NAN; 8])))), "not finite at element 0".into()),
            (put(&format!("{at}.gate.bias")), "is not part of this configuration".into()),
            (put(&format!("{at}.scaling")), "is not part of this configuration".into()),
            (put(&up.replace("output", "attention")), "is not part of this configuration".into()),
            (put(&up.replace("task", "other")), "belongs to the adapter 'other', not to 'task'".into()),
            (put(&up.replace(".0.", ".3.")), "is for layer 3, but the model has 3 layers".into()),
            (put(&up.replace(".0.", ".1.")), "is for layer 1, which leave_out excludes".into()),
            (put(&up.replace(".0.", ".00.")), "is not an adapter's tensor".into()),
            (put(&up.replace(".0.", ".x.")), "is not an adapter's tensor".into()),
            (put(&up.replace(".0.", ".99999999999.")), "is not an adapter's tensor".into()),
            (put(&up.replace("output", "cross")), "is not an adapter's tensor".into()),
            (put(&up.replace("transformer.h", "model.layers")), "is not an adapter's tensor in 'transformer.h'".into()),
            (put("transformer.wte.weight"), "is not an adapter's tensor".into()),
            (put(""), "tensor '' is not an adapter's tensor".into()),
            (put(&up.replace("transformer.", "")), "appears twice".into()),
            (put(&format!("{at}.adapter_norm_before.bias")), "differs from its copy".into()),
        ];
        for ((gone, put), words) in cases {
            let mut disk = to_disk(&memory(&config(), Family::Gpt2), "task", &config(), Names::of(Family::Gpt2));
            disk.path = "adapter.safetensors".into();
            gone.map(|name| disk.tensors.remove(&name).expect("it was there"));
            disk.tensors.extend(put);
            let problem = to_memory(&disk, "task", &config(), model(Family::Gpt2)).expect_err(&words).to_string();
            assert!(problem.starts_with("adapter.safetensors: ") && problem.contains(&words), "'{problem}' does not say '{words}'");
        }
    }
}
