//! `config.json` of encoders: BERT (and MiniLM, which is one), RoBERTa and DistilBERT. The defaults are those of `transformers` 4.57.

use super::fields::head_size;
use super::{BaseDropout, Biases, Config, Encoder, Family, NormKind, Positions};
use crate::keyed::{Checked, Keyed};
use crate::ops::Activation;

const BIASES: Biases = Biases { qkv: true, attention_output: true, ffn: true, head: true };

/// Keys that only tools around the model read, or that older checkpoints have and no code reads.
const HARMLESS: [&str; 6] =
    ["directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"];

/// BERT and RoBERTa, which differ in positions and token types.
pub(super) fn bert(fields: &mut Keyed, family: Family) -> Checked<Config> {
    let hidden_size = fields.required("hidden_size")?;
    let heads = fields.required("num_attention_heads")?;
    let dropout = fields.dropout("hidden_dropout_prob", 0.1)?;
    let positions = fields.required("max_position_embeddings")?;
    let first_position =
        if family == Family::Roberta { 1 + fields.whole("pad_token_id", 0, u64::from(u32::MAX / 2))?.unwrap_or(1) as u32 } else { 0 };
    let config = Config {
        family,
        vocab_size: fields.required("vocab_size")?,
        context: context(positions, first_position)?,
        hidden_size,
        layers: fields.required("num_hidden_layers")?,
        heads,
        key_value_heads: heads,
        head_size: head_size(hidden_size, heads, ["hidden_size", "num_attention_heads"])?,
        intermediate_size: fields.required("intermediate_size")?,
        activation: fields.activation("hidden_act")?.unwrap_or(Activation::Gelu),
        gated: false,
        norm: NormKind::LayerNorm,
        norm_first: false,
        epsilon: fields.epsilon("layer_norm_eps")?.unwrap_or(1e-12),
        positions: Positions::Learned,
        head_norm: false,
        biases: BIASES,
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(true),
        dropout: BaseDropout {
            embedding: dropout,
            attention: fields.dropout("attention_probs_dropout_prob", 0.1)?,
            attention_output: dropout,
            ffn_output: dropout,
            head: fields.dropout("classifier_dropout", dropout)?,
        },
        encoder: Some(Encoder { token_types: fields.extent("type_vocab_size")?.unwrap_or(2), first_position, pooler: true, head: true }),
    };
    fields.only("position_embedding_type", "absolute")?;
    fields.only("is_decoder", false)?;
    for key in HARMLESS {
        fields.take(key);
    }
    Ok(config)
}

/// DistilBERT, which has neither token types nor a pooler.
pub(super) fn distilbert(fields: &mut Keyed) -> Checked<Config> {
    let hidden_size = fields.required("dim")?;
    let heads = fields.required("n_heads")?;
    let dropout = fields.dropout("dropout", 0.1)?;
    let config = Config {
        family: Family::DistilBert,
        vocab_size: fields.required("vocab_size")?,
        context: fields.required("max_position_embeddings")?,
        hidden_size,
        layers: fields.required("n_layers")?,
        heads,
        key_value_heads: heads,
        head_size: head_size(hidden_size, heads, ["dim", "n_heads"])?,
        intermediate_size: fields.required("hidden_dim")?,
        activation: fields.activation("activation")?.unwrap_or(Activation::Gelu),
        gated: false,
        norm: NormKind::LayerNorm,
        norm_first: false,
        epsilon: 1e-12,
        positions: Positions::Learned,
        head_norm: false,
        biases: BIASES,
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(true),
        dropout: BaseDropout {
            embedding: dropout,
            attention: fields.dropout("attention_dropout", 0.1)?,
            // DistilBERT has none after attention's projection.
            attention_output: 0.0,
            ffn_output: dropout,
            head: fields.dropout("seq_classif_dropout", 0.2)?,
        },
        encoder: Some(Encoder { token_types: 0, first_position: 0, pooler: false, head: true }),
    };
    fields.only("is_decoder", false)?;
    // Sinusoidal positions are in the file too, and the other rate is that of another task's head.
    for key in ["sinusoidal_pos_embds", "qa_dropout", "tie_weights_"] {
        fields.take(key);
    }
    Ok(config)
}

/// How many tokens the table of positions is for. RoBERTa's has rows for padding before them.
fn context(positions: u32, first_position: u32) -> Checked<u32> {
    let missing =
        || format!("has max_position_embeddings = {positions}, but the first {first_position} are padding's; fetch the file again");
    positions.checked_sub(first_position).filter(|&context| context > 0).ok_or_else(missing)
}
