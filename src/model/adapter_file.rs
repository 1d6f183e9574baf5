//! Adapters on disk, as the `adapters` library (AdapterHub) writes and reads them: `adapter_config.json` and `adapter.safetensors`.

use std::path::Path;

use serde_json::{Value, json};

use super::{AdapterConfig, Model};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::weights::{Weights, replace_file};

/// Writes `adapter_config.json`, `adapter.safetensors` and, where the head trained too, `model_head.safetensors` into `directory`.
/// `weights` is what [`Model::download`] gave; `base` names the base model in the config.
///
/// # Errors
/// [`Error::Write`].
pub fn write_adapter(directory: &Path, model: &Model, weights: &Weights, base: &str) -> Result<()> {
    let config = model.adapters.as_ref().ok_or_else(|| Error::Usage("the model has no adapter to write".into()))?;
    let hidden = model.config.hidden_size;
    let mut adapter = Weights::default();
    let mut head = Weights::default();
    for (name, weight) in &weights.tensors {
        if name.contains("_adapters.") {
            adapter.tensors.insert(name.clone(), weight.clone());
        } else if name.starts_with("cls.") {
            head.tensors.insert(name.clone(), weight.clone());
        }
    }
    adapter.write(&directory.join("adapter.safetensors"))?;
    if !head.tensors.is_empty() {
        head.write(&directory.join("model_head.safetensors"))?;
    }
    let json = serde_json::to_string_pretty(&to_json(config, hidden, base)).expect("a JSON value prints") + "\n";
    replace_file(&directory.join("adapter_config.json"), json.as_bytes())
}

/// Reads what [`write_adapter`] or the library wrote.
///
/// # Errors
/// [`Error::File`], naming file and field.
pub fn read_adapter(directory: &Path) -> Result<(AdapterConfig, Weights)> {
    let path = directory.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, format!("cannot be read ({e}); check the path")))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("is not JSON: {e}")))?;
    let config = from_json(&json).map_err(|problem| Error::file(&path, problem))?;
    let mut weights = Weights::read(&directory.join("adapter.safetensors"))?;
    let head = directory.join("model_head.safetensors");
    if head.exists() {
        weights.tensors.extend(Weights::read(&head)?.tensors);
    }
    Ok((config, weights))
}

/// The library's BnConfig with all its keys.
fn to_json(config: &AdapterConfig, hidden: u32, base: &str) -> Value {
    json!({
        "config": {
            "adapter_residual_before_ln": false, "cross_adapter": false, "dropout": config.dropout, "init_weights": "mam_adapter",
            "init_weights_seed": null, "inv_adapter": null, "inv_adapter_reduction_factor": null, "is_parallel": false, "leave_out": [],
            "ln_after": false, "ln_before": false, "mh_adapter": true, "non_linearity": config.activation.name(),
            "original_ln_after": true, "original_ln_before": false, "output_adapter": true,
            "phm_bias": true, "phm_c_init": "normal", "phm_dim": 4, "phm_init_range": 0.0001, "phm_layer": false, "phm_rank": 1,
            "reduction_factor": reduction_factor(hidden, config.bottleneck(0, hidden).unwrap_or(1)), "residual_before_ln": true, "scaling": if let super::Scaling::Fixed(factor) = config.scaling { factor } else { 1.0 },
            "factorized_phm_W": true, "factorized_phm_rule": false, "hypercomplex_nonlinearity": "glorot-uniform", "learn_phm": true,
            "shared_W_phm": false, "shared_phm_rule": true, "stochastic_depth": 0.0, "use_gating": false,
        },
        "hidden_size": hidden,
        "model_class": "GraftlingForCausalLM",
        "model_name": base,
        "model_type": "graftling",
        "name": "default",
        "version": "adapters.1.3.0",
    })
}

/// A factor f such that the library's `int(hidden // f)` is the bottleneck.
fn reduction_factor(hidden: u32, bottleneck: u32) -> f64 {
    let (hidden, bottleneck) = (f64::from(hidden), f64::from(bottleneck));
    let exact = hidden / bottleneck;
    if (hidden / exact).floor() == bottleneck { exact } else { hidden / (bottleneck + 0.5) }
}

fn from_json(json: &Value) -> std::result::Result<AdapterConfig, String> {
    let config = json.get("config").ok_or("has no 'config'; it is not the file of a bottleneck adapter")?;
    let field = |name: &str| config.get(name).ok_or(format!("has no '{name}' in its config"));
    let expected = [
        ("mh_adapter", json!(true)),
        ("output_adapter", json!(true)),
        ("ln_before", json!(false)),
        ("ln_after", json!(false)),
        ("is_parallel", json!(false)),
        ("use_gating", json!(false)),
        ("leave_out", json!([])),
    ];
    for (name, value) in expected {
        if *field(name)? != value {
            return Err(format!("has {name} = {}, of which only {value} is supported", field(name)?));
        }
    }
    let number = |name: &str| field(name)?.as_f64().ok_or(format!("has a '{name}' that is not a number"));
    let hidden = json.get("hidden_size").and_then(Value::as_u64).ok_or("has no 'hidden_size'")?;
    let factor = number("reduction_factor")?;
    let bottleneck = (hidden as f64 / factor).floor().max(1.0);
    if !(factor > 0.0 && bottleneck <= 512.0) {
        return Err(format!("has a reduction_factor of {factor}, which gives no bottleneck from 1 to 512"));
    }
    let activation = field("non_linearity")?.as_str().unwrap_or_default();
    let dropout = number("dropout")? as f32;
    if !(0.0..1.0).contains(&dropout) {
        return Err(format!("has a dropout of {dropout}; it must be from 0 to below 1"));
    }
    Ok(AdapterConfig {
        activation: Activation::from_name(activation).ok_or(format!("has the unknown non_linearity '{activation}'"))?,
        dropout,
        scaling: super::Scaling::Fixed(number("scaling")? as f32),
        ..AdapterConfig::identity_bn(bottleneck as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bottleneck_survives_the_factor() {
        for hidden in [32, 128, 192, 576, 768, 4096, 8192] {
            for bottleneck in 1..=512.min(hidden) {
                let factor = reduction_factor(hidden, bottleneck);
                assert_eq!((f64::from(hidden) / factor).floor(), f64::from(bottleneck), "{hidden} / {factor}");
            }
        }
    }

    #[test]
    fn a_config_comes_back() {
        let config = AdapterConfig { activation: Activation::Silu, dropout: 0.25, ..AdapterConfig::identity_bn(24) };
        assert_eq!(from_json(&to_json(&config, 192, "base")), Ok(config));
    }
}
