//! Strict reading of a JSON object: each key is taken by who understands it, and one that nobody takes is an error.

use serde_json::{Map, Value};

use super::LARGEST;
use crate::ops::Activation;
use crate::weights::shown;

/// Problems are the part of a sentence that follows the file's name.
pub(super) type Checked<T> = Result<T, String>;

/// The keys of an object that are not taken yet. A key whose value is null counts as missing.
pub(super) struct Fields {
    /// What stands before each key in messages: nothing, or the key of the object and a dot.
    prefix: String,
    entries: Map<String, Value>,
}

impl Fields {
    /// The keys of a value that must be an object; `key` is its own, empty for a whole file.
    pub fn new(key: &str, value: Value) -> Checked<Fields> {
        match value {
            Value::Object(entries) if key.is_empty() => Ok(Fields { prefix: String::new(), entries }),
            Value::Object(entries) => Ok(Fields { prefix: format!("{key}."), entries }),
            value if key.is_empty() => Err(format!("is {} where a JSON object belongs; fetch the file again", json(&value))),
            value => Err(wrong(key, &value, "an object")),
        }
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.entries.remove(key).filter(|value| !value.is_null())
    }

    /// Takes a value that `convert` understands; `expected` says in messages what that is.
    fn read<T>(&mut self, key: &str, expected: &str, convert: impl Fn(&Value) -> Option<T>) -> Checked<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        convert(&value).map(Some).ok_or_else(|| wrong(&format!("{}{key}", self.prefix), &value, expected))
    }

    /// An extent: an integer from 1 to [`LARGEST`].
    pub fn count(&mut self, key: &str) -> Checked<Option<u32>> {
        let count = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=LARGEST).contains(n));
        self.read(key, &format!("an integer from 1 to {LARGEST}"), count)
    }

    /// An extent that the file must have.
    pub fn required(&mut self, key: &str) -> Checked<u32> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    /// What is said of a key that must be there.
    pub fn missing(&self, key: &str) -> String {
        format!("has no {}{key}; fetch the file again", self.prefix)
    }

    /// A number for which `allowed` holds, which `expected` says in words.
    pub fn number(&mut self, key: &str, expected: &str, allowed: impl Fn(f64) -> bool) -> Checked<Option<f64>> {
        self.read(key, expected, |value| value.as_f64().filter(|&n| n.is_finite() && allowed(n)))
    }

    /// What is added to a variance or mean square.
    pub fn epsilon(&mut self, key: &str, default: f32) -> Checked<f32> {
        let epsilon = self.number(key, "a number between 0 and 1", |n| n as f32 > 0.0 && (n as f32) < 1.0)?;
        Ok(epsilon.map_or(default, |n| n as f32))
    }

    /// A share that dropout sets to zero.
    pub fn dropout(&mut self, key: &str, default: f32) -> Checked<f32> {
        let share = self.number(key, "a number from 0 to below 1", |n| n >= 0.0 && (n as f32) < 1.0)?;
        Ok(share.map_or(default, |n| n as f32))
    }

    pub fn flag(&mut self, key: &str, default: bool) -> Checked<bool> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub fn text(&mut self, key: &str) -> Checked<Option<String>> {
        self.read(key, "a text", |value| value.as_str().map(String::from))
    }

    /// An activation by the name that `transformers` has for it.
    pub fn activation(&mut self, key: &str) -> Checked<Option<Activation>> {
        let Some(name) = self.text(key)? else { return Ok(None) };
        let known = match &name[..] {
            "gelu_python" => Some(Activation::Gelu),
            "gelu_pytorch_tanh" | "gelu_python_tanh" => Some(Activation::GeluNew),
            "leaky_relu" => Some(Activation::LeakyRelu),
            name => Activation::from_name(name),
        };
        known.map(Some).ok_or_else(|| {
            let names = Activation::ALL.map(|(_, name)| name).join(", ");
            format!("has {}{key} = \"{}\", which is not supported; {names} are", self.prefix, shown(&name))
        })
    }

    /// Takes a key of which only one value is supported, the one that a missing key stands for.
    pub fn only(&mut self, key: &str, supported: impl Into<Value>) -> Checked<()> {
        let (Some(value), supported) = (self.take(key), supported.into()) else { return Ok(()) };
        // 1 and 1.0 are the same number.
        if value == supported || (value.is_number() && value.as_f64() == supported.as_f64()) {
            return Ok(());
        }
        Err(format!("has {}{key} = {}, of which only {supported} is supported; choose another model", self.prefix, json(&value)))
    }

    /// Fails if a key is left that is not `harmless`.
    pub fn finish(self, harmless: impl Fn(&str) -> bool) -> Checked<()> {
        let left = self.entries.iter().find(|(key, value)| !value.is_null() && !harmless(key));
        let Some((key, value)) = left else { return Ok(()) };
        Err(format!(
            "has {}{} = {}, which is not known here and may change the model's numbers; remove the key if it does not, or choose another model",
            self.prefix,
            shown(key),
            json(value)
        ))
    }
}

/// What is said of a value that cannot be.
pub(super) fn wrong(key: &str, value: &Value, expected: &str) -> String {
    format!("has {key} = {} where {expected} belongs; fetch the file again", json(value))
}

/// A value as messages may show it.
pub(super) fn json(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", shown(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        plain => plain.to_string(),
    }
}
