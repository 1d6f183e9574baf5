//! The tensor names of each family, in GGUF files and in Hugging Face's files. The model uses the latter.

use super::{ATTENTION_PLACE, FFN_PLACE, Family};

/// The names of a family's tensors in one file format, without `.weight` and `.bias`. Those of a layer follow `{layers}.{i}.`.
pub struct Names {
    /// The prefix of a layer's number.
    pub layers: &'static str,
    /// The token embedding.
    pub token_embedding: &'static str,
    /// The position embedding.
    pub position_embedding: &'static str,
    /// The embedding of token types.
    pub type_embedding: &'static str,
    /// The norm after the embeddings.
    pub embedding_norm: &'static str,
    /// The norm after the last layer.
    pub final_norm: &'static str,
    /// The pooler.
    pub pooler: &'static str,
    /// The head.
    pub head: &'static str,
    /// The head's bias, if it has another name than its weight.
    pub head_bias: &'static str,
    /// The linear layer and the norm before an encoder's head.
    pub head_transform: [&'static str; 2],
    /// Queries, keys and values, packed or separate.
    pub qkv: &'static [&'static str],
    /// The norms of the query and key heads.
    pub head_norms: [&'static str; 2],
    /// The output projection of attention.
    pub attention_output: &'static str,
    /// The input projections of the feed-forward layer: the gate, if the family can have one, and up.
    ffn_input: &'static [&'static str],
    /// The down-projection of the feed-forward layer.
    pub ffn_output: &'static str,
    /// The norms of attention and of the feed-forward layer.
    pub norms: [&'static str; 2],
    /// The modules in which the `adapters` library puts the adapters after attention and after the feed-forward layer.
    pub adapters: [&'static str; 2],
    /// Matrices that the file stores as (inputs, outputs), as GPT-2's `Conv1D` does.
    pub transposed: &'static [&'static str],
}

/// For what a family does not have.
const NONE: &str = "";

const GRAFTLING: Names = Names {
    layers: "transformer.h",
    token_embedding: "transformer.wte",
    position_embedding: "transformer.wpe",
    type_embedding: NONE,
    embedding_norm: NONE,
    final_norm: "transformer.ln_f",
    pooler: NONE,
    head: "cls",
    head_bias: "cls",
    head_transform: [NONE, NONE],
    qkv: &["attn.in_proj"],
    head_norms: ["attn.q_norm", "attn.k_norm"],
    attention_output: "attn.out_proj",
    ffn_input: &["ffn.gate_proj", "ffn.up_proj"],
    ffn_output: "ffn.down_proj",
    norms: ["ln_1", "ln_2"],
    adapters: [ATTENTION_PLACE, FFN_PLACE],
    transposed: &[],
};

const GPT2: Names = Names {
    head: "lm_head",
    head_bias: "lm_head",
    qkv: &["attn.c_attn"],
    attention_output: "attn.c_proj",
    ffn_input: &["mlp.c_fc"],
    ffn_output: "mlp.c_proj",
    transposed: &["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    ..GRAFTLING
};

const LLAMA: Names = Names {
    layers: "model.layers",
    token_embedding: "model.embed_tokens",
    position_embedding: "model.embed_positions",
    final_norm: "model.norm",
    head: "lm_head",
    head_bias: "lm_head",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    head_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    attention_output: "self_attn.o_proj",
    ffn_input: &["mlp.gate_proj", "mlp.up_proj"],
    ffn_output: "mlp.down_proj",
    norms: ["input_layernorm", "post_attention_layernorm"],
    ..GRAFTLING
};

const BERT: Names = Names {
    layers: "bert.encoder.layer",
    token_embedding: "bert.embeddings.word_embeddings",
    position_embedding: "bert.embeddings.position_embeddings",
    type_embedding: "bert.embeddings.token_type_embeddings",
    embedding_norm: "bert.embeddings.LayerNorm",
    final_norm: NONE,
    pooler: "bert.pooler.dense",
    head: "cls.predictions.decoder",
    head_bias: "cls.predictions",
    head_transform: ["cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"],
    qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
    head_norms: [NONE, NONE],
    attention_output: "attention.output.dense",
    ffn_input: &["intermediate.dense"],
    ffn_output: "output.dense",
    norms: ["attention.output.LayerNorm", "output.LayerNorm"],
    adapters: ["attention.output", "output"],
    transposed: &[],
};

const ROBERTA: Names = Names {
    layers: "roberta.encoder.layer",
    token_embedding: "roberta.embeddings.word_embeddings",
    position_embedding: "roberta.embeddings.position_embeddings",
    type_embedding: "roberta.embeddings.token_type_embeddings",
    embedding_norm: "roberta.embeddings.LayerNorm",
    pooler: "roberta.pooler.dense",
    head: "lm_head.decoder",
    head_bias: "lm_head",
    head_transform: ["lm_head.dense", "lm_head.layer_norm"],
    ..BERT
};

const DISTILBERT: Names = Names {
    layers: "distilbert.transformer.layer",
    token_embedding: "distilbert.embeddings.word_embeddings",
    position_embedding: "distilbert.embeddings.position_embeddings",
    type_embedding: NONE,
    embedding_norm: "distilbert.embeddings.LayerNorm",
    pooler: NONE,
    head: "vocab_projector",
    head_bias: "vocab_projector",
    head_transform: ["vocab_transform", "vocab_layer_norm"],
    qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attention_output: "attention.out_lin",
    ffn_input: &["ffn.lin1"],
    ffn_output: "ffn.lin2",
    norms: ["sa_layer_norm", "output_layer_norm"],
    adapters: [ATTENTION_PLACE, FFN_PLACE],
    ..BERT
};

const GGUF_LLAMA: Names = Names {
    layers: "blk",
    token_embedding: "token_embd",
    position_embedding: "position_embd",
    final_norm: "output_norm",
    head: "output",
    head_bias: "output",
    qkv: &["attn_q", "attn_k", "attn_v"],
    head_norms: ["attn_q_norm", "attn_k_norm"],
    attention_output: "attn_output",
    ffn_input: &["ffn_gate", "ffn_up"],
    ffn_output: "ffn_down",
    norms: ["attn_norm", "ffn_norm"],
    ..GRAFTLING
};

const GGUF_GRAFTLING: Names = Names { qkv: &["attn_qkv"], ..GGUF_LLAMA };

const GGUF_GPT2: Names = Names { ffn_input: &["ffn_up"], ..GGUF_GRAFTLING };

impl Names {
    /// The names that the model uses, which are Hugging Face's.
    pub fn of(family: Family) -> &'static Names {
        match family {
            Family::Graftling => &GRAFTLING,
            Family::Gpt2 => &GPT2,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => &LLAMA,
            Family::Bert => &BERT,
            Family::Roberta => &ROBERTA,
            Family::DistilBert => &DISTILBERT,
        }
    }

    /// GGUF's names, in which no encoder is read.
    pub fn of_gguf(family: Family) -> &'static Names {
        match family {
            Family::Gpt2 => &GGUF_GPT2,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => &GGUF_LLAMA,
            Family::Graftling | Family::Bert | Family::Roberta | Family::DistilBert => &GGUF_GRAFTLING,
        }
    }

