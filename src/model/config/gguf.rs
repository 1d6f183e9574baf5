//! The config in a GGUF file's metadata. As in `config.json`, an unknown key of the architecture is an error, and so is an unknown tensor:
//! a model that has one is not what its architecture claims.

#[cfg(test)]
mod tests;

use super::{BaseDropout, Biases, Config, Family, LARGEST, NormKind, Positions};
use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::ops::{Activation, RopePairs, RopeScaling};
use crate::weights::{FromValue, Gguf, Value};
use crate::words::shown;

/// Keys of an architecture that do not affect the output; sizes are taken from the tensors.
const HARMLESS: [&str; 4] = ["vocab_size", "tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned"];

/// Keys that are read.
const READ: [&str; 16] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
];

/// Tensors of a block of Llama and Qwen; [`check_tensors`] allows a few more.
const LLAMA: [&str; 9] = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"];

/// Tensors of a block of GPT-2, each with a bias.
const GPT2: [&str; 6] = ["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"];

impl Config {
    /// Reads and checks the config of a GGUF file.
    ///
    /// # Errors
    /// [`Error::File`] if the architecture is not supported, a key is missing, or a key, value or tensor is not supported.
    pub fn from_gguf(file: &Gguf) -> Result<Config> {
        let architecture: &str = file.required("general.architecture")?;
        let family = match architecture {
            "gpt2" => Family::Gpt2,
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            other => {
                let problem = format!("has the architecture '{}', which is not supported; gpt2, llama, qwen2 and qwen3 are", shown(other));
                return Err(Error::file(file.path(), problem));
            }
        };
        let config = Keys { file, architecture, family }.config()?;
        config.check().map_err(|problem| Error::file(file.path(), format!("{problem}; choose another model")))?;
        Ok(config)
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    file: &'a Gguf,
    architecture: &'a str,
    family: Family,
}

impl<'a> Keys<'a> {
    fn fail<T>(&self, problem: String) -> Result<T> {
        Err(Error::file(self.file.path(), problem))
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn value<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>> {
        self.file.value(&self.key(key))
    }

    /// An extent: an integer from 1 to [`LARGEST`].
    fn count(&self, key: &str) -> Result<Option<u32>> {
        match self.value(key)? {
            Some(count) if count == 0 || count > LARGEST => {
                self.fail(format!("key '{}' is {count}, expected 1 to {LARGEST}; convert the model again", self.key(key)))
            }
            count => Ok(count),
        }
    }

    fn required(&self, key: &str) -> Result<u32> {
        match self.count(key)? {
            Some(count) => Ok(count),
            None => self.file.required(&self.key(key)),
        }
    }

    fn config(&self) -> Result<Config> {
        self.check_keys()?;
        let gpt2 = self.family == Family::Gpt2;
        let (context, layers) = (self.required("context_length")?, self.required("block_count")?);
        let (hidden_size, heads) = (self.required("embedding_length")?, self.required("attention.head_count")?);
        self.check_tensors(layers)?;
        let head_size = self.head_size(hidden_size, heads)?;
        if let Some(window) = self.value::<u32>("attention.sliding_window")?.filter(|&window| window > 0 && window < context) {
            let key = self.key("attention.sliding_window");
            return self.fail(format!("key '{key}' is {window}, but only the whole context is supported; choose another model"));
        }
        let epsilon = self.key(if gpt2 { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" });
        Ok(Config {
            family: self.family,
            vocab_size: self.vocab_size(hidden_size)?,
            context,
            hidden_size,
            layers,
            heads,
            key_value_heads: self.count("attention.head_count_kv")?.unwrap_or(heads),
            head_size,
            intermediate_size: self.required("feed_forward_length")?,
            activation: if gpt2 { Activation::GeluNew } else { Activation::Silu },
            gated: !gpt2,
            norm: if gpt2 { NormKind::LayerNorm } else { NormKind::RmsNorm },
            norm_first: true,
            epsilon: self.file.required(&epsilon)?,
            positions: if gpt2 { Positions::Learned } else { self.rotary(head_size)? },
            head_norm: self.family == Family::Qwen3,
            biases: Biases {
                qkv: gpt2 || self.family == Family::Qwen2 || self.has(&["attn_q.bias", "attn_k.bias", "attn_v.bias"]),
                attention_output: gpt2 || self.has(&["attn_output.bias"]),
                ffn: gpt2 || self.has(&["ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"]),
                head: false,
            },
            tied: self.file.tensor("output.weight").is_none(),
            // The format does not record the dropout used in training.
            dropout: BaseDropout::default(),
            encoder: None,
        })
    }

    /// Fails on an unknown key of the architecture, unless its value turns a feature off.
    fn check_keys(&self) -> Result<()> {
        let prefix = self.key("");
        for (key, value) in self.file.metadata() {
            let Some(rest) = key.strip_prefix(&prefix) else { continue };
            let off = match value {
                Value::Integer(n) => *n == 0,
                Value::Float(n) => *n == 0.0,
                Value::Bool(on) => !on,
                _ => false,
            };
            let known = match rest {
                "attention.causal" => *value == Value::Bool(true),
                _ => off || READ.contains(&rest) || HARMLESS.contains(&rest),
            };
            if !known {
                let advice = "and may change the model's output; choose another model";
                return self.fail(format!("key '{}' is {value}, which is not supported {advice}", shown(key)));
            }
        }
        Ok(())
    }

    /// Fails on a tensor that no model of the architecture has.
    fn check_tensors(&self, layers: u32) -> Result<()> {
        for tensor in self.file.tensors() {
            let known = match tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
                Some((block, name)) => block.parse::<u32>().is_ok_and(|block| block < layers) && self.knows(name),
                None => match tensor.name {
                    "token_embd.weight" | "output_norm.weight" | "output.weight" => true,
                    "position_embd.weight" | "output_norm.bias" => self.family == Family::Gpt2,
                    "rope_freqs.weight" => self.family != Family::Gpt2,
                    _ => false,
                },
            };
            if !known {
                let (name, model) = (shown(tensor.name), format!("a {} model with {layers} blocks", self.architecture));
                return self.fail(format!("has a tensor '{name}', which {model} does not have; choose another model"));
            }
        }
        Ok(())
    }

    /// Whether a block may have this tensor.
    fn knows(&self, name: &str) -> bool {
        let Some((part, kind)) = name.rsplit_once('.') else { return false };
        let is_norm = part.ends_with("_norm");
        match (self.family, kind) {
            (Family::Gpt2, "weight" | "bias") => GPT2.contains(&part),
            (Family::Qwen3, "weight") if part == "attn_q_norm" || part == "attn_k_norm" => true,
            // Some converters write `attn_rot_embd`; no reader uses it.
            (_, "weight") => LLAMA.contains(&part) || part == "attn_rot_embd",
            (_, "bias") => LLAMA.contains(&part) && !is_norm,
            _ => false,
        }
    }

    /// Whether any block has one of these tensors. Then every block must have all of them, which is checked when they are requested.
    fn has(&self, names: &[&str]) -> bool {
        let name = |name: &'a str| name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        self.file.tensors().filter_map(|tensor| name(tensor.name)).any(|(_, name)| names.contains(&name))
    }

    /// The number of rows of the token embedding. The metadata have only the tokenizer's size, and embeddings may be padded.
    fn vocab_size(&self, hidden_size: u32) -> Result<u32> {
        let name = "token_embd.weight";
        let Some(tensor) = self.file.tensor(name) else {
            return self.fail(format!("has no tensor '{name}'; it is not a complete language model"));
        };
        match *tensor.shape.axes() {
            [rows, width] if rows <= LARGEST.into() && width == u64::from(hidden_size) => Ok(rows as u32),
            _ => self.fail(format!(
                "tensor '{name}' has the shape {}, expected at most {LARGEST} rows of {hidden_size}; convert the model again",
                tensor.shape
            )),
        }
    }

    fn head_size(&self, hidden_size: u32, heads: u32) -> Result<u32> {
        let size = match self.count("attention.key_length")? {
            Some(size) => size,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                let (hidden, head) = (self.key("embedding_length"), self.key("attention.head_count"));
                return self.fail(format!("key '{hidden}' is {hidden_size}, not a multiple of '{head}', {heads}; convert the model again"));
            }
        };
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = self.count(key)?.filter(|&other| other != size) {
                let key = self.key(key);
                return self.fail(format!("key '{key}' is {other}, but only the head size, {size}, is supported; choose another model"));
            }
        }
        Ok(size)
    }

