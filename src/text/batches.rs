//! The batches of a run, epoch by epoch.

use super::{Batch, Dataset, shuffled};

/// The position of a run in its data, from which it can resume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The number of completed epochs.
    pub epoch: u64,
    /// The number of batches taken in the current epoch.
    pub index: u64,
}

/// An endless stream of batches. Each epoch contains every sequence once; its last batch may have fewer rows.
pub struct Batches<'a> {
    data: &'a Dataset,
    batch_size: usize,
    /// The seed of the shuffle; `None` keeps the order of the file.
    seed: Option<u64>,
    position: Position,
    /// The order of the epoch `ordered`.
    order: Vec<usize>,
    ordered: Option<u64>,
}

impl<'a> Batches<'a> {
    /// The batches of a dataset, from the beginning. With a seed, each epoch has its own order, which depends only on the seed.
    ///
    /// # Panics
    /// If the dataset or the batch is empty.
    pub fn new(data: &'a Dataset, batch_size: usize, seed: Option<u64>) -> Batches<'a> {
        assert!(!data.sequences.is_empty() && batch_size > 0, "there are sequences and a batch has rows");
        Batches { data, batch_size, seed, position: Position::default(), order: Vec::new(), ordered: None }
    }

    /// Starts at another position. An index past the end of the epoch means the beginning of the next.
    #[must_use]
    pub fn starting_at(mut self, position: Position) -> Batches<'a> {
        self.position = position;
        self.wrap();
        self
    }

    /// The position of the next batch.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The number of batches in an epoch.
    pub fn per_epoch(&self) -> u64 {
        self.data.sequences.len().div_ceil(self.batch_size) as u64
    }

    /// Returns the next batch and advances.
    pub fn take_next(&mut self) -> Batch {
        let len = self.data.sequences.len();
        if self.ordered != Some(self.position.epoch) {
            self.order = match self.seed {
                Some(seed) => shuffled(len, seed, self.position.epoch),
                None => (0..len).collect(),
            };
            self.ordered = Some(self.position.epoch);
        }
        let from = self.position.index as usize * self.batch_size;
        let rows = &self.order[from..(from + self.batch_size).min(len)];
        let rows: Vec<_> = rows.iter().map(|&row| &self.data.sequences[row]).collect();
        self.position.index += 1;
        self.wrap();
        Batch::of(&rows, self.data.max_length)
    }

    fn wrap(&mut self) {
        if self.position.index >= self.per_epoch() {
            self.position = Position { epoch: self.position.epoch + 1, index: 0 };
        }
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        Some(self.take_next())
    }
}

impl Dataset {
    /// The batches of one pass over the data in file order, for evaluation.
    pub fn batches(&self, batch_size: usize) -> impl Iterator<Item = Batch> {
        let batches = Batches::new(self, batch_size, None);
        let count = batches.per_epoch() as usize;
        batches.take(count)
    }
}
