//! A tokenizer in the files of others: `tokenizer.json` with its companion, and the metadata of a GGUF file.

use std::path::Path;

use serde_json::{Value, json};

use super::Tokenizer;
use super::split::Pre;
use crate::error::{Error, Result};
use crate::files::replace_file;
use crate::weights::Entry;

// Values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

impl Tokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json`, from which `transformers` loads the same tokenizer; `context` is the model's.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn write(&self, directory: &Path, context: u32) -> Result<()> {
        let named = |token: Option<u32>| token.and_then(|token| self.token(token));
        let mut tokenizer = self.json();
        if let [bos] = self.special.prefix[..]
            && let Some(text) = self.token(bos)
        {
            let sequence = |id: &str, kind: u32| json!({ "Sequence": { "id": id, "type_id": kind } });
            let first = json!({ "SpecialToken": { "id": text, "type_id": 0 } });
            tokenizer["post_processor"] = json!({
                "type": "TemplateProcessing", "single": [first, sequence("A", 0)], "pair": [first, sequence("A", 0), sequence("B", 1)],
                "special_tokens": { &text: { "id": text, "ids": [bos], "tokens": [text] } },
            });
        }
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "clean_up_tokenization_spaces": false,
            "bos_token": named(self.special.bos), "eos_token": named(self.special.end.first().copied()),
            "chat_template": self.special.chat_template,
        });
        for (name, json) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
            replace_file(&directory.join(name), (serde_json::to_string_pretty(&json).expect("a JSON value prints") + "\n").as_bytes())?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        serde_json::to_value(&self.inner).expect("a tokenizer serialises")
    }

    /// The metadata of a GGUF file with this tokenizer and as many tokens as the model has: byte-level BPE that llama.cpp knows by name.
    ///
    /// # Errors
    /// [`Error::File`] if it is another kind of tokenizer, or has more tokens than the model.
    pub(crate) fn gguf_metadata(&self, vocab_size: u32) -> Result<Vec<(String, Entry)>> {
        let fail = |problem: String| Err(Error::file(&self.path, problem));
        let json = self.json();
        let Some(pre) = Pre::ALL.into_iter().find(|pre| pre.is(&json)) else {
            let advice = "convert the base with llama.cpp, and merge into that file";
            return fail(format!("is not a byte-level tokenizer that Graftling can write into a .gguf file; {advice}"));
        };
        if self.vocab_size > vocab_size as usize {
            let has = self.vocab_size;
            return fail(format!("has {has} tokens, but the model has {vocab_size}; replace it with the model's own tokenizer"));
        }
        let added = self.inner.get_added_tokens_decoder();
        let kind = |id: u32, text: &Option<String>| match (added.get(&id), text) {
            (Some(token), _) if token.special => CONTROL,
            (Some(_), _) => USER_DEFINED,
            (None, Some(_)) => NORMAL,
            (None, None) => UNUSED,
        };
        let tokens: Vec<_> = (0..vocab_size).map(|id| (id, self.token(id))).collect();
        let types = tokens.iter().map(|(id, text)| kind(*id, text)).collect();
        let texts = tokens.into_iter().map(|(id, text)| text.unwrap_or_else(|| format!("[PAD{id}]"))).collect();
        let merge = |merge: &Value| match merge {
            Value::Array(pair) => pair.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            merge => merge.as_str().unwrap_or_default().into(),
        };
        let merges = json["model"]["merges"].as_array().map(|merges| merges.iter().map(merge).collect()).unwrap_or_default();
        let mut metadata = vec![
            ("ggml.model", Entry::Text("gpt2".into())),
            ("ggml.pre", Entry::Text(pre.name().into())),
            ("ggml.tokens", Entry::Texts(texts)),
            ("ggml.token_type", Entry::Wholes(types)),
            ("ggml.merges", Entry::Texts(merges)),
            ("ggml.add_bos_token", Entry::Flag(!self.special.prefix.is_empty())),
        ];
        let ends = ["ggml.eos_token_id", "ggml.eot_token_id", "ggml.eom_token_id"];
        let named = self
            .special
            .bos
            .map(|bos| ("ggml.bos_token_id", bos))
            .into_iter()
            .chain(ends.into_iter().zip(self.special.end.iter().copied()));
        metadata.extend(named.map(|(key, token)| (key, Entry::Whole(token))));
        metadata.extend(self.special.chat_template.clone().map(|template| ("chat_template", Entry::Text(template))));
        Ok(metadata.into_iter().map(|(key, entry)| (format!("tokenizer.{key}"), entry)).collect())
    }
}

impl Pre {
    const ALL: [Pre; 6] = [Pre::Gpt2, Pre::SmolLm, Pre::Llama3, Pre::Qwen2, Pre::Tekken, Pre::DeepSeekCoder];

    /// llama.cpp's name.
    fn name(self) -> &'static str {
        match self {
            Pre::Gpt2 => "gpt-2",
            Pre::SmolLm => "smollm",
            Pre::Llama3 => "llama-bpe",
            Pre::Qwen2 => "qwen2",
            Pre::Tekken => "tekken",
            Pre::DeepSeekCoder => "deepseek-coder",
        }
    }

    /// Whether a `tokenizer.json` splits texts and merges pieces in this way.
    fn is(self, json: &Value) -> bool {
        let own = serde_json::to_value(self.pre_tokenizer()).expect("a pre-tokenizer serialises");
        let normalizer = self.normalizer().map_or(Value::Null, |nfc| serde_json::to_value(nfc).expect("a normaliser serialises"));
        let model = &json["model"];
        model["type"] == "BPE"
            && model["ignore_merges"].as_bool().unwrap_or(false) == self.ignores_merges()
            && without_offsets(&json["pre_tokenizer"]) == without_offsets(&own)
            && json["normalizer"] == normalizer
    }
}

/// A pre-tokenizer without what concerns only the offsets of tokens.
fn without_offsets(pre: &Value) -> Value {
    match pre {
        Value::Object(map) => {
            map.iter().filter(|(key, _)| *key != "trim_offsets").map(|(key, value)| (key.clone(), without_offsets(value))).collect()
        }
        Value::Array(list) => list.iter().map(without_offsets).collect(),
        other => other.clone(),
    }
}