    fn rotary(&self, head_size: u32) -> Result<Positions> {
        let number = |key: &str, most: f64| match self.value::<f32>(key)? {
            Some(n) if n != 0.0 && !(1.0..=most).contains(&f64::from(n)) => {
                self.fail(format!("key '{}' is {n}, expected 1 to {most}; convert the model again", self.key(key)))
            }
            // Converters write 0 for unset values.
            n => Ok(n.filter(|&n| n != 0.0).map(f64::from)),
        };
        let theta = number("rope.freq_base", 1e15)?.unwrap_or(10000.0);
        let factor = match number("rope.scaling.factor", 1e6)? {
            Some(factor) => factor,
            None => number("rope.scale_linear", 1e6)?.unwrap_or(1.0),
        };
        let factor = match self.value::<&str>("rope.scaling.type")? {
            None | Some("linear") => factor,
            Some("none") => 1.0,
            Some(other) => {
                let key = self.key("rope.scaling.type");
                return self.fail(format!("key '{key}' is '{}', which is not supported; none and linear are", shown(other)));
            }
        };
        let scaling = match self.factors(head_size)? {
            // Both stretch the wavelengths, so they multiply.
            Some(factors) => RopeScaling::Factors(factors.iter().map(|f| (f64::from(*f) * factor) as f32).collect()),
            None if factor == 1.0 => RopeScaling::None,
            None => RopeScaling::Linear(factor),
        };
        // Converters permute Llama's rows so that pairs are adjacent, and leave Qwen's unchanged.
        let pairs = if self.family == Family::Llama { RopePairs::Adjacent } else { RopePairs::Halves };
        Ok(Positions::Rotary { theta, scaling, pairs })
    }

    /// The divisor of each frequency.
    fn factors(&self, head_size: u32) -> Result<Option<Vec<f32>>> {
        let name = "rope_freqs.weight";
        if self.file.tensor(name).is_none() {
            return Ok(None);
        }
        let factors = self.file.get(name, &Shape::from([head_size / 2]))?.to_f32();
        match factors.iter().find(|&&factor| !(1e-6..=1e6).contains(&factor)) {
            Some(factor) => {
                self.fail(format!("tensor '{name}' has the factor {factor}, expected 0.000001 to 1000000; convert the model again"))
            }
            None => Ok(Some(factors)),
        }
    }
}
