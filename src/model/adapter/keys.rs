//! The library's names for an adapter's fields, and their conversion from and to values. Config strings and `adapter_config.json` share
//! this code, so they accept and reject the same values.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::config::reduction_factor;
use super::{BottleneckConfig, Init, Scaling, Width};
use crate::ops::Activation;
use crate::words::{did_you_mean, shown};

/// The library's fields that [`BottleneckConfig`] has, in the library's order.
pub(super) const KEYS: [&str; 19] = [
    "mh_adapter",
    "output_adapter",
    "reduction_factor",
    "non_linearity",
    "original_ln_before",
    "original_ln_after",
    "ln_before",
    "ln_after",
    "init_weights",
    "init_weights_seed",
    "is_parallel",
    "scaling",
    "residual_before_ln",
    "adapter_residual_before_ln",
    "inv_adapter",
    "inv_adapter_reduction_factor",
    "leave_out",
    "dropout",
    "stochastic_depth",
];

/// The library's fields of unsupported features, with the only value allowed, as JSON.
pub(super) const FIXED: [(&str, &str); 14] = [
    ("use_gating", "false"),
    ("cross_adapter", "false"),
    ("phm_layer", "false"),
    ("phm_dim", "4"),
    ("factorized_phm_W", "true"),
    ("shared_W_phm", "false"),
    ("shared_phm_rule", "true"),
    ("factorized_phm_rule", "false"),
    ("phm_c_init", "\"normal\""),
    ("phm_init_range", "0.0001"),
    ("learn_phm", "true"),
    ("hypercomplex_nonlinearity", "\"glorot-uniform\""),
    ("phm_rank", "1"),
    ("phm_bias", "true"),
];

/// An alternative way to set the width, in config strings only.
pub(super) const BOTTLENECK: &str = "bottleneck";

impl BottleneckConfig {
    /// The value of one of [`KEYS`]. `hidden` converts a bottleneck to a reduction factor; without it, a bottleneck stays a width.
    pub(super) fn value(&self, key: &str, hidden: Option<u32>) -> Value {
        match key {
            "mh_adapter" => self.attention.into(),
            "output_adapter" => self.ffn.into(),
            "reduction_factor" => match &self.width {
                Width::Bottleneck(width) => hidden.map_or((*width).into(), |hidden| factor(reduction_factor(hidden, *width))),
                Width::Reduction(f) => factor(*f),
                Width::Reductions(factors, default) => {
                    let named = factors.iter().map(|(layer, f)| (layer.to_string(), factor(*f)));
                    named.chain(default.map(|f| ("default".into(), factor(f)))).collect::<Map<_, _>>().into()
                }
            },
            // The library's presets call it swish.
            "non_linearity" if self.activation == Activation::Silu => "swish".into(),
            "non_linearity" => self.activation.name().into(),
            "original_ln_before" => self.original_ln_before.into(),
            "original_ln_after" => self.original_ln_after.into(),
            "ln_before" => self.ln_before.into(),
            "ln_after" => self.ln_after.into(),
            "init_weights" => match self.init {
                Init::Bert => "bert".into(),
                Init::MamAdapter => "mam_adapter".into(),
                Init::Houlsby => "houlsby".into(),
            },
            "init_weights_seed" => self.init_seed.into(),
            "is_parallel" => self.parallel.into(),
            "scaling" => match self.scaling {
                Scaling::Fixed(f) => float(f),
                Scaling::Learned => "learned".into(),
                Scaling::Channel => "channel".into(),
            },
            "residual_before_ln" => self.residual_before_ln.into(),
            "adapter_residual_before_ln" => self.adapter_residual_before_ln.into(),
            "inv_adapter" => self.invertible.then_some("nice").into(),
            "inv_adapter_reduction_factor" => self.invertible_reduction.map(factor).into(),
            "leave_out" => self.leave_out.clone().into(),
            "dropout" => float(self.dropout),
            "stochastic_depth" => float(self.stochastic_depth),
            _ => unreachable!("'{key}' is not in the table of keys"),
        }
    }

