//! `config.json` as the `transformers` library writes it. Defaults are those of version 4.57; the keys of version 5 are supported too.
//!
//! Every key is either understood, known not to affect the model's output, or an error that names it. Sizes have no defaults here: with
//! one, a file that lacks its number of layers would silently become another model.

#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

use super::fields::head_size;
use super::rotary::rotary;
use super::{BaseDropout, Biases, Config, Family, NormKind, Positions, encoder, graftling};
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text};
use crate::keyed::{Checked, Keyed, as_shown, wrong};
use crate::ops::Activation;
use crate::weights::parse_json;
use crate::words::shown;

impl Config {
    /// Reads and checks the `config.json` of a model.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing or malformed, or has an unsupported architecture, key or value.
    pub fn read(path: &Path) -> Result<Config> {
        Config::from_json(&read_text(path, CONFIG_BYTES)?).map_err(|problem| Error::file(path, problem))
    }

    /// Parses and checks the text of a `config.json`.
    ///
    /// # Errors
    /// The part of a sentence that follows the file's name.
    pub fn from_json(text: &str) -> Checked<Config> {
        let mut fields = Keyed::json("", parse_json(text)?)?;
        let model_type = fields.text("model_type")?.ok_or_else(|| fields.missing("model_type"))?;
        if fields.take("quantization_config").is_some() {
            return Err(
                "has a quantization_config, which is not supported; use a GGUF file of the model, or its unquantised weights".into()
            );
        }
        let config = match &model_type[..] {
            "graftling" => graftling::config(&mut fields)?,
            "gpt2" => gpt2(&mut fields)?,
            "llama" => llama(&mut fields, Family::Llama)?,
            "qwen2" => llama(&mut fields, Family::Qwen2)?,
            "qwen3" => llama(&mut fields, Family::Qwen3)?,
            "bert" => encoder::bert(&mut fields, Family::Bert)?,
            "roberta" => encoder::bert(&mut fields, Family::Roberta)?,
            "distilbert" => encoder::distilbert(&mut fields)?,
            other => {
                let known = "gpt2, llama, qwen2, qwen3, bert, roberta and distilbert are";
                return Err(format!("has model_type = \"{}\", which is not supported; {known}", shown(other)));
            }
        };
        fields.only("is_encoder_decoder", false)?;
        fields.only("add_cross_attention", false)?;
        fields.only("pruned_heads", serde_json::json!({}))?;
        fields.finish(|key| HARMLESS.contains(&key) || key.starts_with("summary_"))?;
        config.check()?;
        Ok(config)
    }
}

/// Keys that do not affect a language model's output: provenance, generation settings, settings for other tasks, and derived values.
const HARMLESS: [&str; 75] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "_num_labels",
    "architectures",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "model_max_length",
    "n_ctx",
    "n_special",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "pad_token_id",
    "predict_special_tokens",
    "prefix",
    // Splits a product into parts that are summed.
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "reorder_and_upcast_attn",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

fn gpt2(fields: &mut Keyed) -> Checked<Config> {
    let hidden_size = fields.required("n_embd")?;
    let heads = fields.required("n_head")?;
    let residual = fields.dropout("resid_pdrop", 0.1)?;
    let config = Config {
        family: Family::Gpt2,
        vocab_size: fields.required("vocab_size")?,
        context: fields.required("n_positions")?,
        hidden_size,
        layers: fields.required("n_layer")?,
        heads,
        key_value_heads: heads,
        head_size: head_size(hidden_size, heads, ["n_embd", "n_head"])?,
        intermediate_size: fields.extent("n_inner")?.unwrap_or(4 * hidden_size),
        activation: fields.activation("activation_function")?.unwrap_or(Activation::GeluNew),
        gated: false,
        norm: NormKind::LayerNorm,
        norm_first: true,
        epsilon: fields.epsilon("layer_norm_epsilon")?.unwrap_or(1e-5),
        positions: Positions::Learned,
        head_norm: false,
        biases: Biases { qkv: true, attention_output: true, ffn: true, head: false },
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(true),
        dropout: BaseDropout {
            embedding: fields.dropout("embd_pdrop", 0.1)?,
            attention: fields.dropout("attn_pdrop", 0.1)?,
            attention_output: residual,
            ffn_output: residual,
            head: residual,
        },
        encoder: None,
    };
    fields.only("scale_attn_weights", true)?;
    fields.only("scale_attn_by_inverse_layer_idx", false)?;
    Ok(config)
}

