//! Training data: from files to sequences of tokens.

mod files;
mod labelled;
mod language;
mod masked;
mod rows;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use super::{ChatTemplate, IGNORED, Labels, Masking, Sequence, Task, Tokenizer, shuffled};
use crate::error::{Error, Result};
use crate::files::read_text;
use files::{each_of_input, split};
pub(super) use files::{each_row, is_text, train_file};
pub(super) use rows::{Label, Row};

/// Standard input, where a file is expected.
pub const STANDARD_INPUT: &str = "-";

/// How data are turned into sequences.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// The maximum tokens per sequence; at least 2.
    pub max_length: usize,
    /// Also learn prompts and all turns of a chat, not only what the model is to say.
    pub train_on_prompt: bool,
    /// What is learned.
    pub task: Task,
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
    /// How words are hidden in each batch, if hidden words are learned: a sequence's targets are then its words.
    pub masking: Option<Masking>,
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

/// What distinguishes the shuffle that holds rows out from those of epochs.
const HELD_OUT: u64 = u64::MAX >> 1;

impl Splits {
    /// Reads a file as [`Dataset::read`] does, or a directory with `train.jsonl` and optionally `valid.jsonl` and `test.jsonl`. In a
    /// directory, each can also be a `.csv`, `.tsv` or `.txt`.
    ///
    /// # Errors
    /// [`Error::File`], which names the file and line; otherwise as [`Dataset::read`].
    pub fn read(path: &Path, tokenizer: &Tokenizer, options: &DataOptions) -> Result<Splits> {
        let train = Dataset::read(&train_file(path)?, tokenizer, options)?;
        let other = |name: &str| {
            let file = split(path, name).filter(|_| path.is_dir());
            file.map(|file| Dataset::read(&file, tokenizer, options)).transpose()
        };
        Ok(Splits { train, valid: other("valid")?, test: other("test")? })
    }
}

/// Calls `each` with every text of the training data: a whole file, or from each row the text, the prompt and the completion, or the
/// messages one by one. Returns the file that was read.
pub(super) fn each_text(path: &Path, mut each: impl FnMut(String)) -> Result<PathBuf> {
    let file = train_file(path)?;
    if is_text(&file)? {
        each(read_text(&file, u64::MAX)?);
    } else {
        each_row(&file, |_, row| {
            match row {
                Row::Text(text) => each(text),
                Row::Labelled { text, pair, .. } => [Some(text), pair].into_iter().flatten().for_each(&mut each),
                Row::Tagged { tokens, .. } => each(tokens.join(" ")),
                Row::Completion { prompt, completion } => [prompt, completion].into_iter().for_each(&mut each),
                Row::Chat(messages) => messages.into_iter().for_each(|message| each(message.content)),
            }
            Ok(())
        })?;
    }
    Ok(file)
}

