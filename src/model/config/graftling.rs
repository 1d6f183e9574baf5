//! `config.json` of the Graftling family. Without any optional keys it describes a post-norm GPT with learned positions, like
//! `assets/base`; with them it can describe every decoder that [`Config`] can.

use serde::Serialize;
use serde_json::{Value, json};

use super::fields::head_size;
use super::rotary::rotary;
use super::{BaseDropout, Biases, Config, Family, NormKind, Positions};
use crate::keyed::{Checked, Keyed, wrong};
use crate::ops::{Activation, RopePairs, RopeScaling};
use crate::words::shown;

/// The keys in the order in which they are written. Optional ones are omitted where they have their default.
#[derive(Serialize)]
struct File {
    architectures: [&'static str; 1],
    model_type: &'static str,
    vocab_size: u32,
    max_position_embeddings: u32,
    hidden_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_key_value_heads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_dim: Option<u32>,
    intermediate_size: u32,
    hidden_act: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    gated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    norm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    norm_first: Option<bool>,
    /// For either norm.
    layer_norm_eps: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    positions: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rope_theta: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rope_scaling: Option<Value>,
    /// The divisor of each frequency, if each has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    rope_factors: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rope_pairs: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_norm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    biases: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tie_word_embeddings: Option<bool>,
    /// On attention probabilities, and on the feed-forward layer's output unless that has its own rate.
    dropout: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding_dropout: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention_output_dropout: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ffn_output_dropout: Option<f32>,
}

const BIASES: Biases = Biases { qkv: true, attention_output: true, ffn: true, head: true };

impl File {
    fn new(config: &Config) -> File {
        let unlike = |value: u32, usual: u32| (value != usual).then_some(value);
        let share = |value: f32, usual: f32| (value != usual).then_some(value);
        let (dropout, biases) = (config.dropout, config.biases);
        let (mut rope_theta, mut rope_scaling, mut rope_factors, mut rope_pairs) = (None, None, None, None);
        if let Positions::Rotary { theta, scaling, pairs } = &config.positions {
            rope_theta = Some(*theta);
            rope_scaling = match scaling {
                RopeScaling::None => None,
                RopeScaling::Factors(factors) => {
                    rope_factors = Some(factors.clone());
                    None
                }
                RopeScaling::Linear(factor) => Some(json!({ "rope_type": "linear", "factor": factor })),
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => Some(json!({
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor, "original_max_position_embeddings": *original as u64,
                })),
            };
            rope_pairs = (*pairs == RopePairs::Adjacent).then_some("adjacent");
        }
        File {
            architectures: ["GraftlingForCausalLM"],
            model_type: Family::Graftling.model_type(),
            vocab_size: config.vocab_size,
            max_position_embeddings: config.context,
            hidden_size: config.hidden_size,
            num_hidden_layers: config.layers,
            num_attention_heads: config.heads,
            num_key_value_heads: unlike(config.key_value_heads, config.heads),
            head_dim: (u64::from(config.heads) * u64::from(config.head_size) != u64::from(config.hidden_size)).then_some(config.head_size),
            intermediate_size: config.intermediate_size,
            hidden_act: config.activation.name(),
            gated: config.gated.then_some(true),
            norm: (config.norm == NormKind::RmsNorm).then_some("rms_norm"),
            norm_first: config.norm_first.then_some(true),
            layer_norm_eps: config.epsilon,
            positions: rope_theta.map(|_| "rotary"),
            rope_theta,
            rope_scaling,
            rope_factors,
            rope_pairs,
            head_norm: config.head_norm.then_some(true),
            biases: (biases != BIASES).then(|| {
                let Biases { qkv, attention_output, ffn, head } = biases;
                json!({ "qkv": qkv, "attention_output": attention_output, "ffn": ffn, "head": head })
            }),
            tie_word_embeddings: config.tied.then_some(true),
            dropout: dropout.attention,
            embedding_dropout: share(dropout.embedding, 0.0),
            attention_output_dropout: share(dropout.attention_output, 0.0),
            ffn_output_dropout: share(dropout.ffn_output, dropout.attention),
        }
    }
}

/// Takes the keys of the family.
pub(super) fn config(fields: &mut Keyed) -> Checked<Config> {
    let hidden_size = fields.required("hidden_size")?;
    let heads = fields.required("num_attention_heads")?;
    let activation = fields.activation("hidden_act")?.ok_or_else(|| fields.missing("hidden_act"))?;
    let epsilon = fields.epsilon("layer_norm_eps")?.ok_or_else(|| fields.missing("layer_norm_eps"))?;
    let dropout = fields.share("dropout")?.ok_or_else(|| fields.missing("dropout"))? as f32;
    let ffn_output = fields.dropout("ffn_output_dropout", dropout)?;
    let head_size = match fields.extent("head_dim")? {
        Some(size) => size,
        None => head_size(hidden_size, heads, ["hidden_size", "num_attention_heads"])?,
    };
    Ok(Config {
        family: Family::Graftling,
        vocab_size: fields.required("vocab_size")?,
        context: fields.required("max_position_embeddings")?,
        hidden_size,
        layers: fields.required("num_hidden_layers")?,
        heads,
        key_value_heads: fields.extent("num_key_value_heads")?.unwrap_or(heads),
        head_size,
        intermediate_size: fields.required("intermediate_size")?,
        activation,
        gated: fields.flag("gated")?.unwrap_or(false),
        norm: one_of(fields, "norm", [("layer_norm", NormKind::LayerNorm), ("rms_norm", NormKind::RmsNorm)])?,
        norm_first: fields.flag("norm_first")?.unwrap_or(false),
        epsilon,
        positions: positions(fields, head_size)?,
        head_norm: fields.flag("head_norm")?.unwrap_or(false),
        biases: biases(fields)?,
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        dropout: BaseDropout {
            embedding: fields.dropout("embedding_dropout", 0.0)?,
            attention: dropout,
            attention_output: fields.dropout("attention_output_dropout", 0.0)?,
            ffn_output,
            head: ffn_output,
        },
        encoder: None,
    })
}

/// One of two words, of which the first is the default.
fn one_of<T>(fields: &mut Keyed, key: &str, [(usual, first), (other, second)]: [(&str, T); 2]) -> Checked<T> {
    match fields.text(key)? {
        None => Ok(first),
        Some(word) if word == usual => Ok(first),
        Some(word) if word == other => Ok(second),
        Some(word) => Err(format!("has {key} = \"{}\", expected {usual} or {other}; correct it", shown(&word))),
    }
}

fn positions(fields: &mut Keyed, head_size: u32) -> Checked<Positions> {
    if !one_of(fields, "positions", [("learned", false), ("rotary", true)])? {
        return Ok(Positions::Learned);
    }
    let pairs = one_of(fields, "rope_pairs", [("halves", RopePairs::Halves), ("adjacent", RopePairs::Adjacent)])?;
    let factors = factors(fields, head_size as usize / 2)?;
    let Positions::Rotary { theta, scaling, .. } = rotary(fields)? else { return Ok(Positions::Learned) };
    match (factors, scaling) {
        (None, scaling) => Ok(Positions::Rotary { theta, scaling, pairs }),
        (Some(factors), RopeScaling::None) => Ok(Positions::Rotary { theta, scaling: RopeScaling::Factors(factors), pairs }),
        (Some(_), _) => Err("has both rope_scaling and rope_factors; remove one of them".into()),
    }
}

fn factors(fields: &mut Keyed, pairs: usize) -> Checked<Option<Vec<f32>>> {
    let Some(value) = fields.take("rope_factors") else { return Ok(None) };
    let number = |value: &Value| value.as_f64().map(|n| n as f32).filter(|n| n.is_finite() && *n > 0.0);
    let factors = value.as_array().filter(|list| list.len() == pairs).and_then(|list| list.iter().map(number).collect());
    factors.map(Some).ok_or_else(|| wrong("rope_factors", &value, &format!("a list of {pairs} numbers above 0")))
}

fn biases(fields: &mut Keyed) -> Checked<Biases> {
    let Some(value) = fields.take("biases") else { return Ok(BIASES) };
    let mut fields = Keyed::json("biases", value)?;
    let biases = Biases {
        qkv: fields.flag("qkv")?.unwrap_or(true),
        attention_output: fields.flag("attention_output")?.unwrap_or(true),
        ffn: fields.flag("ffn")?.unwrap_or(true),
        head: fields.flag("head")?.unwrap_or(true),
    };
    fields.finish(|_| false)?;
    Ok(biases)
}

impl Config {
    /// A small post-norm GPT with the usual proportions: a head size of 32 and a feed-forward layer four times as wide as `hidden_size`.
    pub fn gpt(vocab_size: u32, context: u32, hidden_size: u32, layers: u32) -> Config {
        let heads = (hidden_size / 32).max(1);
        Config {
            family: Family::Graftling,
            vocab_size,
            context,
            hidden_size,
            layers,
            heads,
            key_value_heads: heads,
            head_size: hidden_size / heads,
            intermediate_size: hidden_size * 4,
            activation: Activation::Gelu,
            gated: false,
            norm: NormKind::LayerNorm,
            norm_first: false,
            epsilon: 1e-5,
            positions: Positions::Learned,
            head_norm: false,
            biases: BIASES,
            tied: false,
            dropout: BaseDropout { attention: 0.1, ffn_output: 0.1, head: 0.1, ..BaseDropout::default() },
            encoder: None,
        }
    }

