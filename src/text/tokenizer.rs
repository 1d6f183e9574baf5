//! The model's tokenizer.

use std::path::Path;

use crate::error::{Error, Result};

/// Text to tokens and back, as `tokenizer.json` says.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing or malformed.
    pub fn read(path: &Path) -> Result<Tokenizer> {
        let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read ({e}); check the path")))?;
        let inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::file(path, format!("is not a tokenizer.json ({e}); copy it again from the model")))?;
        Ok(Tokenizer { inner })
    }

    /// The tokenizer of 256 tokens, one a byte: byte-level BPE without merges, as the text of a `tokenizer.json`.
    pub fn bytes_json() -> String {
        // GPT-2's printable stand-ins for bytes: those that print stand for themselves, the others come from U+0100 on.
        let prints = |b: u32| (0x21..=0x7e).contains(&b) || (0xa1..=0xac).contains(&b) || (0xae..=0xff).contains(&b);
        let mut next = 0x100;
        let mut vocabulary = serde_json::Map::new();
        for byte in 0..256u32 {
            let stand_in = if prints(byte) { byte } else { next };
            if !prints(byte) {
                next += 1;
            }
            vocabulary.insert(char::from_u32(stand_in).expect("below the surrogates").to_string(), byte.into());
        }
        let level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": level, "post_processor": null, "decoder": level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                      "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": []},
        });
        serde_json::to_string_pretty(&json).expect("a JSON value prints")
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// True for a tokenizer without tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of a text as it stands.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer cannot take it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| Error::Usage(format!("the tokenizer cannot take the text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, false).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_tokens() {
        let inner = tokenizers::Tokenizer::from_bytes(Tokenizer::bytes_json()).expect("the JSON is a tokenizer");
        let tokenizer = Tokenizer { inner };
        let text = "fn main() {\n\tprintln!(\"Größe ≤ 5\");\r\n}\0";
        let tokens = tokenizer.encode(text).expect("any text is bytes");
        assert_eq!(tokens, text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(&tokens), text);
        assert_eq!(tokenizer.len(), 256);
    }
}
