//! Parsing and printing config strings such as `seq_bn[reduction_factor=8,non_linearity='gelu']`. Values are Python literals, as in the
//! library's own strings; quotes around words are optional.

use std::fmt;

use serde_json::{Map, Number, Value};

use super::BottleneckConfig;
use super::Width;
use super::keys::{BOTTLENECK, KEYS, python};
use crate::words::shown;

/// The deepest nesting of lists and maps: more than any key needs, but safe for the stack.
const DEEPEST: u32 = 8;

impl BottleneckConfig {
    /// Parses a string such as `double_seq_bn` or `par_bn[reduction_factor=8,scaling='learned']`.
    ///
    /// # Errors
    /// One sentence that names the problem.
    pub(super) fn parse(spec: &str) -> Parsed<BottleneckConfig> {
        let (name, keys) = keys_of(spec)?;
        let mut config = BottleneckConfig::preset(name)?;
        for (key, value) in &keys {
            config.set(key, value)?;
        }
        if [BOTTLENECK, "reduction_factor"].iter().all(|key| keys.iter().any(|(given, _)| given == key)) {
            return Err("bottleneck and reduction_factor both set the width; use one of them".into());
        }
        config.check()?;
        Ok(config)
    }
}

/// The name at the beginning of a string, and the keys after it with their values, each key once.
///
/// # Errors
/// One sentence that names the problem.
pub(super) fn keys_of(spec: &str) -> Parsed<(&str, Vec<(String, Value)>)> {
    let (name, keys) = spec.split_at(spec.find('[').unwrap_or(spec.len()));
    if spec.is_empty() {
        return Err(example("the preset is missing"));
    }
    if name.contains('|') {
        return Err(several_methods());
    }
    let keys = (Reader { rest: keys }).keys()?;
    if let Some((_, (key, _))) = keys.iter().enumerate().find(|(i, (key, _))| keys[..*i].iter().any(|(earlier, _)| earlier == key)) {
        return Err(format!("'{}' appears twice; remove one", shown(key)));
    }
    Ok((name.trim(), keys))
}

fn several_methods() -> String {
    "'|' combines several methods, but Graftling trains one; name one preset".into()
}

fn example(problem: &str) -> String {
    format!("{problem}; write it as in double_seq_bn[reduction_factor=8,non_linearity='gelu']")
}

/// The unread rest of a string.
struct Reader<'a> {
    rest: &'a str,
}

type Parsed<T> = Result<T, String>;

impl<'a> Reader<'a> {
    /// Reads `[key=value,…]` up to the end, or nothing.
    fn keys(mut self) -> Parsed<Vec<(String, Value)>> {
        let mut keys = Vec::new();
        if self.rest.is_empty() {
            return Ok(keys);
        }
        self.expect('[', " before the first key")?;
        while !self.takes(']') {
            let key = self.word();
            if key.is_empty() {
                return Err(self.unexpected(", expected a key"));
            }
            self.expect('=', &format!(" after the key '{}'", shown(key)))?;
            keys.push((key.to_string(), self.value(0)?));
            if !self.takes(',') && !self.rest.starts_with(']') {
                return Err(self.unexpected(&format!(" after the value of '{}', expected ',' or ']'", shown(key))));
            }
        }
        if self.rest.starts_with('|') {
            return Err(several_methods());
        }
        if !self.rest.is_empty() {
            return Err(self.unexpected(" after the last ']'"));
        }
        Ok(keys)
    }

    fn value(&mut self, depth: u32) -> Parsed<Value> {
        if depth > DEEPEST {
            return Err(example("lists and maps are nested too deeply"));
        }
        self.space();
        // A tuple is read as a list.
        for (open, close) in [('[', ']'), ('(', ')')] {
            if self.takes(open) {
                let mut list = Vec::new();
                while !self.takes(close) {
                    list.push(self.value(depth + 1)?);
                    self.separator(close)?;
                }
                return Ok(list.into());
            }
        }
        if self.takes('{') {
            let mut map = Map::new();
            while !self.takes('}') {
                // Quotes around a layer's number are optional.
                let key = match self.quoted()? {
                    Some(key) => key,
                    None => self.word().to_string(),
                };
                if key.is_empty() {
                    return Err(self.unexpected(", expected a map's key"));
                }
                self.expect(':', &format!(" after a map's key '{}'", shown(&key)))?;
                if map.contains_key(&key) {
                    return Err(format!("'{}' appears twice in a map; remove one", shown(&key)));
                }
                let value = self.value(depth + 1)?;
                map.insert(key, value);
                self.separator('}')?;
            }
            return Ok(map.into());
        }
        if let Some(text) = self.quoted()? {
            return Ok(text.into());
        }
        let word = self.word();
        match word {
            "" => Err(self.unexpected(", expected a value")),
            "None" | "null" => Ok(Value::Null),
            "True" | "true" => Ok(true.into()),
            "False" | "false" => Ok(false.into()),
            word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => Ok(word.into()),
            word => number(word),
        }
    }

