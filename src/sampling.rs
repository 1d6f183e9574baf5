//! Sampling: choosing the next token from the logits.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::random::Random;

/// The sampling settings. They apply in this order: temperature, `top_k`, `top_p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy decoding: it always takes the likeliest token, and the lowest of equally likely ones.
    pub temperature: f64,
    /// Keeps only the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of likeliest tokens whose total probability is at least `top_p`, and at least one token (nucleus sampling:
    /// Holtzman et al. 2019); 1 keeps all.
    pub top_p: f64,
    /// The seed.
    pub seed: u64,
}

impl Sampling {
    /// Checks that the settings are in range.
    ///
    /// # Errors
    /// [`Error::Usage`] if the temperature is negative or not finite, or `top_p` is not above 0 and at most 1.
    pub fn check(&self) -> Result<()> {
        let Sampling { temperature, top_p, .. } = *self;
        if !temperature.is_finite() || temperature < 0.0 {
            return Err(Error::Usage(format!("the temperature is {temperature}; use 0 for greedy decoding, or a larger number")));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::Usage(format!("top-p is {top_p}; use a probability above 0 and at most 1, which keeps all tokens")));
        }
        Ok(())
    }
}

/// Chooses tokens. The same seed and logits produce the same tokens.
pub struct Sampler {
    sampling: Sampling,
    random: Random,
}

impl Sampler {
    /// Creates a sampler, seeded with [`Sampling::seed`].
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        sampling.check()?;
        Ok(Sampler { sampling, random: Random::new(sampling.seed, 0x6E) })
    }

    /// Chooses a token, given the logits (vocabulary).
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a logit is not finite.
    ///
    /// # Panics
    /// If `logits` is empty.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        if let Some(token) = logits.iter().position(|v| !v.is_finite()) {
            return Err(Error::NotFinite { what: format!("the logit of token {token}") });
        }
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        let likelier = |a: &u32, b: &u32| logits[*b as usize].partial_cmp(&logits[*a as usize]).unwrap_or(Ordering::Equal).then(a.cmp(b));
        let all = 0..logits.len() as u32;
        let likeliest = all.clone().min_by(likelier).expect("a vocabulary has a token");
        if temperature == 0.0 {
            return Ok(likeliest);
        }
        let mut tokens: Vec<u32> = all.collect();
        if top_k > 0 && top_k < tokens.len() {
            tokens.select_nth_unstable_by(top_k - 1, likelier);
            tokens.truncate(top_k);
            tokens.sort_unstable_by(likelier);
        }
        let largest = f64::from(logits[likeliest as usize]);
        let weight = |token: u32| ((f64::from(logits[token as usize]) - largest) / temperature).exp();
        if top_p < 1.0 {
            keep_nucleus(&mut tokens, top_p, weight, likelier);
        }

        let weights: Vec<f64> = tokens.iter().map(|&t| weight(t)).collect();
        let mut at = self.random.uniform() * weights.iter().sum::<f64>();
        for (&token, weight) in tokens.iter().zip(weights) {
            at -= weight;
            if at < 0.0 {
                return Ok(token);
            }
        }
        // Rounding left a remainder.
        Ok(likeliest)
    }
}

