//! Sequences of tokens: cutting, shuffling and batching.

/// The target of a position without a loss; the same value as in `shaders/vocabulary/loss.wgsl`.
pub const IGNORED: u32 = u32::MAX;

/// A sequence of tokens and its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The type of each token, as in [`Encoded`](super::Encoded); empty if all are 0.
    pub types: Vec<u32>,
    /// For each token, the next one or its label, or [`IGNORED`] where there is none or it is not learned. If `of_row`: the label of the
    /// whole text, or the bits of f32 numbers: its score, or 1 or 0 for each label that it can have.
    pub targets: Vec<u32>,
    /// Whether the targets are the whole text's and not its tokens'.
    pub of_row: bool,
}

impl Sequence {
    /// A sequence in which every token but the first is learned.
    pub fn new(tokens: Vec<u32>) -> Sequence {
        Sequence::masked(tokens, |_| true)
    }

    /// A sequence in which a token is learned if `learned` returns true for its position.
    pub(super) fn masked(tokens: Vec<u32>, learned: impl Fn(usize) -> bool) -> Sequence {
        let next = |i: usize| tokens.get(i + 1).filter(|_| learned(i + 1)).copied().unwrap_or(IGNORED);
        let targets = (0..tokens.len()).map(next).collect();
        Sequence { tokens, types: Vec::new(), targets, of_row: false }
    }

    /// The number of targets that are learned.
    pub fn targets(&self) -> usize {
        self.targets.iter().filter(|&&t| t != IGNORED).count()
    }

    /// Keeps the first `length` tokens. The last one kept has no target.
    pub(super) fn truncate(&mut self, length: usize) {
        if self.tokens.len() > length {
            self.tokens.truncate(length);
            self.types.truncate(length);
            self.targets.truncate(length);
            self.targets.last_mut().into_iter().for_each(|last| *last = IGNORED);
        }
    }
}

/// Rows of tokens, padded to one length: the input of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The number of rows.
    pub rows: u32,
    /// The tokens in a row, including padding.
    pub length: u32,
    /// The tokens (rows, length); padding is 0.
    pub tokens: Vec<u32>,
    /// The types of the tokens (rows, length), for encoders that tell a second text from the first by them.
    pub types: Vec<u32>,
    /// The targets (rows, length), or (rows, n) if they are of whole texts: those of the sequences, one after the other.
    pub targets: Vec<u32>,
    /// The length of each row without padding (rows).
    pub lengths: Vec<u32>,
}

impl Batch {
    /// Creates a batch of sequences, padded to the longest. The target of each token is the next token.
    ///
    /// # Panics
    /// If there are no sequences, or one is empty.
    pub fn new(sequences: &[&[u32]]) -> Batch {
        let length = sequences.iter().map(|s| s.len()).max().expect("a batch has a row");
        let (mut tokens, mut targets, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            assert!(!sequence.is_empty(), "a row has a token");
            tokens.extend_from_slice(sequence);
            tokens.resize(lengths.len() * length + length, 0);
            targets.extend_from_slice(&sequence[1..]);
            targets.resize(lengths.len() * length + length, IGNORED);
            lengths.push(sequence.len() as u32);
        }
        let types = vec![0; tokens.len()];
        Batch { rows: sequences.len() as u32, length: length as u32, tokens, types, targets, lengths }
    }

    /// Creates a batch of sequences that have their own targets, all of the same kind, padded to [`round_length`] of the longest.
    ///
    /// # Panics
    /// If there are no sequences, or one is empty or longer than `max_length`.
    pub fn of(sequences: &[&Sequence], max_length: usize) -> Batch {
        let longest = sequences.iter().map(|s| s.tokens.len()).max().expect("a batch has a row");
        assert!(longest <= max_length, "no row is longer than the maximum length");
        let length = round_length(longest, max_length);
        let (mut tokens, mut types, mut targets, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            let complete = sequence.of_row || sequence.tokens.len() == sequence.targets.len();
            assert!(!sequence.tokens.is_empty() && complete, "a row has tokens and their targets");
            lengths.push(sequence.tokens.len() as u32);
            tokens.extend_from_slice(&sequence.tokens);
            tokens.resize(lengths.len() * length, 0);
            types.extend_from_slice(&sequence.types);
            types.resize(lengths.len() * length, 0);
            targets.extend_from_slice(&sequence.targets);
            if !sequence.of_row {
                targets.resize(lengths.len() * length, IGNORED);
            }
        }
        Batch { rows: sequences.len() as u32, length: length as u32, tokens, types, targets, lengths }
    }

    /// The batch cut into micro-batches of `rows` rows; the last may have fewer.
    ///
    /// # Panics
    /// If `rows` is 0.
    pub fn cut(&self, rows: u32) -> Vec<Batch> {
        let rows = rows as usize;
        let part = |(at, lengths): (usize, &[u32])| {
            let of = |values: &[u32]| {
                let width = values.len() / self.rows as usize;
                values[at * rows * width..][..lengths.len() * width].to_vec()
            };
            let [tokens, types, targets] = [&self.tokens, &self.types, &self.targets].map(|values| of(values));
            Batch { rows: lengths.len() as u32, length: self.length, tokens, types, targets, lengths: lengths.into() }
        };
        self.lengths.chunks(rows).enumerate().map(part).collect()
    }

