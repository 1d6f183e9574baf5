//! `adapter_config.json` and `head_config.json`, as the `adapters` library saves and loads them.

use serde_json::{Map, Value, json};

use super::BottleneckConfig;
use super::keys::{BOTTLENECK, FIXED, KEYS, python};
use super::presets::OTHER_METHODS;
use crate::ops::Activation;
use crate::words::shown;

/// The version of the library whose file format this is.
const VERSION: &str = "adapters.1.3.0";

/// The contents of `adapter_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AdapterJson {
    pub name: String,
    pub config: BottleneckConfig,
    pub hidden_size: u32,
    pub model_type: String,
    pub model_name: String,
}

impl AdapterJson {
    /// The file, with every key that the library writes.
    pub(super) fn write(&self) -> String {
        let mut config: Map<String, Value> =
            KEYS.iter().map(|&key| (key.to_string(), self.config.value(key, Some(self.hidden_size)))).collect();
        for (key, value) in FIXED {
            config.insert(key.into(), serde_json::from_str(value).expect("the table holds JSON"));
        }
        pretty(&self.with(json!({ "config": config, "name": self.name })))
    }

    /// `head_config.json`. Its `model_class` tells the library whether the head belongs to the model that loads it. The labels are the
    /// library's defaults, which a language model's head does not use.
    pub(super) fn write_head(&self) -> String {
        pretty(&self.with(json!({ "config": null, "name": null, "num_labels": 2, "label2id": { "LABEL_0": 0, "LABEL_1": 1 } })))
    }

    fn with(&self, json: Value) -> Value {
        let mut all = about(self.hidden_size, &self.model_type, &self.model_name);
        all["model_class"] = model_class(&self.model_type, self.config.inverse).into();
        all.as_object_mut().expect("a map").extend(json.as_object().expect("a map").clone());
        all
    }

    /// Reads an `adapter_config.json`. Keys of the config that have defaults in the library may be missing, as in files of older versions.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub(super) fn read(json: &Value) -> Result<AdapterJson, String> {
        let missing =
            |key: &str| format!("has no '{key}', so it does not describe a bottleneck adapter; save it with the adapters library");
        let field = |key: &str| json.get(key).ok_or_else(|| missing(key));
        let text = |key: &str| {
            let value = field(key)?;
            let text = value.as_str().ok_or_else(|| format!("'{key}' is {}, but must be text", shown(&python(value))))?;
            Ok::<_, String>(text.to_string())
        };
        let version = text("version")?;
        if !version.starts_with("adapters.") {
            let version = shown(&version);
            return Err(format!("'version' is '{version}', but must begin with 'adapters.'; load and save it with the adapters library"));
        }
        let config = field("config")?.as_object().ok_or("'config' is not a map of a bottleneck adapter's keys; save it again")?;
        let hidden = field("hidden_size")?;
        let known = hidden.as_u64().and_then(|h| u32::try_from(h).ok()).filter(|h| (1..=crate::model::LARGEST).contains(h));
        let problem = || format!("'hidden_size' is {}, but must be a model's hidden size", shown(&python(hidden)));
        let hidden_size = known.ok_or_else(problem)?;
        let model_name = if field("model_name")?.is_null() { String::new() } else { text("model_name")? };
        let name = text("name")?;
        check_name(&name)?;
        let mut config = read_config(config, &missing)?;
        if config.invertible {
            config.inverse = Some(inverts(&text("model_class")?));
        }
        Ok(AdapterJson { name, config, hidden_size, model_type: text("model_type")?, model_name })
    }
}

fn read_config(json: &Map<String, Value>, missing: &dyn Fn(&str) -> String) -> Result<BottleneckConfig, String> {
    if let Some(method) = json.get("architecture").filter(|method| !method.is_null()) {
        let method = method.as_str().unwrap_or("unknown");
        let known = if OTHER_METHODS.contains(&method) { "another method" } else { "not known" };
        return Err(format!(
            "'architecture' is '{}', which is {known}; Graftling reads bottleneck adapters and PEFT's LoRA",
            shown(method)
        ));
    }
    for key in ["mh_adapter", "output_adapter", "reduction_factor", "non_linearity"] {
        if !json.contains_key(key) {
            return Err(missing(key));
        }
    }
    let mut config = BottleneckConfig::bn(true, true, Activation::Relu, 1.0);
    for (key, value) in json.iter().filter(|(key, _)| *key != "architecture") {
        // `bottleneck` belongs in config strings, not in files.
        if key == BOTTLENECK {
            return Err("there is no key 'bottleneck' in files; use reduction_factor".into());
        }
        config.set(key, value)?;
    }
    config.check()?;
    Ok(config)
}

/// Checks an adapter's name, which is delimited by dots in tensor names.
///
/// # Errors
/// One sentence.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let bad = name.is_empty() || name.len() > 100 || name.contains(|c: char| c == '.' || c.is_control());
    match bad {
        true => Err(format!("'{}' is not a valid adapter name; use up to 100 characters without dots", shown(name))),
        false => Ok(()),
    }
}

/// What each file says about the model.
pub(super) fn about(hidden_size: u32, model_type: &str, model_name: &str) -> Value {
    json!({ "hidden_size": hidden_size, "model_name": model_name, "model_type": model_type, "version": VERSION })
}

/// Whether the library applies the inverse of an invertible adapter before the head of a model of this class. It does so in its own classes, and
/// where it hooks into a model; its own implementations of GPT-2 and Llama have only the forward half.
pub(super) fn inverts(model_class: &str) -> bool {
    model_class.ends_with("AdapterModel") || !["GPT2", "Llama"].iter().any(|hers| model_class.starts_with(hers))
}

/// The model's class with a language model's head in the `transformers` library, or in the `adapters` library if only that one applies the
/// `inverse` of an invertible adapter.
pub(super) fn model_class(model_type: &str, inverse: Option<bool>) -> &'static str {
    match model_type {
        "gpt2" if inverse == Some(true) => "GPT2AdapterModel",
        "llama" if inverse == Some(true) => "LlamaAdapterModel",
        "gpt2" => "GPT2LMHeadModel",
        "llama" => "LlamaForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        "bert" => "BertForMaskedLM",
        "roberta" => "RobertaForMaskedLM",
        "distilbert" => "DistilBertForMaskedLM",
        _ => "GraftlingForCausalLM",
    }
}

/// As Python's `json.dump(…, indent=2, sort_keys=True)` writes it.
fn pretty(json: &Value) -> String {
    serde_json::to_string_pretty(json).expect("a JSON value prints")
}
