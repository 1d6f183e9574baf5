//! Training data: files to sequences of tokens.

mod rows;
#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::{ChatTemplate, Sequence, Tokenizer};
use crate::error::{Error, Result};
use crate::files::{not_utf8, open, read_text, unreadable};
use rows::Row;

/// How data become sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOptions {
    /// The most tokens of a sequence; at least 2.
    pub max_length: usize,
    /// Learn prompts and all turns of a chat too, not only what the model is to say.
    pub train_on_prompt: bool,
}

/// The sequences of one file.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The file.
    pub path: PathBuf,
    /// The sequences in the order of the file. There is at least one, and each has a target.
    pub sequences: Vec<Sequence>,
    /// The most tokens of a sequence.
    pub max_length: usize,
    /// How many rows were longer and lost their end, those that were dropped included.
    pub cut: usize,
    /// How many rows were dropped since nothing that is to be learned lay within the maximum length.
    pub dropped: usize,
}

/// What a run learns from and what it is measured on.
#[derive(Clone, Debug)]
pub struct Splits {
    /// To learn from.
    pub train: Dataset,
    /// To measure while it learns.
    pub valid: Option<Dataset>,
    /// To measure in the end.
    pub test: Option<Dataset>,
}

impl Splits {
    /// Reads a `.jsonl` or `.txt` file, or a directory with `train.jsonl` and perhaps `valid.jsonl` and `test.jsonl`. In a directory, each
    /// may also be a `.txt`.
    ///
    /// # Errors
    /// [`Error::File`], naming file and line.
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

/// Calls `each` with the texts that a data set has to learn from: a whole file, or of each row the text, the prompt and the completion, or
/// the messages one by one. Returns the file that they are in.
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

/// Whether a file is a text as a whole, by its name.
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

/// Calls `each` with the rows of a `.jsonl` file and their lines, from 1.
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
    /// - A `text` is tokenised as it stands, with BOS only where the model asks for it and nothing behind it.
    /// - A `prompt` is tokenised as a text is, so that its tokens are those it has when the model is to continue it. Its `completion`
    ///   follows, with the tokens it has behind the prompt where those of the prompt stay the same, and otherwise on its own; then the
    ///   end token, if the model has one. The prompt is not learned.
    /// - `messages` go through the model's chat template, and the whole is tokenised at once. Only the assistant's turns are learned: of a
    ///   token that lies across the beginning or the end of a turn, nothing.
    ///
    /// A `.txt` file is one text. It is cut into full sequences, and what is left over at the end is dropped unless it is all there is.
    ///
    /// # Errors
    /// [`Error::File`], naming the line if there is one: the file cannot be read, a row is none of the three kinds or has nothing to learn,
    /// or no row is left. [`Error::Usage`] if the maximum length is below 2.
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
        let mut pieces: Vec<&[u32]> = tokens.chunks_exact(self.max_length).collect();
        if pieces.is_empty() && tokens.len() >= 2 {
            pieces.push(&tokens);
        }
        if pieces.is_empty() {
            return Err(Error::file(&self.path, "has no text to learn from; give a text of two tokens or more"));
        }
        self.sequences = pieces.into_iter().map(|piece| Sequence::new(piece.to_vec())).collect();
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
                let problem = format!("has {dropped} rows, and in none does what is to be learned begin within {length} tokens");
                Err(Error::file(&self.path, format!("{problem}; use a longer maximum length")))
            }
        }
    }

    /// A problem with a text as a problem of the file.
    fn at(&self, line: Option<usize>, e: &Error) -> Error {
        match line {
            Some(line) => Error::file(&self.path, format!("line {line}: {e}")),
            None => Error::file(&self.path, e.to_string()),
        }
    }
}