    /// Sets the field that the library calls `key`.
    ///
    /// # Errors
    /// One sentence that names the key, if it is unknown or unsupported or does not allow the value.
    pub(super) fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "mh_adapter" => self.attention = boolean(key, value)?,
            "output_adapter" => self.ffn = boolean(key, value)?,
            "reduction_factor" => self.width = width(key, value)?,
            BOTTLENECK => self.width = Width::Bottleneck(whole(key, value)?),
            "non_linearity" => self.activation = activation(key, value)?,
            "original_ln_before" => self.original_ln_before = boolean(key, value)?,
            "original_ln_after" => self.original_ln_after = boolean(key, value)?,
            "ln_before" => self.ln_before = boolean(key, value)?,
            "ln_after" => self.ln_after = boolean(key, value)?,
            "init_weights" => {
                self.init = match value.as_str() {
                    Some("bert") => Init::Bert,
                    Some("mam_adapter") => Init::MamAdapter,
                    Some("houlsby") => Init::Houlsby,
                    _ => return Err(wrong(key, value, "'bert', 'mam_adapter' or 'houlsby'")),
                }
            }
            "init_weights_seed" if value.is_null() => self.init_seed = None,
            "init_weights_seed" => {
                self.init_seed = Some(value.as_u64().ok_or_else(|| wrong(key, value, "None or a whole number from 0 up"))?);
            }
            "is_parallel" => self.parallel = boolean(key, value)?,
            "scaling" => {
                self.scaling = match (value.as_str(), value.as_f64()) {
                    (Some("learned"), _) => Scaling::Learned,
                    (Some("channel"), _) => Scaling::Channel,
                    (_, Some(f)) => Scaling::Fixed(f as f32),
                    _ => return Err(wrong(key, value, "a number, 'learned' or 'channel'")),
                }
            }
            "residual_before_ln" if value == "post_add" => {
                return Err(
                    "residual_before_ln='post_add' is not supported, since it needs a norm after the residual sum; use True or False"
                        .into(),
                );
            }
            "residual_before_ln" => self.residual_before_ln = boolean(key, value)?,
            "adapter_residual_before_ln" => self.adapter_residual_before_ln = boolean(key, value)?,
            "inv_adapter" if value == "glow" => {
                return Err("inv_adapter='glow' is not supported, and the adapters library fails to run it; use 'nice'".into());
            }
            "inv_adapter" if value.is_null() || value == "nice" => self.invertible = !value.is_null(),
            "inv_adapter" => return Err(wrong(key, value, "'nice' or None")),
            "inv_adapter_reduction_factor" if value.is_null() => self.invertible_reduction = None,
            "inv_adapter_reduction_factor" => self.invertible_reduction = Some(number(key, value)?),
            "leave_out" => {
                let list = value.as_array().ok_or_else(|| wrong(key, value, "a list of layers such as [0, 1]"))?;
                self.leave_out = list.iter().map(|layer| whole(key, layer)).collect::<Result<_, _>>()?;
            }
            "dropout" => self.dropout = number(key, value)? as f32,
            "stochastic_depth" => self.stochastic_depth = number(key, value)? as f32,
            _ => return fixed(key, value),
        }
        Ok(())
    }
}

/// Checks a key that allows only one value; other keys are unknown.
fn fixed(key: &str, value: &Value) -> Result<(), String> {
    let Some((_, only)) = FIXED.iter().find(|(known, _)| *known == key) else {
        let known = KEYS.into_iter().chain([BOTTLENECK]).chain(FIXED.map(|(known, _)| known));
        let advice = did_you_mean(key, known).unwrap_or_else(|| format!("the keys are {} and {BOTTLENECK}", KEYS.join(", ")));
        return Err(format!("there is no key '{}'; {advice}", shown(key)));
    };
    let only: Value = serde_json::from_str(only).expect("the table holds JSON");
    // 4 and 4.0 are equal here.
    if *value == only || (value.is_number() && value.as_f64() == only.as_f64()) {
        return Ok(());
    }
    let (value, only) = (python(value), python(&only));
    Err(match key.contains("phm") || key.starts_with("hypercomplex") {
        true if key != "phm_layer" => format!("{key}={} is not supported, because phm_layer is not; leave it at {only}", shown(&value)),
        _ => format!("{key}={} is not supported; leave it at {only}", shown(&value)),
    })
}

pub(super) fn boolean(key: &str, value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| wrong(key, value, "True or False"))
}

pub(super) fn number(key: &str, value: &Value) -> Result<f64, String> {
    value.as_f64().ok_or_else(|| wrong(key, value, "a number"))
}

pub(super) fn whole(key: &str, value: &Value) -> Result<u32, String> {
    let whole = value.as_u64().and_then(|whole| u32::try_from(whole).ok());
    whole.ok_or_else(|| wrong(key, value, "a whole number from 0 up"))
}

fn activation(key: &str, value: &Value) -> Result<Activation, String> {
    // The library ignores case too.
    let known = value.as_str().and_then(|name| Activation::from_name(&name.to_lowercase()));
    known.ok_or_else(|| {
        let names: Vec<_> = Activation::ALL.iter().map(|(_, name)| *name).collect();
        wrong(key, value, &format!("one of {} and swish", names.join(", ")))
    })
}

fn width(key: &str, value: &Value) -> Result<Width, String> {
    let Some(map) = value.as_object() else {
        let form = "a number or a map such as {'1': 8, 'default': 16}";
        return Ok(Width::Reduction(value.as_f64().ok_or_else(|| wrong(key, value, form))?));
    };
    let (mut factors, mut default) = (BTreeMap::new(), None);
    for (layer, value) in map {
        let factor = number(key, value)?;
        if layer == "default" {
            default = Some(factor);
        } else if let Some(layer) = layer_number(layer) {
            factors.insert(layer, factor);
        } else {
            return Err(format!("{key} has an entry for '{}', which is neither a layer number nor \"default\"", shown(layer)));
        }
    }
    Ok(Width::Reductions(factors, default))
}

/// Parses a layer's number as files write it, without sign, spaces or leading zeros.
pub(super) fn layer_number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

pub(super) fn wrong(key: &str, value: &Value, form: &str) -> String {
    format!("{key} is {}, but must be {form}", shown(&python(value)))
}

/// A whole factor as an integer, as in the library's presets; any other as a float.
pub(super) fn factor(f: f64) -> Value {
    if f.fract() == 0.0 && f.abs() < 1e15 { Value::from(f as i64) } else { f.into() }
}

/// The shortest decimal that rounds to this f32: 0.1 rather than 0.10000000149011612.
pub(super) fn float(f: f32) -> Value {
    f.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// A value as a Python literal.
pub(super) fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{text}'"),
        Value::Array(list) => format!("[{}]", list.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries: Vec<_> = map.iter().map(|(key, value)| format!("'{key}': {}", python(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}
