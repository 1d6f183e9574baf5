//! What a model learns from rows: the next tokens, or what people say about a text.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use super::data::{Label, Row};
use super::data::{each_row, is_text, train_file};
use crate::error::{Error, Result};
use crate::words::{count, shown};

/// What a model learns and predicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// The token that follows each token.
    Language,
    /// One of several labels of a text.
    Classification(Labels),
    /// The labels of a text, of which it can have any number.
    MultiLabel(Labels),
    /// A number that belongs to a text.
    Regression,
    /// A label of each word of a text.
    Tagging(Labels),
}

/// A [`Task`] without its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// [`Task::Language`].
    Language,
    /// [`Task::Classification`].
    Classification,
    /// [`Task::MultiLabel`].
    MultiLabel,
    /// [`Task::Regression`].
    Regression,
    /// [`Task::Tagging`].
    Tagging,
}

impl TaskKind {
    /// Every kind with its name in options.
    pub const ALL: [(TaskKind, &'static str); 5] = [
        (TaskKind::Language, "language"),
        (TaskKind::Classification, "classification"),
        (TaskKind::MultiLabel, "multilabel"),
        (TaskKind::Regression, "regression"),
        (TaskKind::Tagging, "tagging"),
    ];

    /// Its name in options.
    pub fn name(self) -> &'static str {
        TaskKind::ALL[self as usize].1
    }
}

impl Task {
    /// Its kind.
    pub fn kind(&self) -> TaskKind {
        match self {
            Task::Language => TaskKind::Language,
            Task::Classification(_) => TaskKind::Classification,
            Task::MultiLabel(_) => TaskKind::MultiLabel,
            Task::Regression => TaskKind::Regression,
            Task::Tagging(_) => TaskKind::Tagging,
        }
    }

    /// A task of this kind with these labels, which [`TaskKind::Language`] and [`TaskKind::Regression`] have no use for.
    pub fn new(kind: TaskKind, labels: Labels) -> Task {
        match kind {
            TaskKind::Language => Task::Language,
            TaskKind::Classification => Task::Classification(labels),
            TaskKind::MultiLabel => Task::MultiLabel(labels),
            TaskKind::Regression => Task::Regression,
            TaskKind::Tagging => Task::Tagging(labels),
        }
    }

    /// Its labels, if it has any.
    pub fn labels(&self) -> Option<&Labels> {
        match self {
            Task::Language | Task::Regression => None,
            Task::Classification(labels) | Task::MultiLabel(labels) | Task::Tagging(labels) => Some(labels),
        }
    }

    /// Finds out what a file, or the training file of a directory, is for, and which labels it has. `wanted` overrides what its rows suggest:
    /// tagging if they have `tokens`; with a `label`, several labels if one is a list, regression if one is a fraction, and otherwise
    /// classification; else language.
    ///
    /// # Errors
    /// [`Error::File`], which names the file and the line, if it cannot be read or its labels are of no use for the task.
    pub fn of(path: &Path, wanted: Option<TaskKind>) -> Result<Task> {
        let file = train_file(path)?;
        if wanted == Some(TaskKind::Language) {
            return Ok(Task::Language);
        }
        let mut seen = Seen::default();
        if !is_text(&file)? {
            each_row(&file, |_, row| {
                seen.add(&row);
                Ok(())
            })?;
        }
        let kind = wanted.unwrap_or(seen.kind());
        let names = match kind {
            TaskKind::Language | TaskKind::Regression => return Ok(Task::new(kind, Labels::default())),
            TaskKind::Tagging => seen.tags,
            TaskKind::Classification | TaskKind::MultiLabel => seen.names,
        };
        let labels = Labels::sorted(names.into_iter().collect());
        match labels.names() {
            [] => Err(Error::file(&file, format!("has no labels for {}; add them, or choose another --task", kind.name()))),
            [one] if kind != TaskKind::MultiLabel => {
                let problem = format!("has only the label '{}', so there is nothing to tell apart; add rows with other labels", shown(one));
                Err(Error::file(&file, problem))
            }
            _ => Ok(Task::new(kind, labels)),
        }
    }
}

/// What the rows of a file have.
#[derive(Default)]
struct Seen {
    names: BTreeSet<String>,
    tags: BTreeSet<String>,
    tagged: bool,
    labelled: bool,
    lists: bool,
    fractions: bool,
}

impl Seen {
    fn add(&mut self, row: &Row) {
        match row {
            Row::Tagged { labels, .. } => {
                self.tagged = true;
                self.tags.extend(labels.iter().flatten().cloned());
            }
            Row::Labelled { label: Some(label), .. } => {
                self.labelled = true;
                self.lists |= matches!(label, Label::Names(_));
                self.fractions |= matches!(label, Label::Fraction(_));
                self.names.extend(label.names());
            }
            _ => {}
        }
    }

    fn kind(&self) -> TaskKind {
        match self {
            Seen { tagged: true, .. } => TaskKind::Tagging,
            Seen { labelled: false, .. } => TaskKind::Language,
            Seen { lists: true, .. } => TaskKind::MultiLabel,
            Seen { fractions: true, .. } => TaskKind::Regression,
            _ => TaskKind::Classification,
        }
    }
}

/// The labels that a head tells apart; a label's place is its number.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Labels {
    /// The labels in this order, without repetitions.
    pub fn new(names: impl IntoIterator<Item = String>) -> Labels {
        let mut labels = Labels::default();
        for name in names {
            let next = labels.names.len() as u32;
            if let Entry::Vacant(place) = labels.numbers.entry(name.clone()) {
                place.insert(next);
                labels.names.push(name);
            }
        }
        labels
    }

    /// The labels in order: of their numbers if all are whole numbers, otherwise of the alphabet.
    fn sorted(mut names: Vec<String>) -> Labels {
        if names.iter().all(|name| name.parse::<i64>().is_ok()) {
            names.sort_by_key(|name| name.parse::<i64>().unwrap_or(0));
        }
        Labels::new(names)
    }

    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How often each label occurs, as text for people: the most frequent first, and only some of many.
    pub fn counted(&self, counts: &[u64]) -> String {
        const MOST: usize = 12;
        let mut pairs: Vec<_> = self.names.iter().zip(counts).collect();
        pairs.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut listed: Vec<_> = pairs.iter().take(MOST).map(|(name, count)| format!("{} {count}", shown(name))).collect();
        if self.len() > MOST {
            listed.push(format!("{} more", self.len() - MOST));
        }
        listed.join(", ")
    }

    /// The number of the label called `name`.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the line, if there is no such label.
    pub(super) fn number(&self, name: &str) -> std::result::Result<u32, String> {
        let known = || {
            let first: Vec<_> = self.names.iter().take(10).map(|name| shown(name)).collect();
            let more = self.len().saturating_sub(first.len());
            if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
        };
        self.numbers.get(name).copied().ok_or_else(|| {
            let all = count(self.len(), "label");
            format!("has the label '{}', which is not one of the {all} that the head knows ({}); correct it", shown(name), known())
        })
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Labels) -> bool {
        self.names == other.names
    }
}

impl Eq for Labels {}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