/// Truncates `tokens` to the likeliest ones that hold the share `top_p` of the total weight, sorted. Sorts in blocks that double in size
/// and stops at the block in which the nucleus ends, because a nucleus is usually a small part of a vocabulary.
fn keep_nucleus(tokens: &mut Vec<u32>, top_p: f64, weight: impl Fn(u32) -> f64, likelier: impl Fn(&u32, &u32) -> Ordering) {
    let enough = top_p * tokens.iter().map(|&t| weight(t)).sum::<f64>();
    let (mut sorted, mut sum) = (0, 0.0);
    while sorted < tokens.len() {
        let block = sorted.max(256).min(tokens.len() - sorted);
        let rest = &mut tokens[sorted..];
        rest.select_nth_unstable_by(block - 1, &likelier);
        rest[..block].sort_unstable_by(&likelier);
        for at in sorted..sorted + block {
            sum += weight(tokens[at]);
            if sum >= enough {
                tokens.truncate(at + 1);
                return;
            }
        }
        sorted += block;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 1 };

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(sampling).expect("a rule within its range")
    }

    /// How often each token is drawn in 8000 draws.
    fn counts(sampling: Sampling, logits: &[f32]) -> Vec<i32> {
        let (mut sampler, mut counts) = (sampler(sampling), vec![0; logits.len()]);
        for _ in 0..8000 {
            counts[sampler.choose(logits).expect("finite logits") as usize] += 1;
        }
        counts
    }

    fn near(counts: &[i32], want: &[i32]) {
        assert!(counts.iter().zip(want).all(|(c, w)| if *w == 0 { *c == 0 } else { (c - w).abs() < 200 }), "{counts:?}, not {want:?}");
    }

    #[test]
    fn draws_follow_the_logits() {
        let logits = [0.0, 2.0f32.ln(), f32::MIN, 0.0];
        near(&counts(PLAIN, &logits), &[2000, 4000, 0, 2000]);
        // At half the temperature the odds are squared: 1, 4, 0, 1.
        near(&counts(Sampling { temperature: 0.5, ..PLAIN }, &logits), &[1333, 5333, 0, 1333]);
    }

    #[test]
    fn greedy_takes_the_lowest_of_the_likeliest() {
        let logits = [-1.0, -0.0, 0.0, -3.0];
        assert_eq!(counts(Sampling { temperature: 0.0, ..PLAIN }, &logits)[1], 8000);
        assert_eq!(counts(Sampling { top_k: 1, ..PLAIN }, &logits)[1], 8000);
        assert_eq!(counts(Sampling { top_p: 1e-9, ..PLAIN }, &logits)[1], 8000);
    }

    #[test]
    fn cuts_keep_the_likeliest() {
        let logits = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln);
        near(&counts(Sampling { top_k: 2, ..PLAIN }, &logits), &[0, 5333, 0, 2667]);
        near(&counts(Sampling { top_k: 3, ..PLAIN }, &logits), &[1143, 4571, 0, 2286]);
        near(&counts(Sampling { top_p: 0.4, ..PLAIN }, &logits), &[0, 8000, 0, 0]);
        near(&counts(Sampling { top_p: 0.6, ..PLAIN }, &logits), &[0, 5333, 0, 2667]);
        near(&counts(Sampling { top_p: 0.8, ..PLAIN }, &logits), &[1143, 4571, 0, 2286]);
        // The nucleus is taken from the tokens that top-k keeps: of the first two, the first has two thirds of the probability.
        near(&counts(Sampling { top_p: 0.6, top_k: 2, ..PLAIN }, &logits), &[0, 8000, 0, 0]);
        near(&counts(Sampling { top_p: 0.95, top_k: 9, ..PLAIN }, &logits), &[1000, 4000, 1000, 2000]);
    }

    /// The result equals that of sorting the whole vocabulary, which has several blocks.
    #[test]
    fn large_nuclei() {
        let mut random = Random::new(5, 0);
        let logits: Vec<f32> = (0..5000).map(|_| (random.uniform() * 3.0) as f32).collect();
        let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let weight = |token: u32| f64::from(logits[token as usize]).exp();
        let mut all: Vec<u32> = (0..5000).collect();
        all.sort_by(likelier);
        let total: f64 = all.iter().map(|&t| weight(t)).sum();
        for top_p in [0.001, 0.2, 0.5, 0.95] {
            let mut sum = 0.0;
            let count = 1 + all
                .iter()
                .take_while(|&&t| {
                    sum += weight(t);
                    sum < top_p * total
                })
                .count();
            let mut tokens: Vec<u32> = (0..5000).collect();
            keep_nucleus(&mut tokens, top_p, weight, likelier);
            assert_eq!(tokens, all[..count], "top-p {top_p}");
        }
    }

    #[test]
    fn seeds_repeat() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let draw = |seed| {
            let mut sampler = sampler(Sampling { seed, top_k: 40, top_p: 0.9, ..PLAIN });
            (0..40).map(|_| sampler.choose(&logits).expect("finite logits")).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn what_is_out_of_range_is_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for temperature in [0.0, 1.0] {
                let error = sampler(Sampling { temperature, ..PLAIN }).choose(&[0.0, 1.0, bad]).expect_err("a logit that is not finite");
                assert!(error.to_string().contains("token 2"), "{error}");
            }
        }
        for (temperature, top_p) in [(-1.0, 1.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0), (1.0, 0.0), (1.0, 1.5), (1.0, f64::NAN)] {
            assert!(matches!(Sampler::new(Sampling { temperature, top_p, ..PLAIN }), Err(Error::Usage(_))));
        }
    }
}
