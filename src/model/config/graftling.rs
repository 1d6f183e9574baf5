//! `config.json` of the small GPT.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::fields::{Checked, Fields};
use super::{BaseDropout, Biases, Config, Family, LARGEST, NormKind, Positions};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::weights::shown;

/// The form of a post-norm GPT with learned positions and a linear head of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GptConfig {
    /// Always `["GraftlingForCausalLM"]`.
    #[serde(default = "architectures")]
    pub architectures: Vec<String>,
    /// Always `graftling`.
    pub model_type: String,
    /// Tokens in the vocabulary.
    pub vocab_size: u32,
    /// The longest sequence, which is how many positions are learned.
    pub max_position_embeddings: u32,
    /// Numbers that stand for a token between blocks.
    pub hidden_size: u32,
    /// Blocks.
    pub num_hidden_layers: u32,
    /// Attention heads of a block.
    pub num_attention_heads: u32,
    /// The width inside the feed-forward layer.
    pub intermediate_size: u32,
    /// The activation of the feed-forward layer.
    pub hidden_act: String,
    /// Added to the variance in LayerNorm.
    pub layer_norm_eps: f32,
    /// Dropout of attention probabilities and of the feed-forward layer's output, in training of the base.
    pub dropout: f32,
}

fn architectures() -> Vec<String> {
    vec!["GraftlingForCausalLM".into()]
}

/// Takes the keys of a small GPT.
pub(super) fn config(fields: &mut Fields) -> Checked<Config> {
    let activation = fields.activation("hidden_act")?.ok_or_else(|| fields.missing("hidden_act"))?;
    let number = |fields: &mut Fields, key: &str, expected: &str, allowed: fn(f64) -> bool| {
        fields.number(key, expected, allowed)?.map(|n| n as f32).ok_or_else(|| fields.missing(key))
    };
    let config = GptConfig {
        architectures: architectures(),
        model_type: "graftling".into(),
        vocab_size: fields.required("vocab_size")?,
        max_position_embeddings: fields.required("max_position_embeddings")?,
        hidden_size: fields.required("hidden_size")?,
        num_hidden_layers: fields.required("num_hidden_layers")?,
        num_attention_heads: fields.required("num_attention_heads")?,
        intermediate_size: fields.required("intermediate_size")?,
        hidden_act: activation.name().into(),
        layer_norm_eps: number(fields, "layer_norm_eps", "a number between 0 and 1", |n| n as f32 > 0.0 && (n as f32) < 1.0)?,
        dropout: number(fields, "dropout", "a number from 0 to below 1", |n| n >= 0.0 && (n as f32) < 1.0)?,
    };
    config.check()?;
    Ok(config.into())
}

impl From<GptConfig> for Config {
    fn from(gpt: GptConfig) -> Config {
        Config {
            family: Family::Graftling,
            vocab_size: gpt.vocab_size,
            context: gpt.max_position_embeddings,
            hidden_size: gpt.hidden_size,
            layers: gpt.num_hidden_layers,
            heads: gpt.num_attention_heads,
            key_value_heads: gpt.num_attention_heads,
            head_size: gpt.hidden_size / gpt.num_attention_heads,
            intermediate_size: gpt.intermediate_size,
            activation: gpt.activation(),
            gated: false,
            norm: NormKind::LayerNorm,
            norm_first: false,
            epsilon: gpt.layer_norm_eps,
            positions: Positions::Learned,
            head_norm: false,
            biases: Biases { qkv: true, attention_output: true, ffn: true, head: true },
            tied: false,
            dropout: BaseDropout { attention: gpt.dropout, ffn_output: gpt.dropout, ..BaseDropout::default() },
        }
    }
}

impl Config {
    /// A small GPT of that many blocks with the usual proportions: heads of 32, a feed-forward layer four times as wide.
    pub fn gpt(vocab_size: u32, context: u32, hidden_size: u32, layers: u32) -> Config {
        GptConfig::new(vocab_size, context, hidden_size, layers).into()
    }

    /// The `config.json` of a small GPT, which [`Config::read`] reads.
    ///
    /// # Panics
    /// If the family is another, or the file cannot say what the config does.
    pub fn to_json(&self) -> String {
        let gpt = GptConfig {
            architectures: architectures(),
            model_type: "graftling".into(),
            vocab_size: self.vocab_size,
            max_position_embeddings: self.context,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            intermediate_size: self.intermediate_size,
            hidden_act: self.activation.name().into(),
            layer_norm_eps: self.epsilon,
            dropout: self.dropout.attention,
        };
        let json = serde_json::to_string_pretty(&gpt).expect("a config is plain data") + "\n";
        assert_eq!(*self, gpt.into(), "only the config of a small GPT is written");
        json
    }
}

impl GptConfig {
    /// A GPT of that many blocks with the usual proportions: heads of 32, a feed-forward layer four times as wide.
    pub fn new(vocab_size: u32, context: u32, hidden_size: u32, layers: u32) -> GptConfig {
        GptConfig {
            architectures: architectures(),
            model_type: "graftling".into(),
            vocab_size,
            max_position_embeddings: context,
            hidden_size,
            num_hidden_layers: layers,
            num_attention_heads: (hidden_size / 32).max(1),
            intermediate_size: hidden_size * 4,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-5,
            dropout: 0.1,
        }
    }

    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing, malformed, or asks for something that is not supported.
    pub fn read(path: &Path) -> Result<GptConfig> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, format!("cannot be read ({e}); check the path")))?;
        let config: GptConfig =
            serde_json::from_str(&text).map_err(|e| Error::file(path, format!("is not the config of a supported model: {e}")))?;
        config.check().map_err(|problem| Error::file(path, problem))?;
        Ok(config)
    }

    /// The activation of the feed-forward layer.
    ///
    /// # Panics
    /// If the config was not checked.
    pub fn activation(&self) -> Activation {
        Activation::from_name(&self.hidden_act).expect("a checked config has a known activation")
    }

    /// Says what no model can have.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn check(&self) -> std::result::Result<(), String> {
        let extents = [
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
        ];
        for (name, value) in extents {
            if value == 0 || value > LARGEST {
                return Err(format!("{name} is {value}; it must be from 1 to {LARGEST}"));
            }
        }
        if self.model_type != "graftling" {
            return Err(format!("model_type '{}' is not supported; 'graftling' is", self.model_type));
        }
        let head = self.hidden_size / self.num_attention_heads;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) || !head.is_multiple_of(4) || head > 128 {
            return Err(format!(
                "hidden_size {} in {} heads is not supported; a head must be a multiple of 4 up to 128",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if Activation::from_name(&self.hidden_act).is_none() {
            return Err(format!("hidden_act '{}' is not known", shown(&self.hidden_act)));
        }
        let in_range = (0.0..1.0).contains(&self.dropout) && self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0;
        if !in_range {
            return Err("dropout must be from 0 to below 1 and layer_norm_eps between 0 and 1".into());
        }
        Ok(())
    }
}
