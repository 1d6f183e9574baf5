//! AdapterFusion (Pfeiffer et al. 2021): frozen adapters whose outputs are mixed, at each token, by trained attention. Its configuration, weights and
//! files are those of the `adapters` library.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::json::{check_name, model_class, pretty};
use super::keys::{boolean, layer_number, number, python};
use super::setup::Declaring;
use super::{ATTENTION_PLACE, FFN_PLACE};
use crate::error::{Error, Result};
use crate::graph::{Graph, Piece, Shape, Tensor};
use crate::ops::{self, Linear};
use crate::random::Random;
use crate::weights::Weights;
use crate::words::{cut, did_you_mean, shown};

/// The part of a tensor's name in memory between the place and the end.
const IN_MEMORY: &str = ".adapter_fusion_layer.default.";

/// The configuration of a fusion: the library's `AdapterFusionConfig`, as far as it is supported.
#[derive(Clone, Debug, PartialEq)]
pub struct FusionConfig {
    /// The names of the adapters in its files. In a setup, they are those right below the fusion.
    pub adapters: Vec<String>,
    /// Whether the outputs pass through a trained matrix (`value`).
    pub value: bool,
    /// Whether that matrix starts near the identity (`value_initialized`).
    pub value_initialized: bool,
    /// Whether it is pulled towards the identity (`regularization`).
    pub regularization: bool,
    /// The dropout rate of the scores in training (`dropout_prob`).
    pub dropout: f32,
}

/// The library's keys that have one supported value.
const FIXED: [(&str, bool); 6] = [
    ("key", true),
    ("query", true),
    ("query_before_ln", false),
    ("residual_before", false),
    ("temperature", false),
    // Whether the matrix comes before or after the mixing makes no difference.
    ("value_before_softmax", true),
];

