//! Text generation, one token at a time, with a key–value cache on the device.

use crate::error::{Error, Result};
use crate::gpu::{Device, Memory, Program, State};
use crate::graph::{DType, Graph, Tensor, Traits, fitting};
use crate::model::{Cache, Inputs, Model};
use crate::ops;
use crate::sampling::{Sampler, Sampling};

/// Prompt tokens that the model processes at once.
const CHUNK: u32 = 64;
/// Up to this many tokens are processed one by one: a whole chunk would take longer.
const ONE_BY_ONE: usize = 4;

/// A model ready to continue text.
pub struct Generator<'a> {
    device: &'a Device,
    memory: &'a Memory,
    model: &'a Model,
    state: State,
    chunk: Option<Step>,
    single: Option<Step>,
    context: usize,
    /// The tokens whose keys and values are cached. The first has position 0.
    cached: Vec<u32>,
    /// The number of tokens dropped before the first cached one.
    forgotten: usize,
}

/// A recording that computes the logits of the last of `length` tokens, before it is compiled.
struct Recorded {
    graph: Graph,
    inputs: Inputs,
    cache: Cache,
    last: Tensor,
    logits: Tensor,
    /// The rows of the rotary table.
    positions: u32,
}

/// A compiled [`Recorded`].
struct Step {
    program: Program,
    inputs: Inputs,
    cache: Cache,
    last: Tensor,
    logits: Tensor,
    length: usize,
}

impl<'a> Generator<'a> {
    /// Creates a generator that sees at most `context` tokens. When the context is full, it drops the older half.
    ///
    /// # Errors
    /// [`Error::Usage`] if `context` is 0 or longer than the model's own context, or the model has a head for labels; [`Error::Limit`] if it exceeds the device's limits. Fails
    /// if the device is out of memory or fails.
    pub fn new(device: &'a Device, model: &'a Model, memory: &'a Memory, context: u32) -> Result<Generator<'a>> {
        if context == 0 || context > model.config.context {
            let most = model.config.context;
            let advice = "choose a length in that range";
            return Err(Error::Usage(format!("the context is {context} tokens, but the model supports 1 to {most}; {advice}")));
        }
        check_limits(model, device.traits(), context)?;
        let mut g = Graph::new(device.traits(), &model.parameters, false);
        model.cache(&mut g, context);
        let state = State::new(device, &g)?;
        let context = context as usize;
        Ok(Generator { device, memory, model, state, chunk: None, single: None, context, cached: Vec::new(), forgotten: 0 })
    }

    /// The logits (vocabulary) of the token after `tokens`. A prefix shared with the previous call is not computed again.
    ///
    /// # Errors
    /// [`Error::Usage`] if a token is outside the model's vocabulary. Fails if the device fails.
    ///
    /// # Panics
    /// If `tokens` is empty.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.model.config.check_tokens(tokens)?;
        if tokens.len() <= self.forgotten {
            self.forgotten = 0;
        }
        if tokens.len() - self.forgotten > self.context {
            self.forgotten = tokens.len() - self.context.div_ceil(2);
        }
        let seen = &tokens[self.forgotten..];
        let known = seen.iter().zip(&self.cached).take_while(|(a, b)| a == b).count();
        // The last token always runs through the model: its logits are the result.
        self.cached.truncate(known.min(seen.len() - 1));
        loop {
            let rest = &seen[self.cached.len()..];
            let chunk = rest.len() > ONE_BY_ONE;
            let (kept, length) = if chunk { (&mut self.chunk, CHUNK.min(self.context as u32)) } else { (&mut self.single, 1) };
            let step = match kept {
                Some(step) => step,
                None => kept.insert(Step::new(self.device, self.model, self.memory, &self.state, self.context as u32, length)?),
            };
            let now = &rest[..rest.len().min(step.length)];
            step.run(self.device, now, self.cached.len() as u32)?;
            self.cached.extend_from_slice(now);
            if now.len() == rest.len() {
                return step.program.read(self.device, self.memory, step.logits);
            }
        }
    }