    /// The number of targets: tokens, rows, or numbers.
    pub fn targets(&self) -> u64 {
        self.targets.iter().filter(|&&t| t != IGNORED).count() as u64
    }
}

/// The padded length of a batch: a multiple of 8, but at most `max_length`.
pub fn round_length(longest: usize, max_length: usize) -> usize {
    longest.max(1).next_multiple_of(8).min(max_length).max(longest)
}

/// Cuts a text into full sequences of `length` tokens; the remainder is dropped.
pub fn cut(tokens: &[u32], length: usize) -> Vec<&[u32]> {
    tokens.chunks_exact(length).collect()
}

/// The positions of `tokens`, stably sorted by token (a counting sort would not be faster here).
pub fn order_of(tokens: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
    order.sort_by_key(|&i| tokens[i as usize]);
    order
}

/// The numbers below `len`, in an order that depends only on the seed and the epoch (Fisher–Yates with SplitMix64).
pub fn shuffled(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut random = crate::random::Random::new(seed, 0x5EED_0000 + epoch);
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_and_targets_shifted() {
        let batch = Batch::new(&[&[5, 6, 7], &[8]]);
        assert_eq!(batch.tokens, [5, 6, 7, 8, 0, 0]);
        assert_eq!(batch.targets, [6, 7, IGNORED, IGNORED, IGNORED, IGNORED]);
        assert_eq!((batch.lengths.as_slice(), batch.targets()), ([3, 1].as_slice(), 2));
    }

    #[test]
    fn a_cut_batch_has_the_same_rows() {
        let batch = Batch::new(&[&[5, 6, 7], &[8], &[9, 1]]);
        assert_eq!(batch.cut(3), std::slice::from_ref(&batch));
        let [first, last] = &batch.cut(2)[..] else { panic!("two parts") };
        assert_eq!((first.rows, &first.tokens[..], &first.lengths[..]), (2, &[5, 6, 7, 8, 0, 0][..], &[3, 1][..]));
        assert_eq!((last.rows, &last.tokens[..], &last.targets[..]), (1, &[9, 1, 0][..], &[1, IGNORED, IGNORED][..]));
    }

    #[test]
    fn masked_targets_are_kept_and_lengths_rounded() {
        let (one, two) = (Sequence::masked(vec![1, 2, 3, 4], |i| i >= 2), Sequence::new(vec![5, 6]));
        let batch = Batch::of(&[&one, &two], 6);
        assert_eq!((batch.rows, batch.length, batch.lengths.as_slice()), (2, 6, [4, 2].as_slice()));
        assert_eq!(batch.tokens, [1, 2, 3, 4, 0, 0, 5, 6, 0, 0, 0, 0]);
        let no = IGNORED;
        assert_eq!(batch.targets, [no, 3, 4, no, no, no, 6, no, no, no, no, no]);
        assert_eq!((batch.targets(), one.targets(), two.targets()), (3, 2, 1));
        let mut cut = one.clone();
        cut.truncate(3);
        assert_eq!((cut.tokens.as_slice(), cut.targets.as_slice()), ([1, 2, 3].as_slice(), [no, 3, no].as_slice()));
        assert_eq!(Batch::of(&[&two], 512).length, 8);
    }

    #[test]
    fn lengths_are_rounded_a_little() {
        for (longest, rounded) in [(1, 8), (8, 8), (9, 16), (129, 136), (496, 496), (497, 500), (500, 500)] {
            assert_eq!(round_length(longest, 500), rounded);
        }
        assert!((1..=500).all(|longest| (longest..longest + 8).contains(&round_length(longest, 500))));
    }

    #[test]
    fn targets_of_rows_are_not_padded() {
        let row =
            |tokens: &[u32], targets: &[u32]| Sequence { tokens: tokens.into(), types: vec![], targets: targets.into(), of_row: true };
        let batch = Batch::of(&[&row(&[1, 2, 3], &[7, 8]), &row(&[4], &[9, IGNORED]), &row(&[5], &[1, 2])], 10);
        assert_eq!((batch.targets.as_slice(), batch.targets()), ([7, 8, 9, IGNORED, 1, 2].as_slice(), 5));
        let parts = batch.cut(2);
        assert_eq!([&parts[0].targets[..], &parts[1].targets[..]], [&[7, 8, 9, IGNORED][..], &[1, 2]]);
        assert_eq!((parts[1].tokens[0], parts[1].lengths.as_slice()), (5, [1].as_slice()));
    }

    #[test]
    fn a_shuffle_is_a_permutation_that_the_seed_repeats() {
        let order = shuffled(100, 1, 2);
        let mut sorted = order.clone();
        sorted.sort();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(order, shuffled(100, 1, 2));
        assert_ne!(order, shuffled(100, 1, 3));
        assert_ne!(order, shuffled(100, 2, 2));
    }

    #[test]
    fn the_order_is_stable() {
        assert_eq!(order_of(&[2, 0, 2, 1]), [1, 3, 0, 2]);
    }
}
