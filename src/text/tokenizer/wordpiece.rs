//! BERT's older files: a `vocab.txt` whose line numbers are the tokens.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, LIST_BYTES, read_text, read_text_if_any};
use crate::weights::parse_json;

/// The special tokens, which every such vocabulary has.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The tokenizer of a `vocab.txt`, as the text of a `tokenizer.json`. `do_lower_case` of the `tokenizer_config.json` beside it counts.
///
/// # Errors
/// [`Error::File`] if a file cannot be read or lacks a special token.
pub(super) fn json_of(vocab: &Path) -> Result<String> {
    let text = read_text(vocab, LIST_BYTES)?;
    let tokens: Map<String, Value> = text.lines().enumerate().map(|(id, token)| (token.trim_end().to_string(), id.into())).collect();
    if let Some(missing) = SPECIAL.iter().find(|token| !tokens.contains_key(**token)) {
        return Err(Error::file(vocab, format!("has no line {missing}, so it is not a vocabulary of BERT; copy it again from the model")));
    }
    let special = |token: &&str| {
        json!({ "id": tokens[*token], "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false })
    };
    let path = vocab.with_file_name("tokenizer_config.json");
    let config = read_text_if_any(&path, CONFIG_BYTES)?.map_or(Ok(Value::Null), |text| parse_json(&text));
    let config = config.map_err(|problem| Error::file(&path, problem))?;
    let flag = |key: &str, default: Value| config.get(key).cloned().unwrap_or(default);
    let framed = |token: &str| json!([token, tokens[token]]);
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": SPECIAL.iter().map(special).collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars", true.into()),
            "strip_accents": flag("strip_accents", Value::Null), "lowercase": flag("do_lower_case", true.into()),
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": framed("[SEP]"), "cls": framed("[CLS]") },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": tokens,
        },
    });
    Ok(json.to_string())
}