impl FusionConfig {
    /// The library's `dynamic` or `static` configuration of a fusion of these adapters.
    pub fn new(adapters: Vec<String>, dynamic: bool) -> FusionConfig {
        FusionConfig { adapters, value: dynamic, value_initialized: dynamic, regularization: dynamic, dropout: 0.0 }
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> std::result::Result<(), String> {
        for (i, name) in self.adapters.iter().enumerate() {
            check_name(name)?;
            if name.contains([',', '/', '\\']) {
                return Err(format!("a fusion cannot name the adapter '{}'; save it under a name without commas and slashes", shown(name)));
            }
            if self.adapters[..i].contains(name) {
                return Err(format!("the fusion has two adapters called '{}'; save one under another name", shown(name)));
            }
        }
        match self.adapters.len() {
            0 | 1 => Err("a fusion needs at least two adapters; repeat --fuse".into()),
            _ if !(0.0..1.0).contains(&self.dropout) => Err(format!("dropout_prob is {}; it must be from 0 to below 1", self.dropout)),
            _ => Ok(()),
        }
    }

    /// The name of the fusion.
    pub fn name(&self) -> String {
        self.adapters.join(",")
    }

    /// The weights at one place: the ends of their names, and their shapes.
    fn parameters(&self, hidden: u32) -> Vec<(&'static str, Shape)> {
        let mut parameters: Vec<(_, Shape)> = vec![
            ("query.weight", [hidden, hidden].into()),
            ("query.bias", [hidden].into()),
            ("key.weight", [hidden, hidden].into()),
            ("key.bias", [hidden].into()),
        ];
        parameters.extend(self.value.then(|| ("value.weight", [hidden, hidden].into())));
        parameters
    }

    /// The initial values of the tensor called `name` in memory; `None` if it is not a fusion's.
    pub(super) fn start(&self, name: &str, shape: &Shape, random: &mut Random) -> Option<Vec<f32>> {
        let (_, end) = name.split_once(IN_MEMORY)?;
        let size = u64::from(shape.last());
        let value = |i: u64| match end {
            "value.weight" if self.value_initialized && i / size == i % size => 1.0,
            "value.weight" if self.value_initialized => 1e-6,
            end if end.ends_with(".bias") => 0.0,
            _ => 0.02 * random.normal(),
        };
        Some((0..shape.len()).map(value).map(|v| v as f32).collect())
    }

    /// `adapter_fusion_config.json`.
    pub(super) fn write(&self, hidden_size: u32, model_type: &str, model_name: &str) -> String {
        let mut config: Map<String, Value> = FIXED.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        config.insert("value".into(), self.value.into());
        config.insert("value_initialized".into(), self.value_initialized.into());
        config.insert("regularization".into(), self.regularization.into());
        config.insert("dropout_prob".into(), if self.dropout == 0.0 { Value::Null } else { self.dropout.into() });
        pretty(&json!({
            "adapter_names": self.adapters, "config": config, "hidden_size": hidden_size, "model_class": model_class(model_type, None),
            "model_name": model_name, "model_type": model_type, "name": self.name(), "version": super::json::VERSION,
        }))
    }

    /// Reads an `adapter_fusion_config.json`.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub(super) fn read(json: &Value) -> std::result::Result<FusionConfig, String> {
        let missing = |key: &str| format!("has no '{key}', so it does not describe a fusion; save it with the adapters library");
        let names = json.get("adapter_names").and_then(Value::as_array).ok_or_else(|| missing("adapter_names"))?;
        let name = |name: &Value| name.as_str().map(str::to_string).ok_or(format!("'adapter_names' has {}", shown(&python(name))));
        let mut config = FusionConfig::new(names.iter().map(name).collect::<std::result::Result<_, String>>()?, true);
        for (key, value) in json.get("config").and_then(Value::as_object).ok_or_else(|| missing("config"))? {
            match &key[..] {
                "value" => config.value = boolean(key, value)?,
                "value_initialized" => config.value_initialized = boolean(key, value)?,
                "regularization" => config.regularization = boolean(key, value)?,
                "dropout_prob" if value.is_null() => config.dropout = 0.0,
                "dropout_prob" => config.dropout = number(key, value)? as f32,
                "value_before_softmax" => drop(boolean(key, value)?),
                key => {
                    let Some((_, only)) = FIXED.iter().find(|(known, _)| *known == key) else {
                        let known = FIXED.iter().map(|(known, _)| *known).chain(["value", "value_initialized", "dropout_prob"]);
                        let advice = did_you_mean(key, known).unwrap_or("save the fusion again".into());
                        return Err(format!("there is no key '{}' in a fusion; {advice}", shown(key)));
                    };
                    if value != only {
                        let (value, only) = (python(value), python(&(*only).into()));
                        return Err(format!("{key}={} is not supported; train the fusion with {only}", shown(&value)));
                    }
                }
            }
        }
        config.check()?;
        Ok(config)
    }
}

impl std::fmt::Display for FusionConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} fusion of {}", if self.value { "dynamic" } else { "static" }, self.adapters.join(", "))
    }
}

/// Whether the tensor called `name`, on disk or in memory, belongs to a fusion.
pub(super) fn is_fusion(name: &str) -> bool {
    name.contains(".adapter_fusion_layer.")
}

