//! Strict reading of tables from JSON or TOML: readers take the keys they understand, and a leftover key is an error.

use serde_json::{Map, Number, Value};

use crate::words::{did_you_mean, one_line, shown};

/// A result whose error completes a sentence that begins with the file's name.
pub(crate) type Checked<T> = Result<T, String>;

/// Who wrote a file, which determines the advice in messages about it.
#[derive(Clone, Copy)]
enum Author {
    /// A program: the file comes with a model.
    Program,
    /// The user.
    Person,
}

/// The keys of a table that have not been taken yet. A key whose value is null counts as missing.
pub(crate) struct Keyed {
    /// Precedes each key in messages: empty, or the key of the table and a dot.
    prefix: String,
    entries: Map<String, Value>,
    author: Author,
}

impl Keyed {
    /// The keys of a JSON value that must be an object. `key` is the key of that value, empty for a whole file.
    pub fn json(key: &str, value: Value) -> Checked<Keyed> {
        match value {
            Value::Object(entries) => {
                let prefix = if key.is_empty() { String::new() } else { format!("{key}.") };
                Ok(Keyed { prefix, entries, author: Author::Program })
            }
            value if key.is_empty() => Err(format!("is {}, expected a JSON object; fetch the file again", as_shown(&value))),
            value => Err(wrong(key, &value, "an object")),
        }
    }

