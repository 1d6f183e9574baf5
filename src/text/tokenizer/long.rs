//! Tokenising long texts in chunks. The `tokenizers` crate uses about a hundred bytes of memory per byte of text, too much for a corpus.

use serde_json::Value;

use super::split;

/// The number of bytes after which a chunk ends at the next possible position.
const CHUNK: usize = 1 << 16;

/// Whether the tokens of a text are those of its [`chunks`]. This holds if the text is first split into words by a regular expression that
/// is known never to match a letter and the space after it together, or at white space, and nothing else spans the two.
pub(super) fn is_sum_of_chunks(inner: &tokenizers::Tokenizer) -> bool {
    let json = |value: Result<Value, serde_json::Error>| value.unwrap_or_default();
    let normalizer = json(serde_json::to_value(inner.get_normalizer()));
    let pre = json(serde_json::to_value(inner.get_pre_tokenizer()));
    let parts = match &pre["pretokenizers"] {
        Value::Array(parts) => parts.clone(),
        _ => vec![pre],
    };
    let splits = |part: &Value| match part["type"].as_str() {
        Some("ByteLevel") => part["use_regex"] == true,
        Some("BertPreTokenizer") => true,
        Some("Split") => {
            part["behavior"] == "Isolated" && part["invert"] == false && part["pattern"]["Regex"].as_str().is_some_and(split::is_known)
        }
        _ => false,
    };
    let harmless = |part: &Value| match part["type"].as_str() {
        Some("ByteLevel") => part["add_prefix_space"] == false,
        Some("Digits") => true,
        _ => splits(part),
    };
    let added = inner.get_added_vocabulary().get_vocab().keys().all(|token| !token.contains(' '));
    let local = normalizer.is_null() || normalizer["type"] == "NFC" || normalizer["type"] == "BertNormalizer";
    local && parts.iter().all(harmless) && parts.iter().any(splits) && added
}

/// Cuts a text between an ASCII letter and a space that another ASCII letter follows.
pub(in crate::text) fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let mut positions = text.as_bytes().get(CHUNK..).unwrap_or_default().windows(3);
        let at = positions.position(|w| w[0].is_ascii_alphabetic() && w[1] == b' ' && w[2].is_ascii_alphabetic());
        match at {
            Some(at) => {
                let (chunk, after) = text.split_at(CHUNK + at + 1);
                rest = Some(after);
                Some(chunk)
            }
            None => Some(text),
        }
    })
}
