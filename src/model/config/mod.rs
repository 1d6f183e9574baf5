//! The configuration of a model, from any file format. A new architecture needs a [`Family`], readers for its `config.json` and GGUF
//! metadata in this directory, and a table of its tensor names; the `README.md` of `model` has the steps.

mod encoder;
mod fields;
mod gguf;
mod graftling;
mod hf;
mod rotary;
mod write;

use super::names::Names;
use crate::error::{Error, Result};
use crate::ops::{Activation, RopePairs, RopeScaling};

/// The configuration of a model. One forward pass supports every combination.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The architecture, which determines the tensor names in files.
    pub family: Family,
    /// The number of tokens in the vocabulary.
    pub vocab_size: u32,
    /// The longest sequence.
    pub context: u32,
    /// The width of the residual stream.
    pub hidden_size: u32,
    /// The number of blocks.
    pub layers: u32,
    /// The number of query heads of a block.
    pub heads: u32,
    /// The number of key and value heads; a divisor of `heads`.
    pub key_value_heads: u32,
    /// The width of a head; `heads` × `head_size` need not equal `hidden_size`.
    pub head_size: u32,
    /// The width inside the feed-forward layer.
    pub intermediate_size: u32,
    /// The activation of the feed-forward layer.
    pub activation: Activation,
    /// Whether the feed-forward layer multiplies its up-projection by an activated gate.
    pub gated: bool,
    /// LayerNorm or RMSNorm, throughout the model.
    pub norm: NormKind,
    /// Pre-norm: norms before attention and the feed-forward layer, and one after the last block. Otherwise post-norm: after each residual
    /// sum.
    pub norm_first: bool,
    /// Added to the variance or mean square in norms.
    pub epsilon: f32,
    /// How positions are encoded.
    pub positions: Positions,
    /// Whether each query and key head is normalised, as in Qwen3.
    pub head_norm: bool,
    /// Which linear layers have biases.
    pub biases: Biases,
    /// Whether the head is the token embedding.
    pub tied: bool,
    /// Dropout in training.
    pub dropout: BaseDropout,
    /// What an encoder has besides; `None` for a decoder.
    pub encoder: Option<Encoder>,
}

/// What sets an encoder apart. Each of its tokens sees all others, and not only those before it; a norm follows the sum of its embeddings; and
/// its head for masked words begins with a linear layer of its own, the model's activation and a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// The number of token types, each with an embedding that is added to its tokens'; 0 for none.
    pub token_types: u32,
    /// The row of the first token in the table of positions: RoBERTa's has rows for padding before it.
    pub first_position: u32,
    /// Whether there is a pooler: a linear layer and tanh on the first token, for classification.
    pub pooler: bool,
    /// Whether there is a head that predicts masked words.
    pub head: bool,
}

/// The supported architectures. Each has its own tensor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// The models that `pretrain` creates, and `assets/base`.
    Graftling,
    /// GPT-2 (Radford et al. 2019).
    Gpt2,
    /// Llama (Touvron et al. 2023) and models with its architecture: SmolLM2, TinyLlama.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
    /// BERT (Devlin et al. 2018) and models with its architecture: MiniLM.
    Bert,
    /// RoBERTa (Liu et al. 2019).
    Roberta,
    /// DistilBERT (Sanh et al. 2019).
    DistilBert,
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
            Family::Bert => "bert",
            Family::Roberta => "roberta",
            Family::DistilBert => "distilbert",
        }
    }

    /// Whether its models are encoders.
    pub fn is_encoder(self) -> bool {
        matches!(self, Family::Bert | Family::Roberta | Family::DistilBert)
    }

    /// The family with this `model_type`.
    pub fn of_model_type(model_type: &str) -> Option<Family> {
        use Family::{Bert, DistilBert, Gpt2, Graftling, Llama, Qwen2, Qwen3, Roberta};
        let all = [Graftling, Gpt2, Llama, Qwen2, Qwen3, Bert, Roberta, DistilBert];
        all.into_iter().find(|family| family.model_type() == model_type)
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

/// The position encoding.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A learned vector for each position of the context.
    Learned,
    /// Rotary embeddings (RoPE) of queries and keys (RoFormer: Su et al. 2021).
    Rotary {
        /// The base of the wavelengths.
        theta: f64,
        /// How RoPE is scaled for texts longer than those the model was trained on.
        scaling: RopeScaling,
        /// Which elements of a head form a pair.
        pairs: RopePairs,
    },
}

