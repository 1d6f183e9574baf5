//! One row of a `.jsonl` file.

use std::ops::Range;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::text::{ChatTemplate, Message, Sequence, Tokenizer};

/// What a row can be.
#[derive(Debug)]
pub(super) enum Row {
    Text(String),
    Completion { prompt: String, completion: String },
    Chat(Vec<Message>),
}

/// The keys that are read; others are skipped.
#[derive(serde::Deserialize)]
struct Keys {
    text: Option<Value>,
    prompt: Option<Value>,
    completion: Option<Value>,
    messages: Option<Value>,
}

impl Row {
    /// Reads a line. The error is the rest of a sentence that begins with the line's number.
    pub(super) fn parse(line: &str) -> std::result::Result<Row, String> {
        // Serde would accept an array as a row without keys.
        if !line.trim_start().starts_with('{') {
            return Err("is not a JSON object; write one object per line, in braces".into());
        }
        // Trimmed, since a string cut short would otherwise seem to contain the line break.
        let keys: Keys = serde_json::from_str(line.trim_end()).map_err(|e| {
            if e.is_eof() {
                return "ends in the middle of a JSON object; complete or remove it".into();
            }
            // The line in the message is always 1 here, so only the column is kept.
            let reason = e.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            format!("is not a JSON object ({reason} at column {}); write one object per line", e.column())
        })?;
        let text = |key: &str, value: Value| match value {
            Value::String(text) => Ok(text),
            _ => Err(format!("has a '{key}' that is not a string; correct or remove it")),
        };
        match keys {
            Keys { messages: Some(messages), .. } => chat(messages).map(Row::Chat),
            Keys { prompt: Some(prompt), completion: Some(completion), .. } => {
                Ok(Row::Completion { prompt: text("prompt", prompt)?, completion: text("completion", completion)? })
            }
            Keys { text: Some(value), .. } => Ok(Row::Text(text("text", value)?)),
            Keys { prompt: Some(_), .. } => Err("has a 'prompt' without a 'completion'; add one or remove the row".into()),
            Keys { completion: Some(_), .. } => Err("has a 'completion' without a 'prompt'; add one, which may be empty".into()),
            _ => Err("has none of the keys 'text', 'prompt' and 'completion', or 'messages'; correct or remove it".into()),
        }
    }

    /// The row's tokens. A row with nothing to learn becomes a sequence without targets.
    pub(super) fn sequence(self, tokenizer: &Tokenizer, template: Option<&ChatTemplate>, train_on_prompt: bool) -> Result<Sequence> {
        match self {
            Row::Text(text) => Ok(Sequence::new(tokenizer.encode_document(&text)?)),
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

fn chat(messages: Value) -> std::result::Result<Vec<Message>, String> {
    let wrong = |what: &str| format!("has {what}; 'messages' is a list of objects with 'role' and 'content', both strings");
    let Value::Array(messages) = messages else { return Err(wrong("'messages' that are not a list")) };
    if messages.is_empty() {
        return Err(wrong("'messages' without a message"));
    }
    let message = |(at, message): (usize, Value)| {
        let text = |key: &str| match message.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(wrong(&format!("a '{key}' in message {} that is not a string", at + 1))),
            None => Err(wrong(&format!("no '{key}' in message {}", at + 1))),
        };
        Ok(Message { role: text("role")?, content: text("content")? })
    };
    messages.into_iter().enumerate().map(message).collect()
}
