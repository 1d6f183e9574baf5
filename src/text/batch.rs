//! Sequences of tokens, cut, shuffled and put together.

use crate::ops::IGNORED;

/// Rows of tokens of one length, as a program takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// How many rows.
    pub rows: u32,
    /// Tokens in a row, padding included.
    pub length: u32,
    /// The tokens (rows, length); padding is 0.
    pub tokens: Vec<u32>,
    /// The token after each (rows, length); [`IGNORED`] where there is none.
    pub targets: Vec<u32>,
    /// How many tokens of each row are not padding (rows).
    pub lengths: Vec<u32>,
}

impl Batch {
    /// A batch of sequences, padded to the longest. The target of each token is the one after it.
    ///
    /// # Panics
    /// If there is no sequence, or one is empty.
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
        Batch { rows: sequences.len() as u32, length: length as u32, tokens, targets, lengths }
    }

    /// How many tokens have a target.
    pub fn targets(&self) -> u64 {
        self.targets.iter().filter(|&&t| t != IGNORED).count() as u64
    }
}

/// Cuts a text into full sequences of `length` tokens; what is left over at the end is dropped.
pub fn cut(tokens: &[u32], length: usize) -> Vec<&[u32]> {
    tokens.chunks_exact(length).collect()
}

/// The places of `tokens` sorted by token, equal ones in their order (a counting sort would not be faster here).
pub fn order_of(tokens: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
    order.sort_by_key(|&i| tokens[i as usize]);
    order
}

/// The numbers below `len` in an order that depends on the seed and the epoch alone (Fisher and Yates, from SplitMix64).
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