/// Converts the tensors of a fusion to their names in memory. Checks that each is one of a fusion in a model of `layers` layers, with its shape and
/// only finite values.
///
/// # Errors
/// [`Error::File`], naming the file and the tensor.
pub(super) fn to_memory(disk: &Weights, config: &FusionConfig, (prefix, layers, hidden): (&str, u32, u32)) -> Result<Weights> {
    let problem = |problem: String| Error::file(&disk.path, problem);
    let expected: HashMap<_, _> = config.parameters(hidden).into_iter().collect();
    let (_, bare) = prefix.split_once('.').unwrap_or((prefix, prefix));
    let mut memory = Weights { path: disk.path.clone(), ..Weights::default() };
    let mut found = BTreeMap::new();
    for (name, weight) in &disk.tensors {
        let stray = |what: &str| problem(format!("tensor '{}' {what}; the file does not match the config", cut(name, 200)));
        let own = format!(".adapter_fusion_layer.{}.", config.name());
        let parts = name.split_once(&own).and_then(|(at, end)| {
            let rest = at.strip_prefix(prefix).or_else(|| at.strip_prefix(bare))?.strip_prefix('.')?;
            let (layer, place) = rest.split_once('.')?;
            let known = place == ATTENTION_PLACE || place == FFN_PLACE;
            Some((layer_number(layer).filter(|&layer| known && layer < layers)?, place, end))
        });
        let Some((layer, place, end)) = parts else {
            return Err(stray(&format!("is not one of the fusion '{}' in a model of {layers} layers", shown(&config.name()))));
        };
        let Some(shape) = expected.get(end) else { return Err(stray("is not part of this configuration")) };
        if weight.shape != *shape {
            return Err(stray(&format!("has the shape {}, but the config requires {shape}", weight.shape)));
        }
        if let Some(at) = weight.first_non_finite() {
            return Err(problem(format!("tensor '{name}' has a number that is not finite at element {at}; the file is damaged")));
        }
        *found.entry((layer, place)).or_insert(0) += 1;
        memory.tensors.insert(format!("{prefix}.{layer}.{place}{IN_MEMORY}{end}"), weight.clone());
    }
    if let Some(((layer, place), _)) = found.iter().find(|(_, count)| **count != expected.len()) {
        return Err(problem(format!("lacks tensors of the fusion at {place} of layer {layer}; save the fusion again")));
    }
    Ok(memory)
}

/// The tensors under the names that the library loads.
pub(super) fn to_disk(weights: &Weights, config: &FusionConfig) -> Weights {
    let own = format!(".adapter_fusion_layer.{}.", config.name());
    let tensors = weights.tensors.iter().map(|(name, weight)| (name.replacen(IN_MEMORY, &own, 1), weight.clone())).collect();
    Weights { tensors, ..Weights::default() }
}

/// The weights of a fusion at one place.
pub(super) struct Fusion {
    query: Linear,
    key: Linear,
    value: Option<Linear>,
    dropout: f32,
}

impl Fusion {
    /// Adds the weights of the fusion at `place` in the layer called `at`.
    pub(super) fn new(p: &mut Declaring, config: &FusionConfig, at: &str, place: &str, hidden: u32) -> Fusion {
        let added: HashMap<_, _> = config
            .parameters(hidden)
            .into_iter()
            .map(|(end, shape)| (end, p.add(vec![Piece { name: format!("{at}.{place}{IN_MEMORY}{end}"), shape }])))
            .collect();
        let linear = |weight, bias| Some(Linear::new(*added.get(weight)?, added.get(bias).copied()));
        let required = |layer: Option<Linear>| layer.expect("a fusion has queries and keys");
        Fusion {
            query: required(linear("query.weight", "query.bias")),
            key: required(linear("key.weight", "key.bias")),
            value: linear("value.weight", "value.bias"),
            dropout: config.dropout,
        }
    }

    /// Mixes the outputs of adapters with input `x`. The matrix of the values comes after the mixing, which gives the same with fewer products.
    pub(super) fn apply(&self, g: &mut Graph, x: Tensor, outputs: &[Tensor]) -> Tensor {
        let outputs = ops::collected(g, outputs);
        let (query, keys) = (ops::linear(g, x, &self.query), ops::linear(g, outputs, &self.key));
        let mixed = ops::fusion(g, query, keys, outputs, self.dropout);
        self.value.as_ref().map_or(mixed, |value| ops::linear(g, mixed, value))
    }
}

/// Whether the tensor called `name` in memory is a matrix that a fusion pulls towards the identity.
pub(in crate::model) fn is_value(name: &str) -> bool {
    name.contains(IN_MEMORY) && name.ends_with(".value.weight")
}
