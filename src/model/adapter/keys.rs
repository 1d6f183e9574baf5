//! The library's names of an adapter's fields, each read from a value and given as one. Config strings and `adapter_config.json` both go
//! through here, so they accept and refuse the same.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::config::reduction_factor;
use super::presets::{nearest, short};
use super::{AdapterConfig, Init, Scaling, Width};
use crate::ops::Activation;

/// The library's fields that an [`AdapterConfig`] holds, in the library's order.
pub(super) const KEYS: [&str; 17] = [
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
    "leave_out",
    "dropout",
    "stochastic_depth",
];

/// The library's fields of what is not supported, with the one value, as JSON, that they may have.
pub(super) const FIXED: [(&str, &str); 16] = [
    ("use_gating", "false"),
    ("inv_adapter", "null"),
    ("inv_adapter_reduction_factor", "null"),
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

/// Another way to say the width, in config strings only.
pub(super) const BOTTLENECK: &str = "bottleneck";

impl AdapterConfig {
    /// The value of one of [`KEYS`]. `hidden` turns a bottleneck into a reduction factor; without it a bottleneck is that number.
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
            // The library's presets say swish.
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
            "leave_out" => self.leave_out.clone().into(),
            "dropout" => float(self.dropout),
            "stochastic_depth" => float(self.stochastic_depth),
            _ => unreachable!("'{key}' is not in the table of keys"),
        }
    }

    /// Sets what the library calls `key`.
    ///
    /// # Errors
    /// One sentence that names the key: it is unknown, not supported, or does not have such a value.
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
                self.init_seed = Some(value.as_u64().ok_or_else(|| wrong(key, value, "None or a whole number from 0 on"))?);
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
                    "residual_before_ln='post_add' is not supported, since it needs a norm behind the residual sum; use True or False"
                        .into(),
                );
            }
            "residual_before_ln" => self.residual_before_ln = boolean(key, value)?,
            "adapter_residual_before_ln" => self.adapter_residual_before_ln = boolean(key, value)?,
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

/// A key that can have one value only, or none of the library's.
fn fixed(key: &str, value: &Value) -> Result<(), String> {
    let Some((_, only)) = FIXED.iter().find(|(known, _)| *known == key) else {
        let known = KEYS.into_iter().chain([BOTTLENECK]).chain(FIXED.map(|(known, _)| known));
        return Err(format!("there is no key '{}'; the nearest known one is '{}'", short(key), nearest(key, known)));
    };
    let only: Value = serde_json::from_str(only).expect("the table holds JSON");
    // 4 and 4.0 are the same here.
    if *value == only || (value.is_number() && value.as_f64() == only.as_f64()) {
        return Ok(());
    }
    let (value, only) = (python(value), python(&only));
    Err(match key.contains("phm") || key.starts_with("hypercomplex") {
        true if key != "phm_layer" => format!("{key}={} is not supported, as phm_layer is not; leave it at {only}", short(&value)),
        _ => format!("{key}={} is not supported; leave it at {only}", short(&value)),
    })
}

fn boolean(key: &str, value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| wrong(key, value, "True or False"))
}

fn number(key: &str, value: &Value) -> Result<f64, String> {
    value.as_f64().ok_or_else(|| wrong(key, value, "a number"))
}

fn whole(key: &str, value: &Value) -> Result<u32, String> {
    let whole = value.as_u64().and_then(|whole| u32::try_from(whole).ok());
    whole.ok_or_else(|| wrong(key, value, "a whole number from 0 on"))
}

fn activation(key: &str, value: &Value) -> Result<Activation, String> {
    // The library does not tell capitals from small letters either.
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
            return Err(format!("{key} has an entry for '{}', which is neither a layer's number nor \"default\"", short(layer)));
        }
    }
    Ok(Width::Reductions(factors, default))
}

/// A layer's number as files write it, without sign, spaces or zeros before it.
pub(super) fn layer_number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

fn wrong(key: &str, value: &Value, form: &str) -> String {
    format!("{key} is {}, but must be {form}", short(&python(value)))
}

/// A whole factor as the library's presets have it, any other as a float.
fn factor(f: f64) -> Value {
    if f.fract() == 0.0 && f.abs() < 1e15 { Value::from(f as i64) } else { f.into() }
}

/// The shortest decimal that is this number: 0.1 and not 0.10000000149011612.
fn float(f: f32) -> Value {
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
