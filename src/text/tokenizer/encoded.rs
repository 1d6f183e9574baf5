//! What an encoder reads: one text or two, framed by the model's special tokens.

use tokenizers::utils::truncation::{TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings};
use tokenizers::{Encoding, PostProcessor};

use super::{Tokenizer, cannot_encode};
use crate::error::{Error, Result};

/// One text or a pair as tokens, with the special tokens around them, such as `[CLS] A [SEP] B [SEP]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens; there is at least one.
    pub tokens: Vec<u32>,
    /// The type of each token: 1 in the second text and after it, 0 elsewhere.
    pub types: Vec<u32>,
    /// Whether each token is one of the frame's.
    pub special: Vec<bool>,
    /// Whether the texts were longer and have been cut.
    pub cut: bool,
}

impl Tokenizer {
    /// Encodes a text, or two, as the post-processor of `tokenizer.json` frames them, in at most `max_length` tokens. The longer of two
    /// texts is cut first. Without such a frame, as for decoders, a text is encoded like a document.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no room for the text, no frame for a pair, or nothing to encode.
    pub fn encode_pair(&self, text: &str, pair: Option<&str>, max_length: usize) -> Result<Encoded> {
        let Some(frame) = &self.frame else {
            if pair.is_some() {
                return Err(Error::Usage("the model's tokenizer has no form for two texts; join them into one".into()));
            }
            let mut tokens = self.encode_document(text)?;
            let cut = tokens.len() > max_length;
            tokens.truncate(max_length);
            let types = vec![0; tokens.len()];
            let special = (0..tokens.len()).map(|at| at < self.special.prefix.len()).collect();
            return not_empty(Encoded { tokens, types, special, cut });
        };
        let added = frame.added_tokens(pair.is_some());
        if max_length <= added {
            let problem = format!("the maximum length is {max_length}, but the tokenizer adds {added} tokens to a text");
            return Err(Error::Usage(format!("{problem}; use a longer maximum length")));
        }
        let encode = |text: &str| self.inner.encode_fast(text, false).map_err(cannot_encode);
        let (text, pair) = (encode(text)?, pair.map(encode).transpose()?);
        let len = |text: &Encoding, pair: &Option<Encoding>| text.len() + pair.as_ref().map_or(0, Encoding::len);
        let before = len(&text, &pair);
        let (strategy, direction) = (TruncationStrategy::LongestFirst, TruncationDirection::Right);
        let truncation = TruncationParams { max_length: max_length - added, strategy, direction, stride: 0 };
        let (text, pair) = truncate_encodings(text, pair, &truncation).map_err(cannot_encode)?;
        let cut = len(&text, &pair) < before;
        let framed = frame.process(text, pair, true).map_err(cannot_encode)?;
        let special = framed.get_special_tokens_mask().iter().map(|&special| special == 1).collect();
        not_empty(Encoded { tokens: framed.get_ids().into(), types: framed.get_type_ids().into(), special, cut })
    }

    /// The special tokens before and after a single text of an encoder; `None` for a tokenizer without such a frame.
    pub fn frame(&self) -> Option<[Vec<u32>; 2]> {
        let frame = self.frame.as_ref()?;
        let text = self.inner.encode_fast("a", false).ok()?;
        let [first, last] = [text.get_ids().first().copied(), text.get_ids().last().copied()];
        let framed = frame.process(text, None, true).ok()?;
        let ids = framed.get_ids();
        let (from, to) = (ids.iter().position(|id| Some(*id) == first)?, ids.iter().rposition(|id| Some(*id) == last)?);
        Some([ids[..from].to_vec(), ids[to + 1..].to_vec()])
    }
}

fn not_empty(encoded: Encoded) -> Result<Encoded> {
    match encoded.tokens.is_empty() {
        true => Err(Error::Usage("the text is empty; give one with at least one token".into())),
        false => Ok(encoded),
    }
}

/// The post-processor of an encoder, which puts a token after a text. That of a decoder at most puts BOS before it.
pub(super) fn frame(inner: &tokenizers::Tokenizer) -> Option<tokenizers::PostProcessorWrapper> {
    let processor = inner.get_post_processor()?;
    let special = |text: &str| inner.encode(text, true).ok().and_then(|e| e.get_special_tokens_mask().last().copied());
    (special("a") == Some(1)).then(|| processor.clone())
}
