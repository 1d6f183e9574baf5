//! The config file of `pretrain`: a new model's architecture, its tokenizer, and how to train it.

#[cfg(test)]
mod tests;

use std::path::Path;

use super::{Schedule, Shape};
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text};
use crate::graph::DType;
use crate::keyed::{Checked, Keyed};
use crate::model::{BaseDropout, Biases, Config, Family, LARGEST, NormKind, Positions};
use crate::ops::optimizer::Adam;
use crate::ops::{Activation, RopePairs, RopeScaling};
use crate::text::LARGEST_VOCABULARY;

/// Every key: the model first, then its training.
const KEYS: [&str; 34] = [
    "tokenizer",
    "layers",
    "hidden",
    "heads",
    "key-value-heads",
    "head-size",
    "feed-forward",
    "context",
    "activation",
    "gated",
    "norm",
    "norm-position",
    "norm-epsilon",
    "positions",
    "rope-theta",
    "head-norm",
    "biases",
    "tied-head",
    "dropout",
    "steps",
    "batch-size",
    "grad-accumulation",
    "learning-rate",
    "schedule",
    "warmup-steps",
    "beta1",
    "beta2",
    "epsilon",
    "weight-decay",
    "clip-norm",
    "seed",
    "held-out",
    "save-every",
    "format",
];

/// The most parameters of a model from scratch. A larger number must be a mistake.
const MOST_PARAMETERS: u128 = 1 << 36;
/// The most tokens of a batch.
const MOST_TOKENS: u64 = 1 << 24;

/// A model from scratch and its training.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The model's config, with the vocabulary size of the tokenizer.
    pub config: Config,
    /// The tokenizer.
    pub vocabulary: Vocabulary,
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences per batch, each up to the context long.
    pub batch_size: u32,
    /// Batches per step.
    pub grad_accumulation: u32,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// What the learning rate does after the warm-up.
    pub schedule: Shape,
    /// Steps of linear warm-up; if `None`, a tenth of all steps, at most 100.
    pub warmup_steps: Option<u64>,
    /// The optimizer.
    pub adam: Adam,
    /// The seed of the initial weights, the order of the data and dropout.
    pub seed: u64,
    /// The fraction of the data to hold out if there is no validation file.
    pub held_out: f64,
    /// Save the model and measure the loss on the held-out data every this many steps.
    pub save_every: u64,
    /// The format of matrices in the file: F16 or F32.
    pub format: DType,
}

/// The vocabulary of a model from scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// The 256 bytes.
    Bytes,
    /// Byte-level BPE with this many tokens, trained on the data.
    Bpe(u32),
}

impl Vocabulary {
    /// The number of tokens.
    pub fn size(self) -> u32 {
        match self {
            Vocabulary::Bytes => 256,
            Vocabulary::Bpe(size) => size,
        }
    }
}

impl Recipe {
    /// Reads and checks a config file.
    ///
    /// # Errors
    /// [`Error::File`] if a key, which it names, is unknown, missing, or of the wrong type or size; or if the file is not TOML.
    pub fn read(path: &Path) -> Result<Recipe> {
        Recipe::parse(&read_text(path, CONFIG_BYTES)?).map_err(|problem| Error::file(path, problem))
    }

