//! Text from a model, one token at a time.

use crate::error::Result;
use crate::gpu::{Device, Memory, Program};
use crate::graph::{DType, Graph, Tensor};
use crate::model::{Inputs, Model};
use crate::ops;
use crate::sampling::{Sampler, Sampling};

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
    /// If the device fails, and as [`Sampler::new`] and [`Sampler::choose`].
    pub fn generate(&mut self, prompt: &[u32], count: usize, sampling: Sampling) -> Result<Vec<u32>> {
        let mut sampler = Sampler::new(sampling)?;
        let mut tokens = prompt.to_vec();
        for _ in 0..count {
            let logits = self.logits(&tokens)?;
            tokens.push(sampler.choose(&logits)?);
        }
        Ok(tokens.split_off(prompt.len()))
    }
}
