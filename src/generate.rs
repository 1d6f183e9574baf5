//! Text from a model, one token at a time.

use crate::error::Result;
use crate::gpu::{Device, Memory, Program};
use crate::graph::{DType, Graph, Tensor};
use crate::model::{Inputs, Model};
use crate::ops;
use crate::random::Random;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Only so many of the likeliest tokens are considered; 0 considers all.
    pub top_k: usize,
    /// The seed.
    pub seed: u64,
}

/// A model ready to continue text.
pub struct Generator<'a> {
    device: &'a Device,
    memory: &'a Memory,
    program: Program,
    inputs: Inputs,
    last: Tensor,
    logits: Tensor,
    context: usize,
}

impl<'a> Generator<'a> {
    /// A generator that sees at most `context` tokens, the latest.
    ///
    /// # Errors
    /// If the device is out of memory or fails.
    pub fn new(device: &'a Device, model: &Model, memory: &'a Memory, context: u32) -> Result<Generator<'a>> {
        let context = context.min(model.config.max_position_embeddings);
        let mut g = Graph::new(device.traits(), &model.parameters, false);
        let inputs = model.inputs(&mut g, 1, context);
        let last = g.input("last", [1, 1], DType::U32);
        let hidden = model.hidden(&mut g, &inputs);
        // The head looks at one row only: the last token's, taken like a row of an embedding table.
        let hidden = ops::embedding(&mut g, last, hidden, None);
        let logits = model.logits(&mut g, hidden);
        g.keep(logits);
        Ok(Generator { device, memory, program: Program::new(device, memory, &g)?, inputs, last, logits, context: context as usize })
    }

    /// The logits (vocabulary) of the token after `tokens`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If there is no token.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let seen = &tokens[tokens.len().saturating_sub(self.context)..];
        let mut padded = seen.to_vec();
        padded.resize(self.context, 0);
        self.program.write(self.device, self.inputs.tokens, &padded);
        self.program.write(self.device, self.inputs.lengths, &[seen.len() as u32]);
        self.program.write(self.device, self.last, &[seen.len() as u32 - 1]);
        self.program.run(self.device)?;
        self.program.read(self.device, self.memory, self.logits)
    }

    /// Continues `prompt` by `count` tokens.
    ///
    /// # Errors
    /// If the device fails.
    pub fn generate(&mut self, prompt: &[u32], count: usize, sampling: Sampling) -> Result<Vec<u32>> {
        let mut random = Random::new(sampling.seed, 0x6E);
        let mut tokens = prompt.to_vec();
        for _ in 0..count {
            let logits = self.logits(&tokens)?;
            tokens.push(choose(&logits, sampling, &mut random));
        }
        Ok(tokens.split_off(prompt.len()))
    }
}

/// One token by its logit.
fn choose(logits: &[f32], sampling: Sampling, random: &mut Random) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if sampling.temperature == 0.0 {
        return order[0] as u32;
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let largest = f64::from(logits[order[0]]);
    let weights: Vec<f64> = order.iter().map(|&i| ((f64::from(logits[i]) - largest) / sampling.temperature).exp()).collect();
    let mut at = random.uniform() * weights.iter().sum::<f64>();
    for (&token, weight) in order.iter().zip(&weights) {
        at -= weight;
        if at < 0.0 {
            return token as u32;
        }
    }
    order[order.len() - 1] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_follows_the_logits() {
        let logits = [0.0, 2.0f32.ln(), f32::MIN, 1.0f32.ln()];
        let mut random = Random::new(1, 1);
        let sampling = Sampling { temperature: 1.0, top_k: 0, seed: 0 };
        let mut counts = [0; 4];
        for _ in 0..8000 {
            counts[choose(&logits, sampling, &mut random) as usize] += 1;
        }
        assert!((counts[1] - 4000i32).abs() < 200 && (counts[0] - 2000i32).abs() < 200 && counts[2] == 0, "{counts:?}");
        assert_eq!(choose(&logits, Sampling { temperature: 0.0, ..sampling }, &mut random), 1);
        assert!((0..100).all(|_| choose(&logits, Sampling { top_k: 1, ..sampling }, &mut random) == 1));
    }
}
