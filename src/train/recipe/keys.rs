//! Strict reading of a TOML table: a key that is not known is an error that names the nearest one, and so is a value of another type.

use toml::{Table, Value};

use crate::model::{LARGEST, nearest};
use crate::weights::shown;

/// Problems are the part of a sentence that follows the file's name.
pub(super) type Checked<T> = std::result::Result<T, String>;

/// The keys of a table that are not taken yet, in lower case and with hyphens.
pub(super) struct Keys {
    /// What stands before each key in messages: nothing, or the key of the table and a dot.
    prefix: String,
    entries: Table,
}

impl Keys {
    /// The keys of a file, which may be those in `known`.
    pub fn parse(text: &str, known: &[&str]) -> Checked<Keys> {
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            let before = e.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..before].iter().filter(|&&byte| byte == b'\n').count();
            format!("line {line} is not TOML ({}); correct it", shown(e.message()))
        })?;
        Keys::new(String::new(), table, known)
    }

    fn new(prefix: String, table: Table, known: &[&str]) -> Checked<Keys> {
        let mut entries = Table::new();
        for (key, value) in table {
            // Python's way to write names is as good.
            let key = key.replace('_', "-");
            if !known.contains(&&key[..]) {
                let meant = nearest(&key, known.iter().copied());
                return Err(format!("has a key {prefix}{}, which is not known; the nearest is {prefix}{meant}", shown(&key)));
            }
            if entries.insert(key.clone(), value).is_some() {
                return Err(format!("has {prefix}{key} twice; remove one"));
            }
        }
        Ok(Keys { prefix, entries })
    }

    fn read<T>(&mut self, key: &str, expected: &str, convert: impl Fn(&Value) -> Option<T>) -> Checked<Option<T>> {
        let Some(value) = self.entries.remove(key) else { return Ok(None) };
        convert(&value).map(Some).ok_or_else(|| {
            let value = match &value {
                Value::String(text) => format!("\"{}\"", shown(text)),
                Value::Array(_) => "a list".into(),
                Value::Table(_) => "a table".into(),
                plain => plain.to_string(),
            };
            format!("has {}{key} = {value} where {expected} belongs; correct it", self.prefix)
        })
    }

    /// A whole number from `least` to `most`.
    pub fn whole(&mut self, key: &str, least: u64, most: u64) -> Checked<Option<u64>> {
        let expected = match most {
            u64::MAX => format!("a whole number from {least} up"),
            most => format!("a whole number from {least} to {most}"),
        };
        let range = least..=most;
        self.read(key, &expected, |value| value.as_integer().and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n)))
    }

    /// A whole number from 1 to `most`.
    pub fn count(&mut self, key: &str, most: u32) -> Checked<Option<u32>> {
        Ok(self.whole(key, 1, most.into())?.map(|n| n as u32))
    }

    /// How large something of a model is.
    pub fn size(&mut self, key: &str) -> Checked<Option<u32>> {
        self.count(key, LARGEST)
    }

    /// A size that the file must have.
    pub fn extent(&mut self, key: &str) -> Checked<u32> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// What is said of a key that must be there.
    pub fn missing(&self, key: &str) -> String {
        format!("has no {}{key}; add it", self.prefix)
    }

    /// A number for which `allowed` holds, which `expected` says in words.
    pub fn number(&mut self, key: &str, expected: &str, allowed: impl Fn(f64) -> bool) -> Checked<Option<f64>> {
        let number = |value: &Value| value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        self.read(key, expected, |value| number(value).filter(|&n| n.is_finite() && allowed(n)))
    }

    /// A share from 0 to below 1, also as f32.
    pub fn share(&mut self, key: &str) -> Checked<Option<f64>> {
        self.number(key, "a number from 0 to below 1", |n| n >= 0.0 && (n as f32) < 1.0)
    }

    pub fn flag(&mut self, key: &str) -> Checked<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// One of some words.
    pub fn word<T: Clone>(&mut self, key: &str, words: &[(&str, T)]) -> Checked<Option<T>> {
        let list: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.read(key, &list.join(" or "), |value| {
            let value = value.as_str()?;
            words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| meaning.clone())
        })
    }

    /// The keys of a table, which may be those in `known`, if the key has one.
    pub fn table(&mut self, key: &str, known: &[&str]) -> Checked<Option<Keys>> {
        match self.entries.remove(key) {
            Some(Value::Table(table)) => Keys::new(format!("{}{key}.", self.prefix), table, known).map(Some),
            Some(other) => {
                self.entries.insert(key.into(), other);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Whether every key was taken.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
