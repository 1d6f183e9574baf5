//! Rows as a language model learns them: token after token.

use std::ops::Range;

use super::rows::Row;
use crate::error::{Error, Result};
use crate::text::{ChatTemplate, Sequence, Tokenizer};

impl Row {
    /// The row's tokens. A row with nothing to learn becomes a sequence without targets.
    pub(super) fn sequence(self, tokenizer: &Tokenizer, template: Option<&ChatTemplate>, train_on_prompt: bool) -> Result<Sequence> {
        match self {
            Row::Text(text) | Row::Labelled { text, .. } => Ok(Sequence::new(tokenizer.encode_document(&text)?)),
            Row::Tagged { tokens, .. } => Ok(Sequence::new(tokenizer.encode_document(&tokens.join(" "))?)),
            Row::Completion { prompt, completion } => {
                let (tokens, from) = continued(tokenizer, &prompt, &completion)?;
                // An empty completion, only an end token, is a mistake in the data and nothing to learn.
                let learns = train_on_prompt || !completion.is_empty();
                Ok(Sequence::masked(tokens, |i| learns && (train_on_prompt || i >= from)))
            }
            Row::Chat(messages) => {
                let template = template.ok_or_else(|| Error::Usage("there is no chat template for the row".into()))?;
                template.check_roles(&messages)?;
                if train_on_prompt {
                    return Ok(Sequence::new(tokenizer.encode(&template.render(&messages, false)?)?));
                }
                let (text, turns) = template.render_with_turns(&messages)?;
                let (tokens, places): (Vec<_>, Vec<_>) = tokenizer.encode_with_places(&text)?.into_iter().unzip();
                let speaks = messages.iter().any(|message| message.role == "assistant" && !message.content.trim().is_empty());
                let within = |place: &Range<usize>| turns.iter().any(|turn| turn.start <= place.start && place.end <= turn.end);
                Ok(Sequence::masked(tokens, |i| speaks && within(&places[i])))
            }
        }
    }
}

/// The tokens of a prompt and its completion, and the number that belong to the prompt.
pub(super) fn continued(tokenizer: &Tokenizer, prompt: &str, completion: &str) -> Result<(Vec<u32>, usize)> {
    let mut tokens = tokenizer.encode_document(prompt)?;
    let from = tokens.len();
    let whole = tokenizer.encode_document(&[prompt, completion].concat())?;
    if !prompt.is_empty() && whole.starts_with(&tokens) {
        tokens = whole;
    } else if prompt.is_empty() {
        tokens.extend(tokenizer.encode(completion)?);
    } else {
        tokens.extend(tokenizer.encode_continuation(completion)?);
    }
    tokens.extend(tokenizer.end_tokens().first());
    Ok((tokens, from))
}