    /// Continues `prompt` by up to `count` tokens and passes each new token to `tell`. Stops when `tell` returns false or the model
    /// produces one of `ends`. The result contains neither the prompt nor the end token.
    ///
    /// # Errors
    /// Fails if the device fails, and as [`Sampler::new`] and [`Sampler::choose`] do.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        count: usize,
        sampling: Sampling,
        ends: &[u32],
        mut tell: impl FnMut(u32) -> bool,
    ) -> Result<Vec<u32>> {
        let mut sampler = Sampler::new(sampling)?;
        let mut tokens = prompt.to_vec();
        while tokens.len() < prompt.len() + count {
            let token = sampler.choose(&self.logits(&tokens)?)?;
            if ends.contains(&token) {
                break;
            }
            tokens.push(token);
            if !tell(token) {
                break;
            }
        }
        Ok(tokens.split_off(prompt.len()))
    }

    /// The bytes of device memory that the cache and the programs use, in addition to the model's.
    pub fn bytes(&self) -> u64 {
        let programs = self.chunk.iter().chain(&self.single).map(|step| step.program.bytes()).sum::<u64>();
        self.state.bytes() + programs
    }
}

/// The recordings that a [`Generator`] of this context runs: for [`self_check`](crate::doctor::self_check), before it exists.
///
/// # Errors
/// [`Error::Limit`] if it exceeds the device's limits, [`Error::Usage`] if the model has a head for labels.
pub fn recordings(model: &Model, traits: &Traits, context: u32) -> Result<Vec<Graph>> {
    check_limits(model, traits, context)?;
    Ok([CHUNK.min(context), 1].map(|length| record(model, traits, context, length).graph).into())
}

/// Records `length` tokens that follow a cache of `context`.
fn record(model: &Model, traits: &Traits, context: u32, length: u32) -> Recorded {
    let mut g = Graph::new(traits, &model.parameters, false);
    let cache = model.cache(&mut g, context);
    // The last chunk may extend past the context with padding.
    let positions = context + length;
    let inputs = model.inputs(&mut g, 1, length, positions);
    let last = g.input("last", [1, 1], DType::U32);
    let hidden = model.hidden(&mut g, &inputs, Some(&cache));
    // The head needs only the last token's row, gathered like a row of an embedding table.
    let hidden = ops::embedding(&mut g, last, hidden, None);
    let logits = model.logits(&mut g, hidden);
    g.keep(logits);
    Recorded { graph: g, inputs, cache, last, logits, positions }
}

/// Checks the model's head and the device's limits.
///
/// # Errors
/// [`Error::Usage`] if the model has a head for labels; [`Error::Limit`] if generating with a cache of `context` tokens exceeds them. Its advice says which context fits.
fn check_limits(model: &Model, traits: &Traits, context: u32) -> Result<()> {
    if model.label_head().is_some() {
        return Err(Error::Usage("the model has a head for labels and writes no text; use graftling predict".into()));
    }
    Graph::new(traits, &model.parameters, false).check_limits()?;
    let check = |context| record(model, traits, context, CHUNK.min(context)).graph.check_limits();
    let Err(error) = check(context) else { return Ok(()) };
    check(1)?;
    let most = fitting(context, check).unwrap_or(1);
    Err(match error {
        Error::Limit { what, needed, unit, limit, .. } => {
            let advice = format!("use a shorter prompt or fewer --max-tokens: a context of {most} fits");
            Error::Limit { what, needed, unit, limit, advice }
        }
        other => other,
    })
}

impl Step {
    fn new(device: &Device, model: &Model, memory: &Memory, state: &State, context: u32, length: u32) -> Result<Step> {
        let Recorded { graph, inputs, cache, last, logits, positions } = record(model, device.traits(), context, length);
        let program = Program::with_state(device, memory, state, &graph)?;
        if let Some((rope, table)) = inputs.rope.zip(model.rope_table(positions)) {
            program.write(device, rope, &table);
        }
        Ok(Step { program, inputs, cache, last, logits, length: length as usize })
    }

    /// Runs `tokens`, which follow the `start` cached ones, and caches them.
    fn run(&mut self, device: &Device, tokens: &[u32], start: u32) -> Result<()> {
        let mut padded = tokens.to_vec();
        padded.resize(self.length, 0);
        self.program.write(device, self.inputs.tokens, &padded);
        self.program.write(device, self.cache.start, &[start]);
        self.program.write(device, self.last, &[tokens.len() as u32 - 1]);
        self.program.run(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::extremes::{devices, models};

    /// Any model and context that files and flags can ask for is recorded, or refused with an error that says what to do.
    #[test]
    fn extremes_are_recorded_or_refused() {
        let mut refused = 0;
        for model in models() {
            for traits in devices() {
                for context in [1, 4096, model.config.context].into_iter().filter(|&context| context <= model.config.context) {
                    match check_limits(&model, &traits, context) {
                        Ok(()) => drop(record(&model, &traits, context, CHUNK.min(context)).graph.plan()),
                        Err(Error::Limit { .. }) => refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        assert!(refused > 10, "{refused} were refused");
    }
}
