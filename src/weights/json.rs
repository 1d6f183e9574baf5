//! Strict JSON: no object may repeat a key.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Parses the text of a JSON file. No object may repeat a key, since readers disagree on which value wins.
///
/// # Errors
/// The part of a sentence that follows the file's name.
pub(crate) fn parse_json(text: &str) -> Result<Value, String> {
    parse(text).map_err(|problem| format!("is not valid JSON ({problem}); fetch it again"))
}

/// Parses a text. Nesting is limited to 127 levels, `serde_json`'s limit.
///
/// # Errors
/// The problem and its line.
pub(super) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str::<Unique>(text).map(|unique| unique.0)
}

struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Unique)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((key, Unique(value))) = entries.next_entry::<String, Unique>()? {
            if values.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key '{}' appears twice", super::shown(&key))));
            }
            values.insert(key, value);
        }
        Ok(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_through_and_repeated_keys_do_not() {
        let text = r#"{"a": [1, -2, 2.5, "x", null, true], "b": {"a": {}}, "c": "\u00e9"}"#;
        assert_eq!(parse(text).expect("JSON"), serde_json::from_str::<Value>(text).expect("JSON"));
        for text in [r#"{"a": 1, "b": 2, "a": 3}"#, r#"[{"b": {"a": 1, "\u0061": 1}}]"#] {
            let message = parse(text).expect_err("a key twice").to_string();
            assert!(message.contains("the key 'a' appears twice"), "{message}");
        }
        for text in ["", "{", "[1, 2", "{\"a\": 1} x", "NaN", "1e999", &"[".repeat(100_000)] {
            parse(text).expect_err("not JSON");
        }
    }
}
