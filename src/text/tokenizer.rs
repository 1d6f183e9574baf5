//! The model's tokenizer.

mod files;
mod gguf;
mod long;
mod split;
mod stream;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) use long::pieces;
pub use stream::Decoder;

use crate::error::{Error, Result};
use crate::weights::Gguf;

/// Text to tokens and back, and what the model's files say of its special tokens.
pub struct Tokenizer {
    /// Without a post-processor, truncation and padding: what these add or take is decided here.
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    special: Special,
    vocab_size: usize,
    /// Whether a space is put in front of each text, as SentencePiece does.
    adds_space: bool,
    /// Whether long texts can be tokenised in pieces.
    in_pieces: bool,
}

/// What the files say of a vocabulary's special tokens.
#[derive(Debug, Default)]
struct Special {
    bos: Option<u32>,
    /// The end token first, then those that end a turn. No token twice.
    end: Vec<u32>,
    /// What goes before a document: BOS, or nothing.
    prefix: Vec<u32>,
    chat_template: Option<String>,
}

impl Special {
    fn add_end(&mut self, token: u32) {
        if !self.end.contains(&token) {
            self.end.push(token);
        }
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json`; `path` is the file or its directory. Special tokens and the chat template come from the files beside it:
    /// `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json`, `config.json` and `chat_template.jinja`, none of
    /// which has to be there.
    ///
    /// # Errors
    /// [`Error::File`] if `tokenizer.json` is missing, or a file is malformed.
    pub fn read(path: &Path) -> Result<Tokenizer> {
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.into() };
        let bytes = std::fs::read(&path).map_err(|e| Error::file(&path, format!("cannot be read ({e}); check the path")))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::file(&path, format!("is not a tokenizer.json ({e}); copy it again from the model")))?;
        let special = files::special(&path, &mut inner)?;
        Ok(Tokenizer::new(inner, path, special))
    }

    /// The tokenizer of a GGUF file: that of a `tokenizer.json` beside it where there is one, otherwise the vocabulary in its metadata,
    /// which has to be byte-level BPE (`gpt2`) or SentencePiece (`llama`). Special tokens that the `tokenizer.json` and the files
    /// beside it do not name come from the metadata.
    ///
    /// # Errors
    /// [`Error::File`] if the metadata are malformed or of a kind that is not known, and as [`Tokenizer::read`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        let beside = gguf.path().with_file_name("tokenizer.json");
        if !beside.is_file() {
            let (inner, special) = gguf::read(gguf)?;
            return Ok(Tokenizer::new(inner, gguf.path().into(), special));
        }
        let mut tokenizer = Tokenizer::read(&beside)?;
        let count = gguf::token_count(gguf)?;
        if count.is_some_and(|count| tokenizer.vocab_size > count) {
            let count = count.unwrap_or(0);
            let has = tokenizer.vocab_size;
            let problem = format!("has {has} tokens where {} beside it has {count}; it is another model's", gguf.path().display());
            return Err(Error::file(beside, problem));
        }
        gguf::complete(gguf, &mut tokenizer.special)?;
        Ok(tokenizer)
    }

    /// The tokenizer of the text of a `tokenizer.json` that has no files beside it, so no special tokens but its own.
    ///
    /// # Errors
    /// [`Error::File`] if it is malformed.
    pub fn from_json(json: &str) -> Result<Tokenizer> {
        let path = PathBuf::from("tokenizer.json");
        let inner: tokenizers::Tokenizer = json.parse().map_err(|e| Error::file(&path, format!("is not a tokenizer.json ({e})")))?;
        Ok(Tokenizer::new(inner, path, Special::default()))
    }

    fn new(mut inner: tokenizers::Tokenizer, path: PathBuf, special: Special) -> Tokenizer {
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>).with_padding(None);
        // Only a truncation that is asked for can fail.
        let _ = inner.with_truncation(None);
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1);
        let first = inner.encode("a", false).ok().and_then(|encoding| encoding.get_tokens().first().cloned());
        let adds_space = first.is_some_and(|token| token.starts_with('▁'));
        let in_pieces = long::is_sum_of_pieces(&inner);
        Tokenizer { inner, path, special, vocab_size, adds_space, in_pieces }
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

    /// The rows that an embedding needs: one more than the largest token.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The file that the vocabulary was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token that begins a text, if the model has one. Whether a document gets it is for [`Tokenizer::encode_document`] to say.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The tokens after which generation stops: the end of text first, which also ends a completion, then those that end a turn.
    pub fn end_tokens(&self) -> &[u32] {
        &self.special.end
    }

    /// The model's chat template, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.special.chat_template.as_deref()
    }

    /// How a token is written in the vocabulary. For a special token, that is its text.
    pub fn token(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// The tokens of a text as it stands: nothing is put before or behind it. The text of a special token is that token.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer cannot take it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        self.encode_into(text, &mut tokens)?;
        Ok(tokens)
    }

    /// The tokens of a text with BOS before it if the model's own files ask for that: by the post-processor of `tokenizer.json`, or
    /// `add_bos_token`. This is how a document, and a prompt that is no chat, begins.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer cannot take it.
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.special.prefix.clone();
        self.encode_into(text, &mut tokens)?;
        Ok(tokens)
    }

    fn encode_into(&self, text: &str, tokens: &mut Vec<u32>) -> Result<()> {
        let whole = (!self.in_pieces).then_some(text);
        let pieces = self.in_pieces.then(|| long::pieces(text));
        for piece in whole.into_iter().chain(pieces.into_iter().flatten()) {
            tokens.extend_from_slice(self.inner.encode_fast(piece, false).map_err(cannot_take)?.get_ids());
        }
        Ok(())
    }

    /// The tokens of a text that goes on where another ends: without the space that SentencePiece puts first.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer cannot take it.
    pub(super) fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        if self.adds_space {
            // Nothing merges with a line break, so what comes after it is the text without a space.
            let (before, whole) = (self.encode("\n")?, self.encode(&format!("\n{text}"))?);
            if let Some(tokens) = whole.strip_prefix(before.as_slice()) {
                return Ok(tokens.to_vec());
            }
        }
        self.encode(text)
    }

    /// The tokens of a text as it stands, each with the bytes of the text that it stands for.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer cannot take it.
    pub(super) fn encode_with_places(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let encoding = self.inner.encode(text, false).map_err(cannot_take)?;
        let places = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(places).collect())
    }

    /// The text of tokens, special ones included; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, false).unwrap_or_default()
    }

    /// A decoder for tokens that come one by one.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(&self.inner)
    }
}

fn cannot_take(e: tokenizers::Error) -> Error {
    Error::Usage(format!("the tokenizer cannot take the text ({e}); use a tokenizer that fits the text"))
}