    /// The `config.json` of the Graftling family, which [`Config::read`] reads.
    ///
    /// # Panics
    /// If the model is of another family.
    pub fn to_json(&self) -> String {
        assert_eq!(self.family, Family::Graftling, "only configs of the Graftling family are written");
        serde_json::to_string_pretty(&File::new(self)).expect("a config serialises") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// A random config that the decoder supports.
    fn any(random: &mut Random) -> Config {
        let mut flag = || random.below(2) == 1;
        let biases = Biases { qkv: flag(), attention_output: flag(), ffn: flag(), head: flag() };
        let (gated, norm_first, head_norm, tied, rotary, rms, adjacent) = (flag(), flag(), flag(), flag(), flag(), flag(), flag());
        let head_size = 4 * (1 + random.below(32) as u32);
        let scaling = match random.below(4) {
            0 => RopeScaling::Factors((0..head_size / 2).map(|_| 0.1 + 9.0 * random.uniform() as f32).collect()),
            1 => RopeScaling::None,
            2 => RopeScaling::Linear(1.0 + random.uniform() * 9.0),
            _ => RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192.0 },
        };
        let pairs = if adjacent { RopePairs::Adjacent } else { RopePairs::Halves };
        let key_value_heads = 1 + random.below(3) as u32;
        let mut share = || if random.below(2) == 0 { 0.0 } else { random.uniform() as f32 };
        let (embedding, attention, attention_output, ffn_output) = (share(), share(), share(), share());
        let dropout = BaseDropout { embedding, attention, attention_output, ffn_output, head: ffn_output };
        let mut size = |most: u64| 1 + random.below(most) as u32;
        Config {
            vocab_size: size(100_000),
            context: size(5000),
            hidden_size: 4 * size(500),
            layers: size(40),
            heads: key_value_heads * size(4),
            key_value_heads,
            head_size,
            intermediate_size: size(4000),
            activation: Activation::ALL[random.below(Activation::ALL.len() as u64) as usize].0,
            gated,
            norm: if rms { NormKind::RmsNorm } else { NormKind::LayerNorm },
            norm_first,
            epsilon: 10f32.powf(-2.0 - 8.0 * random.uniform() as f32),
            positions: if rotary { Positions::Rotary { theta: 1.0 + 1e6 * random.uniform(), scaling, pairs } } else { Positions::Learned },
            head_norm,
            biases,
            tied,
            dropout,
            ..Config::gpt(256, 128, 128, 4)
        }
    }

