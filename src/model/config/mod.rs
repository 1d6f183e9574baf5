//! The form of a decoder, whichever file says it. To add an architecture: a [`Family`], a reader of its `config.json` and GGUF metadata
//! beside this file, and a table of its tensors' names; `README.md` of `model` has the steps.

mod fields;
mod gguf;
mod graftling;
mod hf;
mod rotary;

use super::names::Names;
use crate::error::{Error, Result};
use crate::ops::{Activation, RopePairs, RopeScaling};

/// What a decoder is made of. One forward page serves every combination.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Whose names the files use.
    pub family: Family,
    /// Tokens in the vocabulary.
    pub vocab_size: u32,
    /// The longest sequence.
    pub context: u32,
    /// Numbers that stand for a token between blocks.
    pub hidden_size: u32,
    /// Blocks.
    pub layers: u32,
    /// Query heads of a block.
    pub heads: u32,
    /// Key and value heads; a divisor of `heads`.
    pub key_value_heads: u32,
    /// Numbers in a head; `heads` of them need not make `hidden_size`.
    pub head_size: u32,
    /// The width inside the feed-forward layer.
    pub intermediate_size: u32,
    /// The activation of the feed-forward layer.
    pub activation: Activation,
    /// Whether the feed-forward layer multiplies an activated gate with its up-projection.
    pub gated: bool,
    /// LayerNorm or RMSNorm, everywhere.
    pub norm: NormKind,
    /// Whether norms stand before attention and feed-forward layer (and one after the last block), or behind each residual sum.
    pub norm_first: bool,
    /// Added to the variance or mean square in norms.
    pub epsilon: f32,
    /// How a token knows its place.
    pub positions: Positions,
    /// Whether each query and key head is normed, as in Qwen3.
    pub head_norm: bool,
    /// Which linear layers have biases.
    pub biases: Biases,
    /// Whether the head is the token embedding.
    pub tied: bool,
    /// Dropout in training.
    pub dropout: BaseDropout,
}

/// The architectures that are known: each has its own names of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// What `pretrain` makes, and `assets/base`.
    Graftling,
    /// GPT-2 (Radford et al. 2019).
    Gpt2,
    /// Llama (Touvron et al. 2023) and what has its form: SmolLM2, TinyLlama.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
}

impl Family {
    /// The `model_type` of its `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Graftling => "graftling",
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }
}

/// The norm of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// With mean, scale and shift.
    LayerNorm,
    /// With scale only.
    RmsNorm,
}

/// How a token knows its place.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A learned vector for each place of the context.
    Learned,
    /// Queries and keys turn by an angle (RoFormer: Su et al. 2021).
    Rotary {
        /// The base of the wavelengths.
        theta: f64,
        /// How the model is stretched over longer texts than it was trained on.
        scaling: RopeScaling,
        /// Which numbers of a head make a pair.
        pairs: RopePairs,
    },
}

/// Which linear layers have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The projection behind attention.
    pub attention_output: bool,
    /// All of the feed-forward layer.
    pub ffn: bool,
    /// The head.
    pub head: bool,
}

/// The shares that the base's own dropouts set to zero in training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BaseDropout {
    /// Of the sum of embeddings.
    pub embedding: f32,
    /// Of attention probabilities.
    pub attention: f32,
    /// Of what attention gives, behind its projection.
    pub attention_output: f32,
    /// Of what the feed-forward layer gives.
    pub ffn_output: f32,
}

impl BaseDropout {
    /// The same share everywhere.
    pub fn all(share: f32) -> BaseDropout {
        BaseDropout { embedding: share, attention: share, attention_output: share, ffn_output: share }
    }
}

/// The most that any extent in a config may be; the product of two still fits in 64 bits many times over.
pub(crate) const LARGEST: u32 = 1 << 24;

impl Config {
    /// The width of queries, keys and values side by side.
    pub fn qkv_width(&self) -> u32 {
        (self.heads + 2 * self.key_value_heads) * self.head_size
    }

    /// Says when a token is none of the model's, which a tokenizer with tokens added to it may give.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let known = self.vocab_size;
        let Some(token) = tokens.iter().find(|&&token| token >= known) else { return Ok(()) };
        Err(Error::Usage(format!("the text has token {token}, but the model knows {known}; use the model's own tokenizer")))
    }

    /// What a tensor of the head is called in a file of the head alone, where a tied one has a name of its own; `None` for other tensors.
    pub(super) fn head_on_disk(&self, name: &str) -> Option<String> {
        let names = Names::of(self.family);
        let end = match name.strip_prefix(names.token_embedding) {
            Some(end) if self.tied => end,
            _ => name.strip_prefix(names.head)?,
        };
        Some(format!("{}{end}", names.head))
    }

    /// What the model calls a tensor of such a file.
    pub(super) fn head_in_memory(&self, name: &str) -> String {
        let names = Names::of(self.family);
        match name.strip_prefix(names.head) {
            Some(end) if self.tied => format!("{}{end}", names.token_embedding),
            _ => name.into(),
        }
    }

    /// Says what no model can have, whatever its file says.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn check(&self) -> std::result::Result<(), String> {
        let extents = [
            ("the vocabulary size", self.vocab_size),
            ("the context length", self.context),
            ("the hidden size", self.hidden_size),
            ("the number of layers", self.layers),
            ("the number of heads", self.heads),
            ("the number of key and value heads", self.key_value_heads),
            ("the head size", self.head_size),
            ("the feed-forward size", self.intermediate_size),
        ];
        for (name, value) in extents {
            if value == 0 || value > LARGEST {
                return Err(format!("{name} is {value}; it must be from 1 to {LARGEST}"));
            }
        }
        if self.layers > 4096 || self.heads > 4096 {
            return Err(format!("{} layers of {} heads are more than 4096 of either", self.layers, self.heads));
        }
        if !self.heads.is_multiple_of(self.key_value_heads) {
            return Err(format!("{} heads do not share {} key and value heads evenly", self.heads, self.key_value_heads));
        }
        if !self.head_size.is_multiple_of(4) || self.head_size > 128 {
            return Err(format!("heads of {} numbers are not supported; a head must be a multiple of 4 up to 128", self.head_size));
        }
        let dropouts = [self.dropout.embedding, self.dropout.attention, self.dropout.attention_output, self.dropout.ffn_output];
        if !dropouts.iter().all(|share| (0.0..1.0).contains(share)) {
            return Err("a dropout is not a share from 0 to below 1".into());
        }
        if !(self.epsilon > 0.0 && self.epsilon < 1.0) {
            return Err(format!("an epsilon of {} in the norms is not between 0 and 1", self.epsilon));
        }
        Ok(())
    }
}