    /// The input projections of the feed-forward layer: up, or the gate and up.
    ///
    /// # Panics
    /// If `gated` is set for a family without a gate.
    pub fn ffn_input(&self, gated: bool) -> &'static [&'static str] {
        let own = 1 + usize::from(gated);
        &self.ffn_input[self.ffn_input.len() - own..]
    }

    /// Every name outside the layers.
    fn outside(&self) -> [&'static str; 10] {
        let Names { token_embedding, position_embedding, type_embedding, embedding_norm, final_norm, pooler, head, head_bias, .. } = *self;
        let [dense, norm] = self.head_transform;
        [token_embedding, position_embedding, type_embedding, embedding_norm, final_norm, pooler, head, head_bias, dense, norm]
    }

    /// Every name inside a layer.
    fn inside(&self) -> impl Iterator<Item = &'static str> {
        let one = [self.head_norms[0], self.head_norms[1], self.attention_output, self.ffn_output, self.norms[0], self.norms[1]];
        self.qkv.iter().chain(self.ffn_input).copied().chain(one)
    }

    /// Translates a tensor's name to `other`'s; `None` for a tensor that no model uses.
    pub fn translate(&self, name: &str, other: &Names) -> Option<String> {
        let (stem, kind) = name.rsplit_once('.')?;
        if let Some(i) = self.outside().iter().position(|&own| own == stem && own != NONE) {
            return Some(format!("{}.{kind}", other.outside()[i]));
        }
        let (layer, stem) = stem.strip_prefix(self.layers)?.strip_prefix('.')?.split_once('.')?;
        let (_, theirs) = self.inside().zip(other.inside()).find(|&(own, _)| own == stem)?;
        Some(format!("{}.{layer}.{theirs}.{kind}", other.layers))
    }

    /// Whether `stem`, a name without `.weight` or `.bias`, is that of a norm.
    pub fn is_norm(&self, stem: &str) -> bool {
        let ends = |norm: &&str| stem.strip_suffix(norm).is_some_and(|layer| layer.ends_with('.'));
        let norms = self.norms.iter().chain(&self.head_norms).filter(|norm| **norm != NONE);
        stem == self.final_norm || stem == self.embedding_norm || norms.into_iter().any(ends)
    }

    /// Whether `stem`, a name without `.weight` or `.bias`, is part of the head.
    pub fn is_head(&self, stem: &str) -> bool {
        stem == self.head || stem == self.head_bias || self.head_transform.contains(&stem)
    }

    /// Whether `stem` is that of an embedding.
    pub fn is_embedding(&self, stem: &str) -> bool {
        [self.token_embedding, self.position_embedding, self.type_embedding].contains(&stem)
    }

    /// Whether the file stores this matrix as (inputs, outputs).
    pub fn is_transposed(&self, name: &str) -> bool {
        let stem = name.strip_suffix(".weight").unwrap_or("");
        self.transposed.iter().any(|t| stem.strip_suffix(t).is_some_and(|rest| rest.ends_with('.')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate() {
        let (gguf, own) = (Names::of_gguf(Family::Llama), Names::of(Family::Llama));
        let translated = |name| gguf.translate(name, own);
        assert_eq!(translated("blk.12.attn_k.weight").as_deref(), Some("model.layers.12.self_attn.k_proj.weight"));
        assert_eq!(translated("blk.0.ffn_gate.weight").as_deref(), Some("model.layers.0.mlp.gate_proj.weight"));
        assert_eq!(translated("token_embd.weight").as_deref(), Some("model.embed_tokens.weight"));
        assert_eq!(translated("rope_freqs.weight"), None);
        assert_eq!(translated("blk.0.attn_rot_embd"), None);
        let (gguf, own) = (Names::of_gguf(Family::Gpt2), Names::of(Family::Gpt2));
        assert_eq!(gguf.translate("blk.3.attn_qkv.bias", own).as_deref(), Some("transformer.h.3.attn.c_attn.bias"));
        assert!(own.is_transposed("transformer.h.3.attn.c_attn.weight") && !own.is_transposed("transformer.h.3.attn.c_attn.bias"));
        assert!(!own.is_transposed("transformer.wte.weight"));
    }
}