/// Which linear layers have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output projection of attention.
    pub attention_output: bool,
    /// All of the feed-forward layer.
    pub ffn: bool,
    /// The head.
    pub head: bool,
}

/// The base's own dropout rates in training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BaseDropout {
    /// On the sum of embeddings.
    pub embedding: f32,
    /// On attention probabilities.
    pub attention: f32,
    /// On the output of attention, after its projection.
    pub attention_output: f32,
    /// On the output of the feed-forward layer.
    pub ffn_output: f32,
    /// On what a task's head reads.
    pub head: f32,
}

impl BaseDropout {
    /// The same rate everywhere.
    pub fn all(share: f32) -> BaseDropout {
        BaseDropout { embedding: share, attention: share, attention_output: share, ffn_output: share, head: share }
    }
}

/// The largest allowed extent in a config; the product of two fits in 64 bits many times over.
pub(crate) const LARGEST: u32 = 1 << 24;

impl Config {
    /// The width of queries, keys and values concatenated.
    pub fn qkv_width(&self) -> u32 {
        (self.heads + 2 * self.key_value_heads) * self.head_size
    }

    /// Checks that all tokens are in the model's vocabulary; a tokenizer with added tokens may produce others.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let known = self.vocab_size;
        let Some(token) = tokens.iter().find(|&&token| token >= known) else { return Ok(()) };
        Err(Error::Usage(format!("the text has token {token}, but the model has {known} tokens; use the model's own tokenizer")))
    }

    /// Whether the model predicts words: a decoder, or an encoder with a head for masked ones.
    pub fn has_head(&self) -> bool {
        self.encoder.is_none_or(|encoder| encoder.head)
    }

    /// The name of a head tensor in a file that contains only the head, where a tied head gets its own name; `None` for other tensors.
    pub(super) fn head_on_disk(&self, name: &str) -> Option<String> {
        let names = Names::of(self.family);
        let (stem, kind) = name.rsplit_once('.')?;
        match stem {
            _ if self.tied && stem == names.token_embedding => Some(format!("{}.{kind}", names.head)),
            _ => names.is_head(stem).then(|| name.into()),
        }
    }

    /// The model's name for a tensor of such a file.
    pub(super) fn head_in_memory(&self, name: &str) -> String {
        let names = Names::of(self.family);
        match name.rsplit_once('.') {
            Some((stem, "weight")) if self.tied && stem == names.head => format!("{}.weight", names.token_embedding),
            _ => name.into(),
        }
    }

    /// Checks that the configuration is valid and supported.
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
            return Err(format!("{} layers of {} heads exceed the limit of 4096 for either", self.layers, self.heads));
        }
        if !self.heads.is_multiple_of(self.key_value_heads) {
            return Err(format!("{} heads cannot be divided evenly among {} key and value heads", self.heads, self.key_value_heads));
        }
        if !self.head_size.is_multiple_of(4) || self.head_size > 256 {
            return Err(format!("a head size of {} is not supported; it must be a multiple of 4 up to 256", self.head_size));
        }
        let BaseDropout { embedding, attention, attention_output, ffn_output, head } = self.dropout;
        let dropouts = [embedding, attention, attention_output, ffn_output, head];
        if !dropouts.iter().all(|share| (0.0..1.0).contains(share)) {
            return Err("a dropout rate is out of range; it must be from 0 to below 1".into());
        }
        if !(self.epsilon > 0.0 && self.epsilon < 1.0) {
            return Err(format!("the norms' epsilon is {}; it must be between 0 and 1", self.epsilon));
        }
        Ok(())
    }
}
