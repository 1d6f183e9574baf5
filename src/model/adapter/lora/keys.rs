//! PEFT's names for the fields of a LoRA, with shorter ones for config strings. Strings and `adapter_config.json` share this code.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::keys::{boolean, factor, float, number, python, whole, wrong};
use super::{LoraConfig, Targets};
use crate::words::{did_you_mean, shown};

/// PEFT's names of the fields that [`LoraConfig`] has, and those in config strings.
pub(super) const KEYS: [(&str, &str); 9] = [
    ("r", "r"),
    ("lora_alpha", "alpha"),
    ("lora_dropout", "dropout"),
    ("target_modules", "target_modules"),
    ("use_rslora", "rslora"),
    ("exclude_modules", "exclude_modules"),
    ("layers_to_transform", "layers"),
    ("rank_pattern", "rank_pattern"),
    ("alpha_pattern", "alpha_pattern"),
];

impl LoraConfig {
    /// The value of one of [`KEYS`], by PEFT's name.
    pub(super) fn value(&self, key: &str) -> Value {
        match key {
            "r" => self.rank.into(),
            "lora_alpha" => decimal(self.alpha),
            "lora_dropout" => float(self.dropout),
            "target_modules" => match &self.targets {
                Targets::Usual => Value::Null,
                Targets::AllLinear => "all-linear".into(),
                Targets::Named(names) => names.clone().into(),
                Targets::Matching(pattern) => pattern.clone().into(),
            },
            "use_rslora" => self.rslora.into(),
            "exclude_modules" if self.exclude.is_empty() => Value::Null,
            "exclude_modules" => self.exclude.clone().into(),
            "layers_to_transform" => self.layers.clone().into(),
            "rank_pattern" => self.rank_pattern.iter().map(|(key, &rank)| (key.clone(), rank.into())).collect::<Map<_, _>>().into(),
            "alpha_pattern" => self.alpha_pattern.iter().map(|(key, &alpha)| (key.clone(), decimal(alpha))).collect::<Map<_, _>>().into(),
            _ => unreachable!("'{key}' is not in the table of keys"),
        }
    }

    /// Sets the field with PEFT's name or the shorter one.
    ///
    /// # Errors
    /// One sentence that names the key, if it is unknown or does not allow the value.
    pub(super) fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let Some((known, _)) = KEYS.iter().find(|(long, short)| key == *long || key == *short) else {
            let short = KEYS.map(|(_, short)| short);
            let advice = did_you_mean(key, short).unwrap_or_else(|| format!("the keys of a LoRA are {}", short.join(", ")));
            return Err(format!("there is no key '{}'; {advice}", shown(key)));
        };
        match *known {
            "r" => self.rank = whole(key, value)?,
            "lora_alpha" => self.alpha = number(key, value)? as f32,
            "lora_dropout" => self.dropout = number(key, value)? as f32,
            "target_modules" => {
                self.targets = match value {
                    Value::Null => Targets::Usual,
                    Value::String(text) if text.eq_ignore_ascii_case("all-linear") => Targets::AllLinear,
                    Value::String(pattern) => Targets::Matching(pattern.clone()),
                    // PEFT reads a list of one as the choice itself.
                    Value::Array(list) if list.len() == 1 && list[0].as_str().is_some_and(|t| t.eq_ignore_ascii_case("all-linear")) => {
                        Targets::AllLinear
                    }
                    _ => Targets::Named(names(key, value)?),
                }
            }
            "use_rslora" => self.rslora = boolean(key, value)?,
            "exclude_modules" => self.exclude = if value.is_null() { Vec::new() } else { names(key, value)? },
            "layers_to_transform" => {
                self.layers = match value {
                    Value::Null => None,
                    Value::Number(_) => Some(vec![whole(key, value)?]),
                    Value::Array(list) => Some(list.iter().map(|layer| whole(key, layer)).collect::<Result<_, _>>()?),
                    _ => return Err(wrong(key, value, "a list of layers such as [0, 1]")),
                }
            }
            "rank_pattern" => self.rank_pattern = pattern(key, value, &|rank| whole(key, rank))?,
            _ => self.alpha_pattern = pattern(key, value, &|alpha| Ok(number(key, alpha)? as f32))?,
        }
        Ok(())
    }
}

/// A whole number as an integer, as PEFT's own defaults are.
fn decimal(f: f32) -> Value {
    if f.fract() == 0.0 { factor(f.into()) } else { float(f) }
}

fn names(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let form = || wrong(key, value, "a list of modules such as ['q_proj', 'v_proj']");
    let list = value.as_array().ok_or_else(form)?;
    list.iter().map(|name| name.as_str().filter(|name| !name.is_empty()).map(str::to_string).ok_or_else(form)).collect()
}

/// A map from patterns of module names, of which null is an empty one.
fn pattern<T>(key: &str, value: &Value, of: &dyn Fn(&Value) -> Result<T, String>) -> Result<BTreeMap<String, T>, String> {
    match value {
        Value::Null => Ok(BTreeMap::new()),
        Value::Object(map) => map.iter().map(|(pattern, value)| Ok((pattern.clone(), of(value)?))).collect(),
        _ => Err(wrong(key, value, "a map such as {'q_proj': 16}")),
    }
}

/// A value in a config string.
pub(super) fn literal(value: &Value) -> String {
    python(value).replace(", ", ",")
}
