//! Training data: from files to sequences of tokens.

mod rows;
#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::{ChatTemplate, Sequence, Tokenizer};
use crate::error::{Error, Result};
use crate::files::{not_utf8, open, read_text, unreadable};
use rows::Row;

/// How data are turned into sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOptions {
    /// The maximum tokens per sequence; at least 2.
    pub max_length: usize,
    /// Also learn prompts and all turns of a chat, not only what the model is to say.
    pub train_on_prompt: bool,
}

/// The sequences of one file.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The file.
    pub path: PathBuf,
    /// The sequences in the order of the file. There is at least one, and each has a target.
    pub sequences: Vec<Sequence>,
    /// The maximum tokens per sequence.
    pub max_length: usize,
    /// The number of rows that were longer and were cut, including those then dropped.
    pub cut: usize,
    /// The number of rows dropped because nothing to be learned was within the maximum length.
    pub dropped: usize,
}

/// The data that a run learns from and is measured on.
#[derive(Clone, Debug)]
pub struct Splits {
    /// The data to learn from.
    pub train: Dataset,
    /// The data to measure during training.
    pub valid: Option<Dataset>,
    /// The data to measure at the end.
    pub test: Option<Dataset>,
}

impl Splits {
    /// Reads a `.jsonl` or `.txt` file, or a directory with `train.jsonl` and optionally `valid.jsonl` and `test.jsonl`. In a directory,
    /// each can also be a `.txt`.
    ///
    /// # Errors
    /// [`Error::File`], which names the file and line; otherwise as [`Dataset::read`].
    pub fn read(path: &Path, tokenizer: &Tokenizer, options: &DataOptions) -> Result<Splits> {
        if !path.is_dir() {
            return Ok(Splits { train: Dataset::read(path, tokenizer, options)?, valid: None, test: None });
        }
        let split = |name: &str| split(path, name).map(|file| Dataset::read(&file, tokenizer, options)).transpose();
        let Some(train) = split("train")? else { return Err(no_train(path)) };
        Ok(Splits { train, valid: split("valid")?, test: split("test")? })
    }
}

/// The file of a split in a directory.
fn split(directory: &Path, name: &str) -> Option<PathBuf> {
    ["jsonl", "txt"].iter().map(|extension| directory.join(format!("{name}.{extension}"))).find(|file| file.exists())
}

fn no_train(path: &Path) -> Error {
    Error::file(path, "has no train.jsonl; put one there or give the path of a .jsonl or .txt file")
}

/// Calls `each` with every text of the training data: a whole file, or from each row the text, the prompt and the completion, or the
/// messages one by one. Returns the file that was read.
pub(super) fn each_text(path: &Path, mut each: impl FnMut(String)) -> Result<PathBuf> {
    let file = if path.is_dir() { split(path, "train").ok_or_else(|| no_train(path))? } else { path.into() };
    if is_text(&file)? {
        each(read_text(&file, u64::MAX)?);
    } else {
        each_row(&file, |_, row| {
            match row {
                Row::Text(text) => each(text),
                Row::Completion { prompt, completion } => [prompt, completion].into_iter().for_each(&mut each),
                Row::Chat(messages) => messages.into_iter().for_each(|message| each(message.content)),
            }
            Ok(())
        })?;
    }
    Ok(file)
}

/// Whether a file is one whole text, judged by its name.
fn is_text(path: &Path) -> Result<bool> {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("jsonl") => Ok(false),
        Some("txt") => Ok(true),
        _ if path.is_dir() => Err(Error::file(path, "is a directory; give the path of a .jsonl or .txt file in it")),
        _ if path.exists() => Err(Error::file(path, "is neither a .jsonl nor a .txt file; rename or convert it")),
        _ => Err(Error::file(path, "does not exist; check the path")),
    }
}

/// Calls `each` with the line number, from 1, and content of each row of a `.jsonl` file.
fn each_row(path: &Path, mut each: impl FnMut(usize, Row) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(open(path, "give the path of a .jsonl file")?);
    let (mut bytes, mut line) = (Vec::new(), 0);
    loop {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(|e| unreadable(path, e))? == 0 {
            return Ok(());
        }
        line += 1;
        let text = str::from_utf8(&bytes).map_err(|_| not_utf8(path, line))?;
        let text = if line == 1 { text.strip_prefix('\u{FEFF}').unwrap_or(text) } else { text };
        if !text.trim().is_empty() {
            each(line, Row::parse(text).map_err(|problem| Error::file(path, format!("line {line} {problem}")))?)?;
        }
    }
}