/// Llama, Qwen2 and Qwen3, which differ only slightly.
fn llama(fields: &mut Keyed, family: Family) -> Checked<Config> {
    let hidden_size = fields.required("hidden_size")?;
    let (layers, context) = (fields.required("num_hidden_layers")?, fields.required("max_position_embeddings")?);
    let heads = fields.required("num_attention_heads")?;
    let key_value_heads = fields.extent("num_key_value_heads")?.unwrap_or(heads);
    let divided = || head_size(hidden_size, heads, ["hidden_size", "num_attention_heads"]);
    let head_size = match family {
        Family::Qwen3 => fields.extent("head_dim")?.unwrap_or(128),
        // Qwen2's code uses the key too if it is present.
        _ => fields.extent("head_dim")?.map_or_else(divided, Ok)?,
    };
    let biases = match family {
        Family::Qwen2 => Biases { qkv: true, ..Biases::default() },
        _ => {
            let attention = fields.flag("attention_bias")?.unwrap_or(false);
            Biases { qkv: attention, attention_output: attention, ..Biases::default() }
        }
    };
    let config = Config {
        family,
        vocab_size: fields.required("vocab_size")?,
        context,
        hidden_size,
        layers,
        heads,
        key_value_heads,
        head_size,
        intermediate_size: fields.required("intermediate_size")?,
        activation: fields.activation("hidden_act")?.unwrap_or(Activation::Silu),
        gated: true,
        norm: NormKind::RmsNorm,
        norm_first: true,
        epsilon: fields.epsilon("rms_norm_eps")?.unwrap_or(1e-6),
        positions: rotary(fields)?,
        head_norm: family == Family::Qwen3,
        biases: Biases { ffn: family == Family::Llama && fields.flag("mlp_bias")?.unwrap_or(false), ..biases },
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        dropout: BaseDropout { attention: fields.dropout("attention_dropout", 0.0)?, ..BaseDropout::default() },
        encoder: None,
    };
    fields.only("partial_rotary_factor", 1)?;
    match family {
        // SmolLM2's key describes the order in its training program, not in these weights.
        Family::Llama => fields.only("rope_interleaved", false)?,
        _ => {
            fields.only("use_mrope", false)?;
            sliding_window(fields, context, layers)?;
        }
    }
    Ok(config)
}

/// Takes the keys of sliding-window attention, and fails if the window is shorter than the context.
fn sliding_window(fields: &mut Keyed, context: u32, layers: u32) -> Checked<()> {
    let used = fields.flag("use_sliding_window")?.unwrap_or(false);
    let window = fields.take("sliding_window").unwrap_or(Value::Null);
    let first = fields.take("max_window_layers").unwrap_or(28.into());
    let first = first.as_u64().ok_or_else(|| wrong("max_window_layers", &first, "a whole number from 0 up"))?;
    let wide = match &window {
        Value::Null => false,
        window => window.as_u64().ok_or_else(|| wrong("sliding_window", window, "a whole number from 0 up"))? >= context.into(),
    };
    let types = match fields.take("layer_types") {
        None => None,
        Some(Value::Array(types)) if types.len() == layers as usize => Some(types),
        Some(other) => return Err(wrong("layer_types", &other, &format!("a list of {layers} layer types"))),
    };
    if let Some(other) = types.iter().flatten().find(|kind| *kind != "full_attention" && *kind != "sliding_attention") {
        return Err(format!("has {} in its layer_types, which is not supported; choose another model", as_shown(other)));
    }
    let slides = match types {
        Some(types) => types.iter().any(|kind| kind == "sliding_attention"),
        None => used && u64::from(layers) > first,
    };
    if slides && !wide {
        let window = as_shown(&window);
        return Err(format!(
            "has layers with a sliding_window of {window}, but only a window of the whole context is supported; choose another model"
        ));
    }
    Ok(())
}
