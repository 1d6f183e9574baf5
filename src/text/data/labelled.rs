//! Rows as a head learns them that judges whole texts, or each of their words.

use super::DataOptions;
use super::rows::{Label, Row};
use crate::error::Error;
use crate::text::{IGNORED, Sequence, Task, Tokenizer};

/// What a row lacks, as the rest of a sentence that begins with its line.
type Checked<T> = std::result::Result<T, String>;

/// The tokens and targets of a row, and whether it was too long and has been cut. Without `labelled`, the targets only show where there is
/// something to predict.
pub(super) fn sequence(row: Row, labelled: bool, tokenizer: &Tokenizer, options: &DataOptions) -> Checked<(Sequence, bool)> {
    let says = |e: Error| format!("cannot be used: {e}");
    let (text, pair, label) = match (row, &options.task) {
        (Row::Tagged { tokens, labels }, Task::Tagging(known)) => {
            let numbers = match labels.filter(|_| labelled) {
                Some(labels) => labels.iter().map(|label| known.number(label)).collect::<Checked<Vec<_>>>()?,
                None if labelled => return Err("has no 'labels'; give each token one, or remove the row".into()),
                None => vec![0; tokens.len()],
            };
            return words(&tokens, &numbers, tokenizer, options.max_length);
        }
        (Row::Text(text), Task::Tagging(_)) if !labelled => {
            let tokens: Vec<_> = text.split_whitespace().map(str::to_string).collect();
            return words(&tokens, &vec![0; tokens.len()], tokenizer, options.max_length);
        }
        (_, Task::Tagging(_)) => return Err("has no 'tokens' and 'labels', which tagging needs; correct or remove it".into()),
        (Row::Text(text), _) => (text, None, None),
        (Row::Labelled { text, pair, label }, _) => (text, pair, label),
        _ => return Err(format!("has no 'text' with a 'label', which {} needs; correct or remove it", options.task.kind())),
    };
    for (key, text) in [("text", Some(&text)), ("text_pair", pair.as_ref())] {
        if text.is_some_and(|text| text.trim().is_empty()) {
            return Err(format!("has an empty '{key}'; correct or remove it"));
        }
    }
    let encoded = tokenizer.encode_pair(&text, pair.as_deref(), options.max_length).map_err(says)?;
    let targets = if labelled { targets(label, &options.task)? } else { vec![0; outputs(&options.task)] };
    let types = if encoded.types.contains(&1) { encoded.types } else { Vec::new() };
    Ok((Sequence { tokens: encoded.tokens, types, targets, of_row: true }, encoded.cut))
}

/// The number of targets of a row.
fn outputs(task: &Task) -> usize {
    if let Task::MultiLabel(labels) = task { labels.len() } else { 1 }
}

/// What a row's head is to predict.
fn targets(label: Option<Label>, task: &Task) -> Checked<Vec<u32>> {
    let label = label.ok_or("has no 'label'; add one or remove the row (--task language learns the texts themselves)")?;
    match (task, label) {
        (Task::Regression, Label::Whole(number)) => Ok(vec![(number as f32).to_bits()]),
        (Task::Regression, Label::Fraction(number)) if (number as f32).is_finite() => Ok(vec![(number as f32).to_bits()]),
        (Task::Regression, _) => Err("has a 'label' that is not a number, which regression needs; correct it".into()),
        (Task::MultiLabel(known), Label::Names(names)) => {
            let mut all = vec![0f32.to_bits(); known.len()];
            for name in &names {
                all[known.number(name)? as usize] = 1f32.to_bits();
            }
            Ok(all)
        }
        (Task::MultiLabel(_), _) => Err("has a 'label' that is not a list, unlike other rows; put it in brackets".into()),
        (Task::Classification(_), Label::Names(_)) => Err("has a list as 'label', but is to have one of several; correct it".into()),
        (Task::Classification(known), label) => Ok(vec![known.number(&label.names()[0])?]),
        (Task::Language | Task::Tagging(_), _) => unreachable!("these tasks have targets for tokens"),
    }
}

/// The tokens of a text of words, of which the first of each word has the word's label.
fn words(words: &[String], labels: &[u32], tokenizer: &Tokenizer, max_length: usize) -> Checked<(Sequence, bool)> {
    let says = |e: Error| format!("cannot be used: {e}");
    if words.is_empty() {
        return Err("has no 'tokens'; correct or remove it".into());
    }
    if let Some(at) = words.iter().position(|word| word.trim().is_empty()) {
        return Err(format!("has an empty word, number {} of its 'tokens'; correct or remove it", at + 1));
    }
    let mut ends = Vec::new();
    let mut text = String::new();
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        text += word;
        ends.push(text.len());
    }
    let [before, after] = tokenizer.frame().unwrap_or_else(|| [tokenizer.prefix().to_vec(), Vec::new()]);
    let room = max_length.saturating_sub(before.len() + after.len());
    let mut pieces = tokenizer.encode_with_places(&text).map_err(says)?;
    let cut = pieces.len() > room;
    pieces.truncate(room);

    let (mut tokens, mut targets) = (before.clone(), vec![IGNORED; before.len()]);
    let mut next = 0;
    for (token, place) in pieces {
        // The word in which the token ends: a space may belong to the token of the word after it.
        let word = ends.partition_point(|&end| end < place.end);
        let first = word >= next && word < words.len();
        if first && word > next {
            return Err(format!("has a word for which the tokenizer has no token, number {} of its 'tokens'; remove it", next + 1));
        }
        targets.push(if first { labels[word] } else { IGNORED });
        next = if first { word + 1 } else { next };
        tokens.push(token);
    }
    tokens.extend(&after);
    targets.resize(tokens.len(), IGNORED);
    Ok((Sequence { tokens, types: Vec::new(), targets, of_row: false }, cut))
}