impl Dataset {
    /// Reads a `.jsonl` or `.txt` file.
    ///
    /// A row of a `.jsonl` file is one sequence, cut at the maximum length. It has `messages`, or `prompt` and `completion`, or `text`;
    /// the first of these counts, and other keys are ignored.
    ///
    /// - A `text` is tokenised as it stands, with BOS only if the model asks for it and nothing after it.
    /// - A `prompt` is tokenised like a text, so that it has the same tokens as when the model is to continue it. Its `completion` follows.
    ///   The two are tokenised together if that does not change the prompt's tokens, and otherwise separately. Then comes the end token, if
    ///   the model has one. The prompt is not learned.
    /// - `messages` go through the model's chat template, and the whole is tokenised at once. Only the assistant's turns are learned; a
    ///   token that crosses the beginning or end of a turn is not.
    ///
    /// A `.txt` file is one text. It is cut into full sequences, and the remainder is dropped unless it is the whole text.
    ///
    /// # Errors
    /// [`Error::File`], which names the line if there is one, if the file cannot be read, if a row is none of the three kinds or has
    /// nothing to learn, or if no row is left. [`Error::Usage`] if the maximum length is below 2.
    pub fn read(path: &Path, tokenizer: &Tokenizer, options: &DataOptions) -> Result<Dataset> {
        if options.max_length < 2 {
            let problem = format!("the maximum length is {}, but a sequence needs two tokens", options.max_length);
            return Err(Error::Usage(format!("{problem}; use a longer maximum length")));
        }
        let is_text = is_text(path)?;
        let mut dataset = Dataset { path: path.into(), sequences: Vec::new(), max_length: options.max_length, cut: 0, dropped: 0 };
        if is_text {
            dataset.read_text(tokenizer)?
        } else {
            dataset.read_rows(tokenizer, options)?
        }
        Ok(dataset)
    }

    fn read_text(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let text = read_text(&self.path, u64::MAX)?;
        let tokens = tokenizer.encode_document(&text).map_err(|e| self.at(None, &e))?;
        let mut sequences: Vec<&[u32]> = tokens.chunks_exact(self.max_length).collect();
        if sequences.is_empty() && tokens.len() >= 2 {
            sequences.push(&tokens);
        }
        if sequences.is_empty() {
            return Err(Error::file(&self.path, "has no text to learn from; give a text of two tokens or more"));
        }
        self.sequences = sequences.into_iter().map(|sequence| Sequence::new(sequence.to_vec())).collect();
        Ok(())
    }

    fn read_rows(&mut self, tokenizer: &Tokenizer, options: &DataOptions) -> Result<()> {
        let path = self.path.clone();
        let mut template: Option<ChatTemplate> = None;
        each_row(&path, |line, row| {
            if matches!(row, Row::Chat(_)) && template.is_none() {
                template = Some(ChatTemplate::of(tokenizer)?);
            }
            let mut sequence = row.sequence(tokenizer, template.as_ref(), options.train_on_prompt).map_err(|e| self.at(Some(line), &e))?;
            if sequence.targets() == 0 {
                let problem = "has nothing to learn: it needs two tokens of text, a completion, or an assistant's turn";
                return Err(Error::file(&path, format!("line {line} {problem}; correct or remove it")));
            }
            self.cut += usize::from(sequence.tokens.len() > self.max_length);
            sequence.truncate(self.max_length);
            if sequence.targets() == 0 {
                self.dropped += 1;
            } else {
                self.sequences.push(sequence);
            }
            Ok(())
        })?;
        match (self.sequences.len(), self.dropped) {
            (1.., _) => Ok(()),
            (0, 0) => Err(Error::file(&self.path, "has no rows; give at least one line of JSON")),
            (0, dropped) => {
                let length = self.max_length;
                let problem = format!("has {dropped} rows, none of which has anything to learn within {length} tokens");
                Err(Error::file(&self.path, format!("{problem}; use a longer maximum length")))
            }
        }
    }

    /// Turns a text's error into one of the file.
    fn at(&self, line: Option<usize>, e: &Error) -> Error {
        match line {
            Some(line) => Error::file(&self.path, format!("line {line}: {e}")),
            None => Error::file(&self.path, e.to_string()),
        }
    }
}