    /// Reads text in single or double quotes.
    fn quoted(&mut self) -> Parsed<Option<String>> {
        self.space();
        let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
            return Ok(None);
        };
        let inside = &self.rest[1..];
        let end = inside.find(quote).ok_or_else(|| example(&format!("the quote {quote} is not closed")))?;
        if inside[..end].contains('\\') {
            return Err(example("a backslash in quotes is not supported"));
        }
        self.rest = inside[end + 1..].trim_start();
        Ok(Some(inside[..end].to_string()))
    }

    /// Reads up to the next delimiter.
    fn word(&mut self) -> &'a str {
        self.space();
        let end = self.rest.find(|c: char| c.is_whitespace() || "[]{}(),:='\"".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn takes(&mut self, sign: char) -> bool {
        self.space();
        let rest = self.rest.strip_prefix(sign);
        self.rest = rest.unwrap_or(self.rest).trim_start();
        rest.is_some()
    }

    fn expect(&mut self, sign: char, place: &str) -> Parsed<()> {
        if self.takes(sign) { Ok(()) } else { Err(self.unexpected(&format!("{place}, expected '{sign}'"))) }
    }

    /// Reads a comma, or checks that the closing sign follows, which it leaves.
    fn separator(&mut self, close: char) -> Parsed<()> {
        if self.takes(',') || self.rest.starts_with(close) {
            return Ok(());
        }
        Err(self.unexpected(&format!(" in a list or map, expected ',' or '{close}'")))
    }

    fn unexpected(&self, place: &str) -> String {
        match self.rest.chars().next() {
            Some(sign) => example(&format!("unexpected '{}'{place}", shown(&sign.to_string()))),
            None => example(&format!("unexpected end{place}")),
        }
    }
}

/// Parses a number as Python does.
fn number(word: &str) -> Parsed<Value> {
    let bad = |problem: &str| Err(example(&format!("'{}' {problem}", shown(word))));
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return bad("is neither a number nor a word");
    }
    if let Ok(whole) = word.parse::<u64>() {
        return Ok(whole.into());
    }
    if let Ok(whole) = word.parse::<i64>() {
        return Ok(whole.into());
    }
    match word.parse::<f64>() {
        Ok(number) => Number::from_f64(number).map_or_else(|| bad("is too large"), |number| Ok(number.into())),
        Err(_) => bad("is neither a number nor a word"),
    }
}

impl fmt::Display for BottleneckConfig {
    /// Writes the config string with the fewest keys: the nearest preset, and the keys that differ from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let presets = BottleneckConfig::presets();
        let differing = |preset: &BottleneckConfig| {
            let same_width = preset.width == self.width;
            let differs = |key: &&str| match *key {
                "reduction_factor" => !same_width,
                key => preset.value(key, None) != self.value(key, None),
            };
            KEYS.into_iter().filter(differs).collect::<Vec<_>>()
        };
        let (name, keys) =
            presets.iter().map(|(name, preset)| (name, differing(preset))).min_by_key(|(_, keys)| keys.len()).expect("presets");
        f.write_str(name)?;
        for (i, key) in keys.iter().enumerate() {
            f.write_str(if i == 0 { "[" } else { "," })?;
            match (*key, &self.width) {
                ("reduction_factor", Width::Bottleneck(width)) => write!(f, "{BOTTLENECK}={width}")?,
                (key, _) => write!(f, "{key}={}", python(&self.value(key, None)))?,
            }
        }
        f.write_str(if keys.is_empty() { "" } else { "]" })
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