impl Dataset {
    /// Reads a `.jsonl`, `.csv`, `.tsv` or `.txt` file.
    ///
    /// A row of a `.jsonl` file, or of a table whose first line names the columns, is one sequence, cut at the maximum length. For
    /// [`Task::Language`], it has `messages`, or `prompt` and `completion`, or `text`; the first of these counts, and other keys are
    /// ignored.
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
    /// For an encoder, whose tokenizer has a mask, a row of [`Task::Language`] has `text`, and each sequence is framed by the special tokens
    /// of the model. All its words can be hidden and learned.
    ///
    /// For other tasks, a row has `text`, perhaps `text_pair`, and `label`, framed by the special tokens of the model; or for
    /// [`Task::Tagging`] `tokens`, which are words, and their `labels`: the first token of a word has its label.
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
        let mut dataset = Dataset::empty(path, options);
        if options.task == Task::Language {
            let vocabulary = tokenizer.vocab_size() as u32;
            dataset.masking = tokenizer.mask().map(|mask| Masking { mask, vocabulary });
        }
        if !is_text {
            dataset.read_rows(tokenizer, options)?
        } else if options.task == Task::Language {
            dataset.read_text(tokenizer)?
        } else {
            let problem = format!("is a text without labels, which {} needs; give rows with them", options.task.kind());
            return Err(Error::file(path, problem));
        }
        Ok(dataset)
    }

    /// Reads rows to predict something for: as [`Dataset::read`] does, but labels are ignored and can be missing, and each line of a `.txt`
    /// file, or of standard input if `path` is [`STANDARD_INPUT`], is a row.
    ///
    /// # Errors
    /// [`Error::File`], which names the line, if the file cannot be read, a row is of no use for the task, or there is none.
    pub fn read_unlabelled(path: &Path, tokenizer: &Tokenizer, options: &DataOptions) -> Result<Dataset> {
        let input = path == Path::new(STANDARD_INPUT);
        let mut dataset = Dataset::empty(if input { Path::new("standard input") } else { path }, options);
        let file = dataset.path.clone();
        let add = |line: usize, row: Row| {
            let (sequence, cut) = labelled::sequence(row, false, tokenizer, options)
                .map_err(|problem| Error::file(&file, format!("line {line} {problem}")))?;
            dataset.cut += usize::from(cut);
            dataset.sequences.push(sequence);
            Ok(())
        };
        if input {
            each_of_input(add)?;
        } else {
            is_text(path)?;
            each_row(path, add)?;
        }
        if dataset.sequences.is_empty() {
            return Err(Error::file(&dataset.path, "has no rows; give at least one"));
        }
        Ok(dataset)
    }

    fn empty(path: &Path, options: &DataOptions) -> Dataset {
        Dataset { path: path.into(), sequences: Vec::new(), max_length: options.max_length, masking: None, cut: 0, dropped: 0 }
    }

    /// Splits a share of the sequences off: the last ones, or with a seed others, which depend only on it. The share is at least one sequence
    /// and not all; `None` if it is 0 or there are fewer than two. Both parts stay in the order of the file.
    pub fn hold_out(&mut self, share: f64, seed: Option<u64>) -> Option<Dataset> {
        let len = self.sequences.len();
        if share == 0.0 || len < 2 {
            return None;
        }
        let count = ((len as f64 * share) as usize).clamp(1, len - 1);
        let order = seed.map_or_else(|| (0..len).collect(), |seed| shuffled(len, seed, HELD_OUT));
        let mut held = vec![false; len];
        order[len - count..].iter().for_each(|&at| held[at] = true);
        let mut next = held.iter();
        let (held, kept) = std::mem::take(&mut self.sequences).into_iter().partition(|_| *next.next().expect("one for each"));
        self.sequences = kept;
        Some(Dataset { path: self.path.clone(), sequences: held, max_length: self.max_length, masking: self.masking, cut: 0, dropped: 0 })
    }

    /// How often each of a task's labels is a target.
    pub fn label_counts(&self, task: &Task) -> Vec<u64> {
        let mut counts = vec![0; task.labels().map_or(0, Labels::len)];
        for sequence in &self.sequences {
            match task {
                Task::MultiLabel(_) => {
                    let has = sequence.targets.iter().map(|&bits| u64::from(f32::from_bits(bits) > 0.5));
                    counts.iter_mut().zip(has).for_each(|(count, has)| *count += has);
                }
                _ => {
                    for &label in sequence.targets.iter().filter(|&&label| label != IGNORED) {
                        counts[label as usize] += 1;
                    }
                }
            }
        }
        counts
    }

    fn read_rows(&mut self, tokenizer: &Tokenizer, options: &DataOptions) -> Result<()> {
        let path = self.path.clone();
        let mut template: Option<ChatTemplate> = None;
        each_row(&path, |line, row| {
            if options.task != Task::Language || self.masking.is_some() {
                let sequence = match self.masking {
                    Some(_) => masked::sequence(row, tokenizer, options.max_length),
                    None => labelled::sequence(row, true, tokenizer, options),
                };
                let (sequence, cut) = sequence.map_err(|problem| Error::file(&path, format!("line {line} {problem}")))?;
                self.add(sequence, cut);
                return Ok(());
            }
            if matches!(row, Row::Chat(_)) && template.is_none() {
                template = Some(ChatTemplate::of(tokenizer)?);
            }
            let mut sequence = row.sequence(tokenizer, template.as_ref(), options.train_on_prompt).map_err(|e| self.at(Some(line), &e))?;
            if sequence.targets() == 0 {
                let problem = "has nothing to learn: it needs two tokens of text, a completion, or an assistant's turn";
                return Err(Error::file(&path, format!("line {line} {problem}; correct or remove it")));
            }
            let cut = sequence.tokens.len() > self.max_length;
            sequence.truncate(self.max_length);
            self.add(sequence, cut);
            Ok(())
        })?;
        match (self.sequences.len(), self.dropped) {
            (1.., _) => Ok(()),
            (0, 0) => Err(Error::file(&self.path, "has no rows; give at least one")),
            (0, dropped) => {
                let length = self.max_length;
                let problem = format!("has {dropped} rows, none of which has anything to learn within {length} tokens");
                Err(Error::file(&self.path, format!("{problem}; use a longer maximum length")))
            }
        }
    }

    /// Adds a sequence, unless nothing to be learned is left of it.
    fn add(&mut self, sequence: Sequence, cut: bool) {
        self.cut += usize::from(cut);
        if sequence.targets() == 0 {
            self.dropped += 1;
        } else {
            self.sequences.push(sequence);
        }
    }

    fn read_text(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let text = read_text(&self.path, u64::MAX)?;
        if self.masking.is_some() {
            self.sequences = masked::pieces(&text, tokenizer, self.max_length).map_err(|e| self.at(None, &e))?;
            return Ok(());
        }
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

    /// Turns a text's error into one of the file.
    fn at(&self, line: Option<usize>, e: &Error) -> Error {
        match line {
            Some(line) => Error::file(&self.path, format!("line {line}: {e}")),
            None => Error::file(&self.path, e.to_string()),
        }
    }
}
