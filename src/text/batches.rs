//! The batches of a run, epoch by epoch.

use super::{Batch, Dataset, round_length, shuffled};

/// The position of a run in its data, from which it can resume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The number of completed epochs.
    pub epoch: u64,
    /// The number of batches taken in the current epoch.
    pub index: u64,
}

/// The rows of a batch have like lengths, so that there is little padding: they are sorted within windows of this many batches of the
/// shuffled data.
const WINDOW: usize = 64;

/// The epoch of evaluation: the same words are hidden each time.
const MEASURED: u64 = u32::MAX as u64;

/// An endless stream of batches. Each epoch contains every sequence once; one of its batches may have fewer rows.
pub struct Batches<'a> {
    data: &'a Dataset,
    batch_size: usize,
    /// The seed of the shuffle; `None` keeps the order of the file.
    seed: Option<u64>,
    position: Position,
    /// The rows of each batch of the epoch `ordered`.
    order: Vec<Vec<usize>>,
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
        if self.ordered != Some(self.position.epoch) {
            self.order = self.epoch(self.position.epoch);
            self.ordered = Some(self.position.epoch);
        }
        let batch = self.data.batch(&self.order[self.position.index as usize], self.seed.unwrap_or(0), self.position.epoch);
        self.position.index += 1;
        self.wrap();
        batch
    }

    /// The share of the tokens of the first epoch's batches that are padding.
    pub fn padding(&self) -> f64 {
        let (mut padded, mut tokens) = (0, 0);
        for rows in self.epoch(0) {
            let lengths = || rows.iter().map(|&row| self.data.sequences[row].tokens.len());
            padded += rows.len() * round_length(lengths().max().unwrap_or(0), self.data.max_length);
            tokens += lengths().sum::<usize>();
        }
        1.0 - tokens as f64 / padded.max(1) as f64
    }

    /// The rows of each batch of an epoch: in the order of the file, or shuffled.
    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let len = self.data.sequences.len();
        let Some(seed) = self.seed else { return in_batches(&(0..len).collect::<Vec<_>>(), self.batch_size) };
        let order = shuffled(len, seed, epoch);
        let mut batches = Vec::new();
        for window in order.chunks(WINDOW * self.batch_size) {
            // By place in the window.
            let mut places: Vec<usize> = (0..window.len()).collect();
            places.sort_by_key(|&place| self.data.sequences[window[place]].tokens.len());
            let mut of_window = in_batches(&places, self.batch_size);
            // The lengths should not follow the order of the batches. Where all are equal, this leaves the shuffle as it was.
            of_window.sort_by_key(|places| places.iter().min().copied());
            batches.extend(of_window.iter().map(|places| places.iter().map(|&place| window[place]).collect::<Vec<_>>()));
        }
        batches
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

fn in_batches(rows: &[usize], batch_size: usize) -> Vec<Vec<usize>> {
    rows.chunks(batch_size).map(<[usize]>::to_vec).collect()
}

impl Dataset {
    /// The sequences in the order of their lengths, by their places in the file.
    pub fn by_length(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.sequences.len()).collect();
        order.sort_by_key(|&at| self.sequences[at].tokens.len());
        order
    }

    /// The batches of one pass over the data, for evaluation: the sequences in the order of [`Dataset::by_length`], so that there is hardly
    /// any padding.
    pub fn batches(&self, batch_size: usize) -> impl Iterator<Item = Batch> {
        in_batches(&self.by_length(), batch_size).into_iter().map(|rows| self.batch(&rows, 0, MEASURED))
    }

    /// The batch of some rows. Hidden words depend on the seed, the epoch and the row alone.
    fn batch(&self, rows: &[usize], seed: u64, epoch: u64) -> Batch {
        let Some(masking) = self.masking else {
            return Batch::of(&rows.iter().map(|&row| &self.sequences[row]).collect::<Vec<_>>(), self.max_length);
        };
        // Both are far below 2^32.
        let hidden = |&row: &usize| masking.hide(&self.sequences[row], seed, epoch << 32 | row as u64);
        let hidden: Vec<_> = rows.iter().map(hidden).collect();
        Batch::of(&hidden.iter().collect::<Vec<_>>(), self.max_length)
    }
}