    /// Parses and checks the text of a config file.
    ///
    /// # Errors
    /// The problem, which completes a sentence that begins with the file's name.
    pub fn parse(text: &str) -> Checked<Recipe> {
        let mut keys = Keyed::toml(text, &KEYS)?;
        let vocabulary = vocabulary(&mut keys)?;
        let recipe = Recipe {
            config: config(&mut keys, vocabulary)?,
            vocabulary,
            steps: keys.whole("steps", 1, u64::MAX)?.unwrap_or(1000),
            batch_size: keys.count("batch-size", 65536)?.unwrap_or(8),
            grad_accumulation: keys.count("grad-accumulation", 65536)?.unwrap_or(1),
            learning_rate: keys.number("learning-rate", "a number from 0 up", |n| n >= 0.0)?.unwrap_or(1e-3),
            schedule: keys
                .word("schedule", &[("constant", Shape::Constant), ("linear", Shape::Linear), ("cosine", Shape::Cosine)])?
                .unwrap_or(Shape::Cosine),
            warmup_steps: keys.whole("warmup-steps", 0, u64::MAX)?,
            adam: Adam {
                beta1: keys.share("beta1")?.unwrap_or(0.9),
                beta2: keys.share("beta2")?.unwrap_or(0.999),
                epsilon: keys.number("epsilon", "a number above 0", |n| n > 0.0)?.unwrap_or(1e-8),
                weight_decay: keys.number("weight-decay", "a number from 0 up", |n| n >= 0.0)?.unwrap_or(0.01),
                decoupled: true,
                // Unlike an adapter, a model with random initial weights always profits from clipping.
                clip_norm: keys.number("clip-norm", "a number from 0 up (0 for none)", |n| n >= 0.0)?.map_or(Some(1.0), above_zero),
            },
            seed: keys.whole("seed", 0, u64::MAX)?.unwrap_or(0),
            held_out: keys.share("held-out")?.unwrap_or(0.02),
            save_every: keys.whole("save-every", 1, u64::MAX)?.unwrap_or(500),
            format: keys.word("format", &[("f16", DType::F16), ("f32", DType::F32)])?.unwrap_or(DType::F16),
        };
        keys.finish(|_| false)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Checks whether the recipe can be trained; necessary again after changing one that was read.
    ///
    /// # Errors
    /// What cannot be trained, which completes a sentence that begins with the file's name.
    pub fn check(&self) -> Checked<()> {
        let (batch, context) = (u64::from(self.batch_size), u64::from(self.config.context));
        if batch * context > MOST_TOKENS {
            let tokens = batch * context;
            return Err(format!(
                "asks for {tokens} tokens a batch, batch-size times context, but {MOST_TOKENS} is the maximum; reduce one of them"
            ));
        }
        let c = &self.config;
        let [hidden, width, heads] =
            [c.hidden_size, c.intermediate_size, c.head_size * (2 * c.heads + 2 * c.key_value_heads)].map(u128::from);
        let block = hidden * (heads + width * if c.gated { 3 } else { 2 });
        let parameters =
            u128::from(c.layers) * block + hidden * (u128::from(c.vocab_size) * if c.tied { 1 } else { 2 } + u128::from(c.context));
        if parameters > MOST_PARAMETERS {
            let problem = "which is more than can be trained; use smaller layers, hidden or feed-forward";
            return Err(format!("asks for a model of {parameters} parameters, {problem}"));
        }
        self.config.check()
    }

    /// The learning rate schedule.
    pub fn schedule(&self) -> Schedule {
        let warmup_steps = self.warmup_steps.unwrap_or((self.steps / 10).min(100));
        Schedule { peak: self.learning_rate, shape: self.schedule, warmup_steps, steps: self.steps }
    }
}

/// The norm to clip at; `None` if it is 0.
fn above_zero(norm: f64) -> Option<f64> {
    (norm > 0.0).then_some(norm)
}

fn vocabulary(keys: &mut Keyed) -> Checked<Vocabulary> {
    if let Some(mut table) = keys.table("tokenizer", &["bpe"])? {
        let size = table.whole("bpe", 256, LARGEST_VOCABULARY.into())?.ok_or_else(|| table.missing("bpe"))?;
        return Ok(Vocabulary::Bpe(size as u32));
    }
    Ok(keys.word("tokenizer", &[("bytes", Vocabulary::Bytes)])?.unwrap_or(Vocabulary::Bytes))
}

fn config(keys: &mut Keyed, vocabulary: Vocabulary) -> Checked<Config> {
    let layers = keys.required("layers")?;
    let (hidden_size, heads) = (keys.required("hidden")?, keys.required("heads")?);
    for (key, value) in [("layers", layers), ("heads", heads)] {
        if value > 4096 {
            return Err(format!("has {key} = {value}, but 4096 is the maximum; use fewer"));
        }
    }
    let head_size = match keys.count("head-size", 128)? {
        Some(size) => size,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => return Err(format!("has hidden = {hidden_size}, which is not divisible by heads = {heads}; change one, or set head-size")),
    };
    if !head_size.is_multiple_of(4) || head_size > 256 {
        return Err(format!("has a head-size of {head_size} (by default hidden / heads); it must be a multiple of 4, at most 256"));
    }
    let key_value_heads = keys.count("key-value-heads", 4096)?.unwrap_or(heads);
    if !heads.is_multiple_of(key_value_heads) {
        return Err(format!("has heads = {heads}, which is not divisible by key-value-heads = {key_value_heads}; change one"));
    }
    let gated = keys.flag("gated")?.unwrap_or(true);
    let usual = if gated { (hidden_size * 8 / 3).next_multiple_of(32) } else { 4 * hidden_size };
    Ok(Config {
        family: Family::Graftling,
        vocab_size: vocabulary.size(),
        context: keys.whole("context", 2, LARGEST.into())?.ok_or_else(|| keys.missing("context"))? as u32,
        hidden_size,
        layers,
        heads,
        key_value_heads,
        head_size,
        intermediate_size: keys.extent("feed-forward")?.unwrap_or(usual),
        activation: keys.word("activation", &Activation::ALL.map(|(activation, name)| (name, activation)))?.unwrap_or(if gated {
            Activation::Silu
        } else {
            Activation::Gelu
        }),
        gated,
        norm: keys.word("norm", &[("layer", NormKind::LayerNorm), ("rms", NormKind::RmsNorm)])?.unwrap_or(NormKind::RmsNorm),
        norm_first: keys.word("norm-position", &[("pre", true), ("post", false)])?.unwrap_or(true),
        epsilon: keys.epsilon("norm-epsilon")?.unwrap_or(1e-5),
        positions: positions(keys)?,
        head_norm: keys.flag("head-norm")?.unwrap_or(false),
        biases: biases(keys)?,
        tied: keys.flag("tied-head")?.unwrap_or(true),
        dropout: dropout(keys)?,
        encoder: None,
    })
}

fn positions(keys: &mut Keyed) -> Checked<Positions> {
    let theta = keys.number("rope-theta", "a number from 1 to 1e15", |n| (1.0..=1e15).contains(&n))?;
    let rotary = keys.word("positions", &[("rotary", true), ("learned", false)])?.unwrap_or(true);
    match (rotary, theta) {
        (true, theta) => Ok(Positions::Rotary { theta: theta.unwrap_or(10000.0), scaling: RopeScaling::None, pairs: RopePairs::Halves }),
        (false, None) => Ok(Positions::Learned),
        (false, Some(_)) => Err("has a rope-theta, but its positions are learned; remove one of the two".into()),
    }
}

/// One flag for all biases, or a table.
fn biases(keys: &mut Keyed) -> Checked<Biases> {
    let Some(mut table) = keys.table("biases", &["qkv", "attention-output", "feed-forward", "head"])? else {
        let all = keys.flag("biases")?.unwrap_or(false);
        return Ok(Biases { qkv: all, attention_output: all, ffn: all, head: all });
    };
    let mut flag = |key| Ok::<_, String>(table.flag(key)?.unwrap_or(false));
    let biases = Biases { qkv: flag("qkv")?, attention_output: flag("attention-output")?, ffn: flag("feed-forward")?, head: flag("head")? };
    Ok(biases)
}

/// One rate for all places, or a table.
fn dropout(keys: &mut Keyed) -> Checked<BaseDropout> {
    let Some(mut table) = keys.table("dropout", &["embedding", "attention", "attention-output", "feed-forward"])? else {
        return Ok(BaseDropout::all(keys.share("dropout")?.unwrap_or(0.0) as f32));
    };
    let mut share = |key| Ok::<_, String>(table.share(key)?.unwrap_or(0.0) as f32);
    let (embedding, attention, attention_output) = (share("embedding")?, share("attention")?, share("attention-output")?);
    let ffn_output = share("feed-forward")?;
    Ok(BaseDropout { embedding, attention, attention_output, ffn_output, head: ffn_output })
}
