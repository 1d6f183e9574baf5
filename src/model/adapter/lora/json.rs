//! `adapter_config.json`, as PEFT saves and loads it.

use serde_json::{Map, Value, json};

use super::super::keys::python;
use super::LoraConfig;
use super::keys::KEYS;
use crate::words::shown;

/// The version of PEFT whose file format this is.
const VERSION: &str = "0.21.2";

/// Fields of PEFT's `LoraConfig` for features that change what a LoRA computes and that are not supported, with what to do instead.
const UNSUPPORTED: [(&str, &str); 14] = [
    ("use_dora", "DoRA"),
    ("use_qalora", "QA-LoRA"),
    ("use_bdlora", "BD-LoRA"),
    ("lora_bias", "a bias of B"),
    ("layer_replication", "repeated layers"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("arrow_config", "Arrow"),
    ("velora_config", "VeLoRA"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "Monte Carlo LoRA"),
    ("megatron_config", "Megatron"),
    ("trainable_token_indices", "trained tokens"),
    ("target_parameters", "updates of bare parameters"),
    ("ensure_weight_tying", "updates of tied weights"),
];

/// What PEFT's initialisations that leave the base as it is are called; the values themselves come from the file.
const STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The contents of `adapter_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct PeftJson {
    pub config: LoraConfig,
    pub model_name: String,
    /// The modules of the base that are saved whole, by the last parts of their names.
    pub modules_to_save: Vec<String>,
    /// Whether the base's matrices are stored as (inputs, outputs), as GPT-2's are.
    pub transposed: bool,
}

impl PeftJson {
    /// The file, with the keys that PEFT and the tools that read its files need. `task_type` tells PEFT the class of the model, if
    /// it has one for it.
    pub(in super::super) fn write(&self, task_type: Option<&str>) -> String {
        let mut json: Map<String, Value> = KEYS.iter().map(|&(key, _)| (key.to_string(), self.config.value(key))).collect();
        let modules = if self.modules_to_save.is_empty() { Value::Null } else { self.modules_to_save.clone().into() };
        let rest = json!({
            "peft_type": "LORA", "task_type": task_type, "base_model_name_or_path": self.model_name, "bias": "none",
            "fan_in_fan_out": self.transposed, "inference_mode": true, "init_lora_weights": true, "layers_pattern": null,
            "modules_to_save": modules, "peft_version": VERSION, "revision": null, "use_dora": false,
        });
        json.extend(rest.as_object().expect("a map").clone());
        serde_json::to_string_pretty(&json).expect("a JSON value prints")
    }

    /// Reads the JSON of a file that has a `peft_type`. Keys may be missing, as in files of older versions.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub(in super::super) fn read(json: &Value) -> Result<PeftJson, String> {
        let json = json.as_object().ok_or("is not a map of PEFT's keys; save the adapter again")?;
        let given = |key: &str| json.get(key).filter(|value| is_set(value));
        let kind = json.get("peft_type").map_or("None".into(), python);
        if !kind.trim_matches('\'').eq_ignore_ascii_case("lora") {
            let kind = shown(&kind);
            return Err(format!(
                "'peft_type' is {kind}, but of PEFT's methods Graftling reads LoRA only; give a LoRA or a bottleneck adapter"
            ));
        }
        if let Some((key, what)) = UNSUPPORTED.into_iter().find(|(key, _)| given(key).is_some()) {
            return Err(format!("has {key} ({what}), which is not supported; merge the adapter with PEFT, or train it without"));
        }
        if let Some(bias) = json.get("bias").filter(|bias| !bias.is_null() && *bias != "none") {
            let bias = shown(&python(bias));
            return Err(format!("'bias' is {bias}, but trained biases of the base are not supported; train the adapter with bias='none'"));
        }
        match json.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(name)) if STARTS.iter().any(|start| name.eq_ignore_ascii_case(start)) => {}
            Some(other) => {
                let other = shown(&python(other));
                return Err(format!(
                    "'init_lora_weights' is {other}, which changes the base's own weights; convert the adapter to a plain LoRA with PEFT's \
                     path_initial_model_for_weight_conversion"
                ));
            }
        }
        if let Some(pattern) = given("layers_pattern") {
            let known = |name: &Value| name == "layers" || name == "h";
            if !(known(pattern) || pattern.as_array().is_some_and(|list| list.iter().all(known))) {
                return Err(format!("'layers_pattern' is {}, but the layers of the model are in 'layers' or 'h'", shown(&python(pattern))));
            }
        }
        let mut config = LoraConfig::default();
        for (key, _) in KEYS {
            if let Some(value) = json.get(key) {
                config.set(key, value)?;
            }
        }
        // PEFT keeps layers only for lists, but writes an empty one as it was.
        config.layers = config.layers.filter(|layers| !layers.is_empty());
        config.check()?;
        let modules_to_save = match given("modules_to_save") {
            None => Vec::new(),
            Some(list) => {
                let names = list.as_array().and_then(|list| list.iter().map(|name| name.as_str().map(str::to_string)).collect());
                names.ok_or_else(|| format!("'modules_to_save' is {}, but must be a list of modules", shown(&python(list))))?
            }
        };
        let model_name = json.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default().to_string();
        let transposed = json.get("fan_in_fan_out").and_then(Value::as_bool).unwrap_or(false);
        Ok(PeftJson { config, model_name, modules_to_save, transposed })
    }
}

/// Whether a value is true in Python's sense.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}
