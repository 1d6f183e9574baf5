//! The model's tokenizer.

mod encoded;
mod export;
mod files;
mod gguf;
mod long;
mod split;
mod stream;
#[cfg(test)]
mod tests;
mod wordpiece;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub use encoded::Encoded;
pub(super) use long::chunks;
pub use stream::Decoder;

use crate::error::{Error, Result};
use crate::files::{LIST_BYTES, read_text};
use crate::weights::Gguf;

/// Encodes text as tokens and decodes tokens to text, with the special tokens that the model's files name.
pub struct Tokenizer {
    /// Has no post-processor, truncation or padding: this module handles their tasks itself.
    inner: tokenizers::Tokenizer,
    /// What puts an encoder's special tokens around texts.
    frame: Option<tokenizers::PostProcessorWrapper>,
    path: PathBuf,
    special: Special,
    vocab_size: usize,
    /// Whether each text is prefixed with a space, as SentencePiece does.
    adds_space: bool,
    /// Whether long texts can be tokenised in chunks.
    in_chunks: bool,
}

/// A vocabulary's special tokens, as its files name them.
#[derive(Debug, Default)]
struct Special {
    bos: Option<u32>,
    /// The end-of-text token first, then those that end a turn, without duplicates.
    end: Vec<u32>,
    /// The tokens before a document: BOS or none.
    prefix: Vec<u32>,
    /// The token that hides another in masked language models.
    mask: Option<u32>,
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
    /// Reads `tokenizer.json`; `path` is the file or its directory. Special tokens and the chat template come from optional files in the
    /// same directory: `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json`, `config.json` and
    /// `chat_template.jinja`. Without `tokenizer.json`, a `vocab.txt` of BERT serves instead.
    ///
    /// # Errors
    /// [`Error::File`] if `tokenizer.json` is missing, or a file is malformed.
    pub fn read(path: &Path) -> Result<Tokenizer> {
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.into() };
        let vocab = path.with_file_name("vocab.txt");
        let json = if !path.exists() && vocab.is_file() { wordpiece::json_of(&vocab)? } else { read_text(&path, LIST_BYTES)? };
        let mut inner = json
            .parse::<tokenizers::Tokenizer>()
            .map_err(|e| Error::file(&path, format!("is not a tokenizer.json ({e}); copy it again from the model")))?;
        let special = files::special(&path, &mut inner)?;
        Ok(Tokenizer::new(inner, path, special))
    }

    /// The tokenizer of a GGUF file: a `tokenizer.json` in the same directory if there is one, otherwise the vocabulary in the metadata,
    /// which must be byte-level BPE (`gpt2`) or SentencePiece (`llama`). Special tokens that `tokenizer.json` and its companion files do
    /// not name come from the metadata.
    ///
    /// # Errors
    /// [`Error::File`] if the metadata are malformed or describe an unsupported tokenizer, and as [`Tokenizer::read`].
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
            let problem = format!("has {has} tokens, but {} has {count}; replace it with the model's own tokenizer", gguf.path().display());
            return Err(Error::file(beside, problem));
        }
        gguf::complete(gguf, &mut tokenizer.special)?;
        Ok(tokenizer)
    }

    /// Reads a tokenizer from the text of a `tokenizer.json` alone, so without special tokens from other files.
    ///
    /// # Errors
    /// [`Error::File`] if it is malformed.
    pub fn from_json(json: &str) -> Result<Tokenizer> {
        let path = PathBuf::from("tokenizer.json");
        let inner: tokenizers::Tokenizer = json.parse().map_err(|e| Error::file(&path, format!("is not a tokenizer.json ({e})")))?;
        Ok(Tokenizer::new(inner, path, Special::default()))
    }

    fn new(mut inner: tokenizers::Tokenizer, path: PathBuf, special: Special) -> Tokenizer {
        inner.with_padding(None);
        // Turning truncation off cannot fail.
        let _ = inner.with_truncation(None);
        let frame = encoded::frame(&inner);
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1);
        let first = inner.encode("a", false).ok().and_then(|encoding| encoding.get_tokens().first().cloned());
        let adds_space = first.is_some_and(|token| token.starts_with('▁'));
        let in_chunks = long::is_sum_of_chunks(&inner);
        Tokenizer { inner, frame, path, special, vocab_size, adds_space, in_chunks }
    }

    /// A tokenizer of 256 tokens, one per byte: byte-level BPE without merges, as the text of a `tokenizer.json`.
    pub fn bytes_json() -> String {
        // GPT-2's printable stand-ins for bytes: printable bytes stand for themselves, the others start at U+0100.
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

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// True for a tokenizer without tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of embedding rows that the vocabulary needs: one more than the largest token.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The file that the vocabulary was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token that begins a text (BOS), if the model has one. [`Tokenizer::encode_document`] decides whether a document gets it.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The tokens at which generation stops: first the end of text, which also ends a completion, then those that end a turn.
    pub fn end_tokens(&self) -> &[u32] {
        &self.special.end
    }

    /// The tokens before a document.
    pub(super) fn prefix(&self) -> &[u32] {
        &self.special.prefix
    }

    /// The token that hides another, if the model predicts hidden words.
    pub fn mask(&self) -> Option<u32> {
        self.special.mask.filter(|_| self.frame.is_some())
    }

    /// The tokenizer of a decoder, which has no use for a mask.
    pub(crate) fn of_decoder(mut self) -> Tokenizer {
        self.special.mask = None;
        self
    }

    /// The model's chat template, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.special.chat_template.as_deref()
    }

    /// A token as the vocabulary writes it. For a special token, this is its text.
    pub fn token(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// Encodes a text as it stands, without special tokens before or after it. The text of a special token becomes that token.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        self.encode_into(text, &mut tokens)?;
        Ok(tokens)
    }

    /// Encodes a document, or a prompt that is not a chat: with BOS first if the model's files ask for it, by the post-processor of
    /// `tokenizer.json` or by `add_bos_token`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer cannot encode it.
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.special.prefix.clone();
        self.encode_into(text, &mut tokens)?;
        Ok(tokens)
    }

    fn encode_into(&self, text: &str, tokens: &mut Vec<u32>) -> Result<()> {
        let whole = (!self.in_chunks).then_some(text);
        let chunks = self.in_chunks.then(|| long::chunks(text));
        for chunk in whole.into_iter().chain(chunks.into_iter().flatten()) {
            tokens.extend_from_slice(self.inner.encode_fast(chunk, false).map_err(cannot_encode)?.get_ids());
        }
        Ok(())
    }

    /// Encodes a text that continues another one, so without the space that SentencePiece puts first.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer cannot encode it.
    pub(super) fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        if self.adds_space {
            // Nothing merges with a line break, so the tokens after it are the text without a space.
            let (before, whole) = (self.encode("\n")?, self.encode(&format!("\n{text}"))?);
            if let Some(tokens) = whole.strip_prefix(before.as_slice()) {
                return Ok(tokens.to_vec());
            }
        }
        self.encode(text)
    }

    /// Encodes a text as it stands. Each token comes with the byte range of the text that it covers.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer cannot encode it.
    pub(super) fn encode_with_places(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let encoding = self.inner.encode(text, false).map_err(cannot_encode)?;
        let places = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(places).collect())
    }

    /// Decodes tokens to text, including special tokens; invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, false).unwrap_or_default()
    }

    /// A decoder for a stream of tokens.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(&self.inner)
    }
}

fn cannot_encode(e: tokenizers::Error) -> Error {
    Error::Usage(format!("the tokenizer cannot encode the text ({e}); use a tokenizer that supports it"))
}
