//! One row of a data file.

use serde_json::Value;

use crate::text::Message;

/// What a row can be.
#[derive(Debug)]
pub(in crate::text) enum Row {
    Text(String),
    Completion { prompt: String, completion: String },
    Chat(Vec<Message>),
    Labelled { text: String, pair: Option<String>, label: Option<Label> },
    Tagged { tokens: Vec<String>, labels: Option<Vec<String>> },
}

/// A label as it stands in a row.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::text) enum Label {
    Name(String),
    Whole(i64),
    Fraction(f64),
    Names(Vec<String>),
}

impl Label {
    /// The names that it stands for among others.
    pub fn names(&self) -> Vec<String> {
        match self {
            Label::Name(name) => vec![name.clone()],
            Label::Whole(number) => vec![number.to_string()],
            Label::Fraction(number) => vec![number.to_string()],
            Label::Names(names) => names.clone(),
        }
    }

    /// A label of one cell of a table, which has text only.
    fn of_cell(cell: &str) -> Label {
        let number = cell.parse().map(Label::Whole).or_else(|_| cell.parse().map(Label::Fraction));
        match number {
            Ok(Label::Fraction(number)) if !number.is_finite() => Label::Name(cell.into()),
            Ok(number) => number,
            Err(_) => Label::Name(cell.into()),
        }
    }

    fn of_json(value: Value) -> Result<Label, String> {
        match value {
            Value::String(name) => Ok(Label::Name(name)),
            Value::Bool(value) => Ok(Label::Name(value.to_string())),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Ok(Label::Whole(whole)),
                (None, Some(number)) => Ok(Label::Fraction(number)),
                _ => Err("has a 'label' that is not a usable number; correct it".into()),
            },
            Value::Array(_) => Ok(Label::Names(names("label", value)?)),
            _ => Err("has a 'label' that is neither a string, a number nor a list of strings; correct it".into()),
        }
    }
}

/// A list of labels or words.
fn names(key: &str, value: Value) -> Result<Vec<String>, String> {
    let wrong = || format!("has '{key}' that are not a list of strings; correct them");
    let Value::Array(list) = value else { return Err(wrong()) };
    let name = |value| match value {
        Value::String(name) => Ok(name),
        Value::Number(number) if number.is_i64() => Ok(number.to_string()),
        _ => Err(wrong()),
    };
    list.into_iter().map(name).collect()
}

/// The keys that are read; others are skipped.
#[derive(Default, serde::Deserialize)]
struct Keys {
    text: Option<Value>,
    text_pair: Option<Value>,
    label: Option<Value>,
    tokens: Option<Value>,
    labels: Option<Value>,
    prompt: Option<Value>,
    completion: Option<Value>,
    messages: Option<Value>,
}

impl Row {
    /// Reads a line of JSON. The error is the rest of a sentence that begins with the line's number.
    pub fn parse(line: &str) -> Result<Row, String> {
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
        let label = keys.label.clone().map(Label::of_json);
        Row::of_keys(keys, label)
    }

    /// A row of a table, as pairs of a column's name and a cell. An empty cell is no label and no second text.
    pub fn of_cells<'a>(cells: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Row, String> {
        let mut keys = Keys::default();
        let mut label = None;
        for (name, cell) in cells {
            let text = Some(Value::String(cell.into()));
            match name {
                "text" => keys.text = text,
                "text_pair" => keys.text_pair = text.filter(|_| !cell.is_empty()),
                "label" => label = Some(cell).filter(|cell| !cell.is_empty()),
                "prompt" => keys.prompt = text,
                "completion" => keys.completion = text,
                _ => {}
            }
        }
        keys.label = label.map(|cell| Value::String(cell.into()));
        Row::of_keys(keys, label.map(|cell| Ok(Label::of_cell(cell))))
    }

    fn of_keys(keys: Keys, label: Option<Result<Label, String>>) -> Result<Row, String> {
        let text = |key: &str, value: Value| match value {
            Value::String(text) => Ok(text),
            _ => Err(format!("has a '{key}' that is not a string; correct or remove it")),
        };
        match keys {
            Keys { messages: Some(messages), .. } => chat(messages).map(Row::Chat),
            Keys { prompt: Some(prompt), completion: Some(completion), .. } => {
                Ok(Row::Completion { prompt: text("prompt", prompt)?, completion: text("completion", completion)? })
            }
            Keys { tokens: Some(tokens), labels, .. } => {
                let (tokens, labels) = (names("tokens", tokens)?, labels.map(|labels| names("labels", labels)).transpose()?);
                if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != tokens.len()) {
                    let (tokens, labels) = (tokens.len(), labels.len());
                    return Err(format!("has {tokens} 'tokens' but {labels} 'labels'; give each token one label"));
                }
                Ok(Row::Tagged { tokens, labels })
            }
            Keys { text: Some(value), text_pair: None, label: None, .. } => Ok(Row::Text(text("text", value)?)),
            Keys { text: Some(value), text_pair, .. } => {
                let pair = text_pair.map(|pair| text("text_pair", pair)).transpose()?;
                Ok(Row::Labelled { text: text("text", value)?, pair, label: label.transpose()? })
            }
            Keys { prompt: Some(_), .. } => Err("has a 'prompt' without a 'completion'; add one or remove the row".into()),
            Keys { completion: Some(_), .. } => Err("has a 'completion' without a 'prompt'; add one, which may be empty".into()),
            _ => Err("has none of the keys 'text', 'prompt' and 'completion', 'messages', or 'tokens'; correct or remove it".into()),
        }
    }
}

fn chat(messages: Value) -> Result<Vec<Message>, String> {
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