    /// The keys of a TOML file. `known` lists the allowed ones, in lower case and with hyphens.
    pub fn toml(text: &str, known: &[&str]) -> Checked<Keyed> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let before = e.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..before].iter().filter(|&&byte| byte == b'\n').count();
            format!("line {line} is not TOML ({}); correct it", one_line(e.message()))
        })?;
        let entries = table.into_iter().map(|(key, value)| Ok((key.clone(), from_toml(&key, value)?))).collect::<Checked<Map<_, _>>>()?;
        Keyed::of_known(String::new(), entries, known)
    }

    fn of_known(prefix: String, table: Map<String, Value>, known: &[&str]) -> Checked<Keyed> {
        let mut entries = Map::new();
        for (key, value) in table {
            // Python-style names with underscores are accepted too.
            let key = key.replace('_', "-");
            if !known.contains(&&key[..]) {
                let advice = did_you_mean(&key, known.iter().copied()).unwrap_or_else(|| match known.len() {
                    ..8 => format!("the keys are {}", known.join(", ")),
                    _ => "graftling pretrain --help lists the keys".into(),
                });
                return Err(format!("has an unknown key {prefix}{}; {advice}", shown(&key)));
            }
            if entries.insert(key.clone(), value).is_some() {
                return Err(format!("has {prefix}{key} twice; remove one"));
            }
        }
        Ok(Keyed { prefix, entries, author: Author::Person })
    }

    /// Takes a key's value of any type.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.entries.remove(key).filter(|value| !value.is_null())
    }

    /// Takes a value that `convert` accepts; `expected` describes such a value in messages.
    pub fn read<T>(&mut self, key: &str, expected: &str, convert: impl Fn(&Value) -> Option<T>) -> Checked<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let advice = match self.author {
            Author::Program => "fetch the file again",
            Author::Person => "correct it",
        };
        let problem = || format!("has {} = {}, expected {expected}; {advice}", self.name(key), as_shown(&value));
        convert(&value).map(Some).ok_or_else(problem)
    }

    /// Takes a whole number from `least` to `most`.
    pub fn whole(&mut self, key: &str, least: u64, most: u64) -> Checked<Option<u64>> {
        let expected = match most {
            u64::MAX => format!("a whole number from {least} up"),
            most => format!("a whole number from {least} to {most}"),
        };
        self.read(key, &expected, |value| value.as_u64().filter(|n| (least..=most).contains(n)))
    }

    /// Takes a whole number from 1 to `most`.
    pub fn count(&mut self, key: &str, most: u32) -> Checked<Option<u32>> {
        Ok(self.whole(key, 1, most.into())?.map(|n| n as u32))
    }

    /// Takes a number for which `allowed` holds, a condition that `expected` describes.
    pub fn number(&mut self, key: &str, expected: &str, allowed: impl Fn(f64) -> bool) -> Checked<Option<f64>> {
        self.read(key, expected, |value| value.as_f64().filter(|&n| n.is_finite() && allowed(n)))
    }

    /// Takes a fraction of at least 0 and below 1, even when rounded to f32.
    pub fn share(&mut self, key: &str) -> Checked<Option<f64>> {
        self.number(key, "a number from 0 to below 1", |n| n >= 0.0 && (n as f32) < 1.0)
    }

    /// Takes the epsilon of a norm, which is added to a variance or mean square.
    pub fn epsilon(&mut self, key: &str) -> Checked<Option<f32>> {
        let epsilon = self.number(key, "a number between 0 and 1", |n| n as f32 > 0.0 && (n as f32) < 1.0)?;
        Ok(epsilon.map(|n| n as f32))
    }

    /// Takes true or false.
    pub fn flag(&mut self, key: &str) -> Checked<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// Takes a string.
    pub fn text(&mut self, key: &str) -> Checked<Option<String>> {
        self.read(key, "a string", |value| value.as_str().map(String::from))
    }

    /// Takes one of `words` and returns its meaning.
    pub fn word<T: Clone>(&mut self, key: &str, words: &[(&str, T)]) -> Checked<Option<T>> {
        let list: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.read(key, &list.join(" or "), |value| {
            let value = value.as_str()?;
            words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| meaning.clone())
        })
    }

    /// Takes the table of a key, if its value is one; `known` lists the keys that it may contain.
    pub fn table(&mut self, key: &str, known: &[&str]) -> Checked<Option<Keyed>> {
        match self.entries.remove(key) {
            Some(Value::Object(table)) => Keyed::of_known(format!("{}.", self.name(key)), table, known).map(Some),
            Some(other) => {
                self.entries.insert(key.into(), other);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The message about a required key that is missing.
    pub fn missing(&self, key: &str) -> String {
        let advice = match self.author {
            Author::Program => "fetch the file again",
            Author::Person => "add it",
        };
        format!("has no {}; {advice}", self.name(key))
    }

    /// A key with the prefix of its table, for messages.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Takes a key that supports only one value, which is also its default.
    pub fn only(&mut self, key: &str, supported: impl Into<Value>) -> Checked<()> {
        let (Some(value), supported) = (self.take(key), supported.into()) else { return Ok(()) };
        // 1 and 1.0 are the same number.
        if value == supported || (value.is_number() && value.as_f64() == supported.as_f64()) {
            return Ok(());
        }
        Err(format!("has {} = {}, but only {supported} is supported; choose another model", self.name(key), as_shown(&value)))
    }

    /// Fails if a key that is not `harmless` is left over.
    pub fn finish(self, harmless: impl Fn(&str) -> bool) -> Checked<()> {
        let left = self.entries.iter().find(|(key, value)| !value.is_null() && !harmless(key));
        let Some((key, value)) = left else { return Ok(()) };
        let (name, value) = (self.name(&shown(key)), as_shown(value));
        let advice = "remove the key if it does not, or choose another model";
        Err(format!("has an unknown key {name} = {value}, which may change the model's output; {advice}"))
    }
}

/// Converts a key's TOML value to JSON. A date becomes its text; an infinite number or NaN is an error.
fn from_toml(key: &str, value: toml::Value) -> Checked<Value> {
    Ok(match value {
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => {
            let written = number.to_string().to_lowercase();
            let problem = || format!("has {} = {written}, expected a finite number; correct it", shown(key));
            Value::Number(Number::from_f64(number).ok_or_else(problem)?)
        }
        toml::Value::String(text) => text.into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(list) => list.into_iter().map(|value| from_toml(key, value)).collect::<Checked<Vec<_>>>()?.into(),
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(inner, value)| Ok((inner.clone(), from_toml(&inner, value)?)));
            entries.collect::<Checked<Map<_, _>>>()?.into()
        }
    })
}

/// The message about an invalid value in a model's file.
pub(crate) fn wrong(key: &str, value: &Value, expected: &str) -> String {
    format!("has {key} = {}, expected {expected}; fetch the file again", as_shown(value))
}

/// A value as messages show it.
pub(crate) fn as_shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", shown(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        plain => plain.to_string(),
    }
}
