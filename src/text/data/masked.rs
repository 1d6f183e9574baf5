//! Texts as an encoder learns them: each in the frame of its special tokens, with its words as targets, some of which a batch hides.

use super::rows::Row;
use crate::error::{Error, Result};
use crate::text::{IGNORED, Sequence, Tokenizer};

/// A row's tokens, and whether it was too long and has been cut. The error is the rest of a sentence that begins with its line.
pub(super) fn sequence(row: Row, tokenizer: &Tokenizer, max_length: usize) -> std::result::Result<(Sequence, bool), String> {
    let (text, pair) = match row {
        Row::Text(text) => (text, None),
        Row::Labelled { text, pair, .. } => (text, pair),
        Row::Tagged { tokens, .. } => (tokens.join(" "), None),
        Row::Completion { .. } | Row::Chat(_) => return Err("has no 'text', which is what an encoder learns; correct or remove it".into()),
    };
    let encoded = tokenizer.encode_pair(&text, pair.as_deref(), max_length).map_err(|e| format!("cannot be used: {e}"))?;
    let target = |(&token, &special): (&u32, &bool)| if special { IGNORED } else { token };
    let targets: Vec<_> = encoded.tokens.iter().zip(&encoded.special).map(target).collect();
    if targets.iter().all(|&target| target == IGNORED) {
        return Err("has no words; correct or remove it".into());
    }
    let types = if encoded.types.contains(&1) { encoded.types } else { Vec::new() };
    Ok((Sequence { tokens: encoded.tokens, types, targets, of_row: false }, encoded.cut))
}

/// A whole text in full sequences; the remainder is dropped unless it is all there is.
pub(super) fn pieces(text: &str, tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Sequence>> {
    let words = tokenizer.encode(text)?;
    let [before, after] = tokenizer.frame().unwrap_or_default();
    let frame = before.len() + after.len();
    if max_length <= frame {
        let problem = format!("the maximum length is {max_length}, but the tokenizer adds {frame} tokens to a text");
        return Err(Error::Usage(format!("{problem}; use a longer maximum length")));
    }
    let mut pieces: Vec<&[u32]> = words.chunks_exact(max_length - frame).collect();
    if pieces.is_empty() && !words.is_empty() {
        pieces.push(&words);
    }
    if pieces.is_empty() {
        return Err(Error::Usage("there is no text to learn from; give a text with at least one word".into()));
    }
    let ignored = |frame: &[u32]| vec![IGNORED; frame.len()];
    let framed = |words: &&[u32]| Sequence {
        tokens: [&before, *words, &after].concat(),
        types: Vec::new(),
        targets: [&ignored(&before), *words, &ignored(&after)].concat(),
        of_row: false,
    };
    Ok(pieces.iter().map(framed).collect())
}
