//! A config in the files of others: `config.json` as `transformers` reads it, and the metadata of a GGUF file as llama.cpp does.

use serde_json::{Map, Value, json};

use super::{Config, Family, Positions};
use crate::ops::{Activation, RopeScaling, rope_frequencies};
use crate::weights::Entry;

/// Llama 3's `low_freq_factor` and `high_freq_factor`, and its context before stretching; no model has others.
const LLAMA3: [f64; 3] = [1.0, 4.0, 8192.0];

impl Config {
    /// The `config.json` of a model whose weights have this `torch_dtype`. `end` are the tokens at which generation stops.
    ///
    /// # Errors
    /// One sentence, if `transformers` has no such model.
    pub(in crate::model) fn to_hf(&self, torch_dtype: &str, bos: Option<u32>, end: &[u32]) -> Result<Value, String> {
        let architecture = match self.family {
            Family::Graftling => return Err("is a Graftling model, which transformers does not know; use it as it is".into()),
            Family::Gpt2 => "GPT2LMHeadModel",
            Family::Llama => "LlamaForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Bert | Family::Roberta | Family::DistilBert => {
                return Err("is an encoder, into which nothing can be merged yet; use it with its adapter".into());
            }
        };
        let end: Value = if let [one] = end { (*one).into() } else { end.into() };
        let mut json = json!({
            "architectures": [architecture], "model_type": self.family.model_type(), "torch_dtype": torch_dtype,
            "vocab_size": self.vocab_size, "tie_word_embeddings": self.tied, "bos_token_id": bos, "eos_token_id": end,
        });
        let keys = match &self.positions {
            Positions::Learned => json!({
                "n_positions": self.context, "n_embd": self.hidden_size, "n_layer": self.layers, "n_head": self.heads,
                "n_inner": self.intermediate_size, "activation_function": self.activation.name(), "layer_norm_epsilon": self.epsilon,
            }),
            Positions::Rotary { theta, scaling, .. } => json!({
                "max_position_embeddings": self.context, "hidden_size": self.hidden_size, "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads, "num_key_value_heads": self.key_value_heads, "head_dim": self.head_size,
                "intermediate_size": self.intermediate_size, "hidden_act": self.activation.name(), "rms_norm_eps": self.epsilon,
                "rope_theta": theta, "rope_scaling": self.hf_scaling(*theta, scaling)?,
            }),
        };
        json.as_object_mut().expect("a map").extend(keys.as_object().cloned().unwrap_or_default());
        let biases = match self.family {
            Family::Llama => json!({ "attention_bias": self.biases.qkv, "mlp_bias": self.biases.ffn }),
            Family::Qwen3 => json!({ "attention_bias": self.biases.qkv }),
            _ => Value::Object(Map::new()),
        };
        json.as_object_mut().expect("a map").extend(biases.as_object().cloned().unwrap_or_default());
        Ok(json)
    }

    fn hf_scaling(&self, theta: f64, scaling: &RopeScaling) -> Result<Value, String> {
        Ok(match scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear(factor) => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": *original as u64,
            }),
            RopeScaling::Factors(factors) => match self.llama3(theta, factors) {
                Some(scaling) => self.hf_scaling(theta, &scaling)?,
                None => {
                    return Err("has rope_freqs that are not Llama 3's, which config.json cannot express; merge into a .gguf file".into());
                }
            },
        })
    }

    /// Llama 3's rule that has these factors, if there is one: GGUF files have only its results.
    fn llama3(&self, theta: f64, factors: &[f32]) -> Option<RopeScaling> {
        let [low, high, usual] = LLAMA3;
        let plain = rope_frequencies(theta, self.head_size, &RopeScaling::None);
        let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
        // A frequency between the two limits tells the original context.
        let between = plain.iter().zip(factors).find(|(_, own)| f64::from(**own) > 1.001 && f64::from(**own) < 0.999 * factor);
        let original = between.map_or(usual, |(frequency, own)| {
            let smooth = (1.0 / f64::from(*own) - 1.0 / factor) / (1.0 - 1.0 / factor);
            (std::f64::consts::TAU / f64::from(*frequency) * (low + smooth * (high - low))).round()
        });
        let rule = RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original };
        let scaled = rope_frequencies(theta, self.head_size, &rule);
        let fits = |((plain, scaled), own): ((&f32, &f32), &f32)| (plain / scaled / own - 1.0).abs() < 1e-3;
        plain.iter().zip(&scaled).zip(factors).all(fits).then_some(rule)
    }

    /// The metadata of a GGUF file about the model, `name` among them, but not its tokenizer.
    ///
    /// # Errors
    /// One sentence, if llama.cpp has no such model.
    pub(in crate::model) fn gguf_metadata(&self, name: &str) -> Result<Vec<(String, Entry)>, String> {
        if self.encoder.is_some() {
            return Err("the model is an encoder, into which nothing can be merged yet; use it with its adapter".into());
        }
        let architecture = self.family.model_type();
        let built_in = if self.family == Family::Gpt2 { Activation::GeluNew } else { Activation::Silu };
        if self.activation != built_in {
            let (own, built_in) = (self.activation.name(), built_in.name());
            return Err(format!(
                "the model has the activation {own}, but llama.cpp computes a {architecture} with {built_in}; give a directory"
            ));
        }
        let mut metadata: Vec<_> = [("architecture", architecture), ("type", "model"), ("name", name)]
            .map(|(key, value)| (format!("general.{key}"), Entry::Text(value.into())))
            .to_vec();
        let mut add = |key: &str, entry| metadata.push((format!("{architecture}.{key}"), entry));
        add("context_length", Entry::Whole(self.context));
        add("embedding_length", Entry::Whole(self.hidden_size));
        add("block_count", Entry::Whole(self.layers));
        add("feed_forward_length", Entry::Whole(self.intermediate_size));
        add("attention.head_count", Entry::Whole(self.heads));
        match &self.positions {
            Positions::Learned => add("attention.layer_norm_epsilon", Entry::Number(self.epsilon)),
            Positions::Rotary { theta, scaling, .. } => {
                add("attention.head_count_kv", Entry::Whole(self.key_value_heads));
                add("attention.key_length", Entry::Whole(self.head_size));
                add("attention.value_length", Entry::Whole(self.head_size));
                add("attention.layer_norm_rms_epsilon", Entry::Number(self.epsilon));
                add("vocab_size", Entry::Whole(self.vocab_size));
                add("rope.dimension_count", Entry::Whole(self.head_size));
                add("rope.freq_base", Entry::Number(*theta as f32));
                if let RopeScaling::Linear(factor) = scaling {
                    add("rope.scaling.type", Entry::Text("linear".into()));
                    add("rope.scaling.factor", Entry::Number(*factor as f32));
                }
            }
        }
        Ok(metadata)
    }

    /// The divisor of each frequency, which a GGUF file has as a tensor where they differ.
    pub(in crate::model) fn gguf_rope_factors(&self) -> Option<Vec<f32>> {
        match &self.positions {
            Positions::Rotary { scaling: RopeScaling::Factors(factors), .. } => Some(factors.clone()),
            Positions::Rotary { theta, scaling: scaling @ RopeScaling::Llama3 { .. }, .. } => {
                let [plain, scaled] = [&RopeScaling::None, scaling].map(|scaling| rope_frequencies(*theta, self.head_size, scaling));
                Some(plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect())
            }
            _ => None,
        }
    }
}