    #[test]
    fn every_config_comes_back() {
        let mut random = Random::new(7, 0);
        for _ in 0..500 {
            let config = any(&mut random);
            let json = config.to_json();
            assert_eq!(Config::from_json(&json).as_ref(), Ok(&config), "{json}");
        }
    }

    #[test]
    fn the_base_is_written_as_it_is() {
        let text = include_str!("../../../assets/base/config.json");
        let config = Config::from_json(text).expect("a config");
        let gpt = Config::gpt(256, 128, 128, 4);
        assert_eq!(config, Config { dropout: BaseDropout::default(), ..gpt });
        let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(value(&config.to_json()), value(text));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good: Value = serde_json::from_str(&Config::gpt(256, 128, 128, 4).to_json()).expect("JSON");
        let cases = [
            ("norm", json!("batch_norm"), "has norm = \"batch_norm\", expected layer_norm or rms_norm; correct it"),
            ("positions", json!("alibi"), "has positions = \"alibi\", expected learned or rotary; correct it"),
            ("rope_theta", json!(1e4), "has an unknown key rope_theta = 10000.0, which may change"),
            ("gated", json!(1), "has gated = 1, expected true or false"),
            ("biases", json!({ "mlp": false }), "has an unknown key biases.mlp = false, which may change"),
            ("num_key_value_heads", json!(3), "4 heads cannot be divided evenly among 3 key and value heads"),
            ("head_dim", json!(6), "a head size of 6 is not supported"),
            ("ffn_output_dropout", json!(1), "has ffn_output_dropout = 1, expected a number from 0 to below 1"),
            ("hidden_act", Value::Null, "has no hidden_act"),
        ];
        for (key, value, sentence) in cases {
            let mut json = good.clone();
            json[key] = value;
            let problem = Config::from_json(&json.to_string()).expect_err(key);
            assert!(problem.starts_with(sentence), "{problem}");
        }
    }
}
