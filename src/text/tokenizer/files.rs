//! Special tokens and the chat template from the files beside a `tokenizer.json`.

use std::path::Path;

use serde_json::{Map, Value};

use super::Special;
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, LIST_BYTES, read_text_if_any};

/// Reads the files beside `path`, the `tokenizer.json`. Takes the post-processor into account, which is still part of `inner`.
pub(super) fn special(path: &Path, inner: &mut tokenizers::Tokenizer) -> Result<Special> {
    let config = Json::read(path, "tokenizer_config.json")?;
    let map = Json::read(path, "special_tokens_map.json")?;
    let generation = Json::read(path, "generation_config.json")?;
    let model = Json::read(path, "config.json")?;

    let mut special = Special { prefix: prefix(inner), ..Special::default() };
    special.bos = match (config.token("bos_token")?, map.token("bos_token")?) {
        // A tokenizer_config.json that says null means that there is none.
        (Some(named), _) | (None, Some(named)) => named.and_then(|text| inner.token_to_id(&text)),
        (None, None) => {
            let named = [generation.ids("bos_token_id")?, model.ids("bos_token_id")?].concat();
            let first = special.prefix.first().copied();
            first.or_else(|| named.into_iter().find(|&id| inner.id_to_token(id).is_some()))
        }
    };
    for named in [config.token("eos_token")?, map.token("eos_token")?].into_iter().flatten().flatten() {
        inner.token_to_id(&named).into_iter().for_each(|token| special.add_end(token));
    }
    // A token past the vocabulary can be neither generated nor trained, and such configs exist.
    for token in [generation.ids("eos_token_id")?, model.ids("eos_token_id")?].concat() {
        inner.id_to_token(token).into_iter().for_each(|_| special.add_end(token));
    }
    let mask = [config.token("mask_token")?, map.token("mask_token")?].into_iter().flatten().flatten().next();
    special.mask = ["[MASK]", "<mask>"].into_iter().chain(mask.as_deref()).rev().find_map(|token| inner.token_to_id(token));
    match (config.boolean("add_bos_token")?, special.bos) {
        (Some(true), Some(bos)) => special.prefix = vec![bos],
        (Some(false), _) => special.prefix.clear(),
        _ => {}
    }
    special.chat_template = match read_text_if_any(&path.with_file_name("chat_template.jinja"), CONFIG_BYTES)? {
        Some(template) => Some(template),
        None => config.chat_template()?,
    };
    Ok(special)
}

/// The tokens that the post-processor puts before a text.
fn prefix(inner: &tokenizers::Tokenizer) -> Vec<u32> {
    let Ok(encoding) = inner.encode("a", true) else { return Vec::new() };
    let marked = encoding.get_ids().iter().zip(encoding.get_special_tokens_mask());
    let prefix: Vec<u32> = marked.take_while(|&(_, &special)| special == 1).map(|(&id, _)| id).collect();
    // If all tokens are special, the prefix cannot be told from the text; and a token outside the vocabulary cannot be embedded.
    let all = prefix.len() == encoding.len();
    if all || prefix.iter().any(|&id| inner.id_to_token(id).is_none()) { Vec::new() } else { prefix }
}

/// One of the optional files; one that is missing has no keys.
struct Json {
    path: std::path::PathBuf,
    keys: Map<String, Value>,
}

impl Json {
    fn read(beside: &Path, name: &str) -> Result<Json> {
        let path = beside.with_file_name(name);
        let keys = match read_text_if_any(&path, LIST_BYTES)? {
            None => Map::new(),
            Some(text) => serde_json::from_str(&text)
                .map_err(|e| Error::file(&path, format!("is not a JSON object ({e}); copy it again from the model")))?,
        };
        Ok(Json { path, keys })
    }

    fn wrong<T>(&self, key: &str, expected: &str) -> Result<T> {
        Err(Error::file(&self.path, format!("key '{key}' is not {expected}; copy the file again from the model")))
    }

    /// A token's text, given as a string or as an object with properties. `None` if there is no such key, `Some(None)` if it is null.
    fn token(&self, key: &str) -> Result<Option<Option<String>>> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::String(text)) => Ok(Some(Some(text.clone()))),
            Some(Value::Object(token)) if token.get("content").is_some_and(Value::is_string) => {
                Ok(Some(token["content"].as_str().map(str::to_owned)))
            }
            Some(_) => self.wrong(key, "a token's text"),
        }
    }

    /// One token id or a list of them. Values that cannot be ids are left out.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_i64().map(|id| u32::try_from(id).ok());
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(values)) => match values.iter().map(id).collect::<Option<Vec<_>>>() {
                Some(ids) => Ok(ids.into_iter().flatten().collect()),
                None => self.wrong(key, "a number or a list of numbers"),
            },
            Some(value) => match id(value) {
                Some(id) => Ok(id.into_iter().collect()),
                None => self.wrong(key, "a number or a list of numbers"),
            },
        }
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => self.wrong(key, "true or false"),
        }
    }

    /// The template; if there are several, the one named `default`.
    fn chat_template(&self) -> Result<Option<String>> {
        let key = "chat_template";
        let named = |value: &Value| Some((value.get("name")?.as_str()?.to_owned(), value.get("template")?.as_str()?.to_owned()));
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(template)) => Ok(Some(template.clone())),
            Some(Value::Array(templates)) => match templates.iter().map(named).collect::<Option<Vec<_>>>() {
                Some(templates) => Ok(templates.into_iter().find(|(name, _)| name == "default").map(|(_, template)| template)),
                None => self.wrong(key, "a template or a list of templates with names"),
            },
            Some(_) => self.wrong(key, "a template or a list of templates with names"),
        }
    }
}
