//! Hiding words that an encoder is to predict (BERT: Devlin et al. 2018, section 3.1).

use super::{IGNORED, Sequence};
use crate::random::Random;

/// The share of words that are predicted.
const PREDICTED: f64 = 0.15;
/// Of these, the share that the mask replaces, and the share that another word replaces. The others stay.
const MASKED: f64 = 0.8;
const REPLACED: f64 = 0.1;

/// How words are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masking {
    /// The token in place of a hidden word.
    pub mask: u32,
    /// The number of tokens that can replace a word.
    pub vocabulary: u32,
}

impl Masking {
    /// Hides a share of the words of a sequence, those that have a target, which is the word itself: the others lose theirs. At least one
    /// word is predicted, if there is one. The choice depends only on `seed` and on `stream`, which distinguishes rows and epochs.
    pub fn hide(&self, sequence: &Sequence, seed: u64, stream: u64) -> Sequence {
        let mut random = Random::new(seed, stream);
        let mut hidden = Sequence { targets: vec![IGNORED; sequence.tokens.len()], ..sequence.clone() };
        let words = || (0..sequence.tokens.len()).filter(|&at| sequence.targets[at] != IGNORED);
        let draws: Vec<_> = words().map(|at| (at, random.uniform())).collect();
        let least = draws.iter().map(|(_, draw)| *draw).fold(f64::INFINITY, f64::min);
        for (at, _) in draws.into_iter().filter(|(_, draw)| *draw < PREDICTED || *draw == least) {
            hidden.targets[at] = sequence.targets[at];
            hidden.tokens[at] = match random.uniform() {
                how if how < MASKED => self.mask,
                how if how < MASKED + REPLACED => random.below(self.vocabulary.into()) as u32,
                _ => sequence.tokens[at],
            };
        }
        hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASKING: Masking = Masking { mask: 4, vocabulary: 1000 };

    /// A row of `len` words between two special tokens.
    fn row(len: usize) -> Sequence {
        let tokens: Vec<u32> = [2].into_iter().chain((0..len as u32).map(|word| 100 + word % 800)).chain([3]).collect();
        let targets = tokens.iter().map(|&token| if token < 100 { IGNORED } else { token }).collect();
        Sequence { tokens, types: Vec::new(), targets, of_row: false }
    }

    #[test]
    fn shares_are_berts() {
        let row = row(200_000);
        let hidden = MASKING.hide(&row, 7, 1);
        let predicted: Vec<_> = (0..row.tokens.len()).filter(|&at| hidden.targets[at] != IGNORED).collect();
        let share = |count: usize, of: usize| count as f64 / of as f64;
        let masked = predicted.iter().filter(|&&at| hidden.tokens[at] == MASKING.mask).count();
        let kept = predicted.iter().filter(|&&at| hidden.tokens[at] == row.tokens[at]).count();
        assert!((share(predicted.len(), 200_000) - 0.15).abs() < 0.004, "{}", predicted.len());
        assert!((share(masked, predicted.len()) - 0.8).abs() < 0.01, "{masked}");
        assert!((share(kept, predicted.len()) - 0.1).abs() < 0.01, "{kept}");
        // What is not predicted stays; the target is the word itself; frames are never touched.
        for at in 0..row.tokens.len() {
            assert!(hidden.targets[at] == IGNORED && hidden.tokens[at] == row.tokens[at] || hidden.targets[at] == row.tokens[at]);
        }
        assert_eq!((hidden.targets[0], hidden.targets[row.tokens.len() - 1]), (IGNORED, IGNORED));
    }

    #[test]
    fn choices_repeat_and_differ() {
        let row = row(100);
        assert_eq!(MASKING.hide(&row, 7, 1), MASKING.hide(&row, 7, 1));
        assert_ne!(MASKING.hide(&row, 7, 1), MASKING.hide(&row, 7, 2));
        assert_ne!(MASKING.hide(&row, 7, 1), MASKING.hide(&row, 8, 1));
    }

    #[test]
    fn a_short_row_has_a_word_to_predict() {
        for stream in 0..200 {
            assert!(MASKING.hide(&row(1), 7, stream).targets() == 1 && MASKING.hide(&row(3), 7, stream).targets() >= 1);
        }
        assert_eq!(MASKING.hide(&row(0), 7, 1), row(0));
    }
}
