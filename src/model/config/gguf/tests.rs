//! Good and bad files of metadata and tensors.

use std::path::Path;

use super::*;
use crate::weights::gguf::build::{self, ARRAY, F32, STRING, U32};

const BOOL: u32 = 7;

/// A file's metadata entries and its tensors, whose axes are in the file's order.
#[derive(Clone)]
struct Model {
    entries: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, Vec<f32>)>,
}

impl Model {
    /// Two blocks of width 32 in 4 heads of 8.
    fn new(architecture: &str) -> Model {
        let mut model = Model { entries: vec![], tensors: vec![] };
        model.set("general.architecture", STRING, &build::text(architecture));
        let norm = if architecture == "gpt2" { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
        model.set(&format!("{architecture}.{norm}"), F32, &1e-5_f32.to_le_bytes());
        let sizes = [
            ("context_length", 64),
            ("embedding_length", 32),
            ("block_count", 2),
            ("feed_forward_length", 48),
            ("attention.head_count", 4),
        ];
        for (key, size) in sizes {
            model.set(&format!("{architecture}.{key}"), U32, &u32::to_le_bytes(size));
        }
        model.add("token_embd.weight", &[32, 10]);
        model.add("output_norm.weight", &[32]);
        if architecture == "gpt2" {
            model.add("position_embd.weight", &[32, 64]);
            model.add("output_norm.bias", &[32]);
        }
        let parts: &[&str] = if architecture == "gpt2" { &GPT2 } else { &LLAMA };
        for (block, part) in (0..2).flat_map(|block| parts.iter().map(move |part| (block, part))) {
            model.add(&format!("blk.{block}.{part}.weight"), &[1]);
            if architecture == "gpt2" || architecture == "qwen2" && ["attn_q", "attn_k", "attn_v"].contains(part) {
                model.add(&format!("blk.{block}.{part}.bias"), &[1]);
            }
        }
        model
    }

    fn set(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.entries.retain(|(other, ..)| other != key);
        self.entries.push((key.into(), kind, value.into()));
    }

    fn add(&mut self, name: &str, axes: &[u64]) {
        self.tensors.retain(|(other, ..)| other != name);
        self.tensors.push((name.into(), axes.into(), vec![0.0; axes.iter().product::<u64>() as usize]));
    }

    fn with(&self, key: &str, kind: u32, value: &[u8]) -> Model {
        let mut model = self.clone();
        model.set(key, kind, value);
        model
    }

    fn without(&self, key: &str) -> Model {
        let mut model = self.clone();
        model.entries.retain(|(other, ..)| other != key);
        model.tensors.retain(|(other, ..)| other != key);
        model
    }

    fn tensor(&self, name: &str, values: &[f32]) -> Model {
        let mut model = self.clone();
        model.tensors.push((name.into(), vec![values.len() as u64], values.into()));
        model
    }

    fn config(&self) -> Result<Config> {
        let entries: Vec<_> = self.entries.iter().map(|(key, kind, value)| build::entry(key, *kind, value)).collect();
        let (mut tensors, mut data) = (vec![], vec![]);
        for (name, axes, values) in &self.tensors {
            data.resize(data.len().next_multiple_of(32), 0);
            tensors.push(build::described(name, axes, 0, data.len() as u64));
            data.extend(bytemuck::cast_slice(values));
        }
        let file = [build::file(&entries, &tensors, 0), data].concat();
        Config::from_gguf(&Gguf::from_bytes(Path::new("some.gguf"), file).unwrap_or_else(|e| panic!("{e}")))
    }
}

#[test]
fn each_architecture_is_read() {
    let llama = Model::new("llama");
    let config = Config {
        family: Family::Llama,
        vocab_size: 10,
        context: 64,
        hidden_size: 32,
        layers: 2,
        heads: 4,
        key_value_heads: 4,
        head_size: 8,
        intermediate_size: 48,
        activation: Activation::Silu,
        gated: true,
        norm: NormKind::RmsNorm,
        norm_first: true,
        epsilon: 1e-5,
        positions: Positions::Rotary { theta: 10000.0, scaling: RopeScaling::None, pairs: RopePairs::Adjacent },
        head_norm: false,
        biases: Biases::default(),
        tied: true,
        dropout: BaseDropout::default(),
        encoder: None,
    };
    assert_eq!(llama.config().expect("a config"), config);

    let halves = Positions::Rotary { theta: 10000.0, scaling: RopeScaling::None, pairs: RopePairs::Halves };
    let qkv = Biases { qkv: true, ..Biases::default() };
    let qwen2 = Config { family: Family::Qwen2, positions: halves.clone(), biases: qkv, ..config.clone() };
    assert_eq!(Model::new("qwen2").config().expect("a config"), qwen2);

    let mut qwen3 = Model::new("qwen3");
    for name in ["blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight", "output.weight"] {
        qwen3.add(name, &[16]);
    }
    for (key, size) in [("key_length", 16_u32), ("value_length", 16), ("head_count_kv", 2)] {
        qwen3.set(&format!("qwen3.attention.{key}"), U32, &size.to_le_bytes());
    }
    let expected = Config {
        family: Family::Qwen3,
        key_value_heads: 2,
        head_size: 16,
        positions: halves,
        head_norm: true,
        tied: false,
        ..config.clone()
    };
    assert_eq!(qwen3.config().expect("a config"), expected);

    let gpt2 = Config {
        family: Family::Gpt2,
        activation: Activation::GeluNew,
        gated: false,
        norm: NormKind::LayerNorm,
        positions: Positions::Learned,
        biases: Biases { qkv: true, attention_output: true, ffn: true, head: false },
        ..config
    };
    assert_eq!(Model::new("gpt2").config().expect("a config"), gpt2);
}

#[test]
fn rotary_positions_and_biases_are_what_the_file_says() {
    let llama = Model::new("llama");
    let rotary = |model: &Model| match model.config().expect("a config").positions {
        Positions::Rotary { theta, scaling, .. } => (theta, scaling),
        Positions::Learned => panic!("not a llama"),
    };
    let four = llama.with("llama.rope.scaling.factor", F32, &4_f32.to_le_bytes());
    let factors = llama.tensor("rope_freqs.weight", &[1.0, 1.0, 2.0, 8.0]);
    assert_eq!(rotary(&four), (10000.0, RopeScaling::Linear(4.0)));
    assert_eq!(rotary(&four.with("llama.rope.scaling.type", STRING, &build::text("linear"))).1, RopeScaling::Linear(4.0));
    assert_eq!(rotary(&four.with("llama.rope.scaling.type", STRING, &build::text("none"))).1, RopeScaling::None);
    assert_eq!(rotary(&llama.with("llama.rope.scaling.factor", F32, &[0; 4])).1, RopeScaling::None);
    assert_eq!(rotary(&llama.with("llama.rope.scale_linear", F32, &2_f32.to_le_bytes())).1, RopeScaling::Linear(2.0));
    assert_eq!(rotary(&llama.with("llama.rope.freq_base", F32, &5e5_f32.to_le_bytes())).0, 5e5);
    assert_eq!(rotary(&factors).1, RopeScaling::Factors(vec![1.0, 1.0, 2.0, 8.0]));
    let both = factors.with("llama.rope.scaling.factor", F32, &4_f32.to_le_bytes());
    assert_eq!(rotary(&both).1, RopeScaling::Factors(vec![4.0, 4.0, 8.0, 32.0]));

    for (name, biases) in [
        ("blk.1.attn_k.bias", Biases { qkv: true, ..Biases::default() }),
        ("blk.0.attn_output.bias", Biases { attention_output: true, ..Biases::default() }),
        ("blk.1.ffn_gate.bias", Biases { ffn: true, ..Biases::default() }),
    ] {
        assert_eq!(llama.tensor(name, &[0.0]).config().expect("a config").biases, biases, "{name}");
    }
    // Features that are off do no harm.
    let off =
        [("llama.expert_count", U32, &[0; 4][..]), ("llama.use_parallel_residual", BOOL, &[0]), ("llama.attention.causal", BOOL, &[1])];
    for (key, kind, value) in off {
        llama.with(key, kind, value).config().unwrap_or_else(|e| panic!("{key}: {e}"));
    }
    llama.with("llama.attention.sliding_window", U32, &64_u32.to_le_bytes()).config().expect("the whole context");
}

#[test]
fn bad_files_are_errors_that_name_what_is_wrong() {
    let llama = Model::new("llama");
    let word = |key: &str, value: u32| llama.with(&format!("llama.{key}"), U32, &value.to_le_bytes());
    let float = |key: &str, value: f32| llama.with(&format!("llama.{key}"), F32, &value.to_le_bytes());
    let signed = |key: &str, value: i32| llama.with(&format!("llama.{key}"), 5, &value.to_le_bytes());
    let string = |key: &str, value: &str| llama.with(key, STRING, &build::text(value));
    let list = [&U32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[4, 0, 0, 0, 4, 0, 0, 0]].concat();
    let embedding = |axes: &[u64]| {
        let mut model = llama.clone();
        model.add("token_embd.weight", axes);
        model
    };
    let factors = |values: &[f32]| llama.tensor("rope_freqs.weight", values);
    let cases: Vec<(&str, Model, &str)> = vec![
        ("no architecture", llama.without("general.architecture"), "no key 'general.architecture'"),
        ("architecture mamba", string("general.architecture", "mamba"), "architecture 'mamba', which is not supported; gpt2, llama"),
        ("architecture of control characters", string("general.architecture", "\x1b[2J"), "'\\u{1b}[2J'"),
        ("architecture 3", llama.with("general.architecture", U32, &[3; 4]), "'general.architecture' is the integer"),
        // Sizes.
        ("no context", llama.without("llama.context_length"), "no key 'llama.context_length'"),
        ("context 0", word("context_length", 0), "'llama.context_length' is 0, expected 1 to"),
        ("context 2^32 - 1", word("context_length", u32::MAX), "'llama.context_length' is 4294967295"),
        ("context -1", signed("context_length", -1), "'llama.context_length' is the integer -1"),
        ("context 64.0", float("context_length", 64.0), "'llama.context_length' is the number 64"),
        ("context 2^40", llama.with("llama.context_length", 10, &(1_u64 << 40).to_le_bytes()), "is the integer 1099511627776"),
        ("no width", llama.without("llama.embedding_length"), "no key 'llama.embedding_length'"),
        ("another width", word("embedding_length", 64), "'token_embd.weight' has the shape (10, 32), expected at most 16777216 rows of 64"),
        ("blocks 0", word("block_count", 0), "'llama.block_count' is 0"),
        ("fewer blocks", word("block_count", 1), "a tensor 'blk.1.attn_k.weight', which a llama model with 1 blocks"),
        ("5000 blocks", word("block_count", 5000), "5000 layers"),
        ("heads 0", word("attention.head_count", 0), "'llama.attention.head_count' is 0"),
        ("heads 5", word("attention.head_count", 5), "'llama.embedding_length' is 32, not a multiple of 'llama.attention.head_count', 5"),
        ("heads of 2", word("attention.head_count", 16), "a head size of 2 is"),
        ("heads by block", llama.with("llama.attention.head_count", ARRAY, &list), "'llama.attention.head_count' is an array"),
        ("3 key heads", word("attention.head_count_kv", 3), "4 heads cannot be divided evenly among 3"),
        ("key heads 0", word("attention.head_count_kv", 0), "'llama.attention.head_count_kv' is 0"),
        ("widths by block", llama.with("llama.feed_forward_length", ARRAY, &list), "'llama.feed_forward_length' is an array"),
        ("heads of 512", word("attention.key_length", 512), "a head size of 512"),
        ("other values", word("attention.value_length", 16), "'llama.attention.value_length' is 16, but only the head size, 8"),
        ("part of a head", word("rope.dimension_count", 4), "'llama.rope.dimension_count' is 4"),
        // Numbers.
        ("no epsilon", llama.without("llama.attention.layer_norm_rms_epsilon"), "no key 'llama.attention.layer_norm_rms_epsilon'"),
        ("epsilon 0", float("attention.layer_norm_rms_epsilon", 0.0), "the norms' epsilon is 0;"),
        ("epsilon 2", float("attention.layer_norm_rms_epsilon", 2.0), "the norms' epsilon is 2;"),
        ("epsilon NaN", float("attention.layer_norm_rms_epsilon", f32::NAN), "'llama.attention.layer_norm_rms_epsilon' is the number NaN"),
        ("base -1", float("rope.freq_base", -1.0), "'llama.rope.freq_base' is -1"),
        ("base infinity", float("rope.freq_base", f32::INFINITY), "'llama.rope.freq_base' is the number inf"),
        ("base 10000", word("rope.freq_base", 10000), "'llama.rope.freq_base' is the integer 10000, expected a finite"),
        ("factor -2", float("rope.scaling.factor", -2.0), "'llama.rope.scaling.factor' is -2"),
        ("factor NaN", float("rope.scaling.factor", f32::NAN), "'llama.rope.scaling.factor' is the number NaN"),
        ("yarn", string("llama.rope.scaling.type", "yarn"), "'llama.rope.scaling.type' is 'yarn', which is not supported; none and linear"),
        ("3 factors", factors(&[1.0; 3]), "'rope_freqs.weight' has the shape (3)"),
        ("factor 0 of 4", factors(&[1.0, 1.0, 0.0, 1.0]), "'rope_freqs.weight' has the factor 0"),
        ("factors NaN", factors(&[1.0, 1.0, 1.0, f32::NAN]), "'rope_freqs.weight' has a number that is not finite"),
        // Features that would change the output.
        ("experts", word("expert_count", 8), "'llama.expert_count' is the integer 8"),
        ("a window", word("attention.sliding_window", 32), "'llama.attention.sliding_window' is 32"),
        ("not causal", llama.with("llama.attention.causal", BOOL, &[0]), "'llama.attention.causal' is false"),
        ("a scale", float("logit_scale", 0.5), "'llama.logit_scale' is the number 0.5"),
        ("yarn's factor", float("rope.scaling.attn_factor", 1.5), "'llama.rope.scaling.attn_factor'"),
        ("a list", llama.with("llama.rope.dimension_sections", ARRAY, &list), "'llama.rope.dimension_sections' is an array"),
        ("head norms", llama.tensor("blk.0.attn_q_norm.weight", &[1.0]), "a tensor 'blk.0.attn_q_norm.weight'"),
        ("a norm with a bias", llama.tensor("blk.0.attn_norm.bias", &[1.0]), "a tensor 'blk.0.attn_norm.bias'"),
        ("long factors", llama.tensor("rope_factors_long.weight", &[1.0]), "a tensor 'rope_factors_long.weight'"),
        ("a fused tensor", llama.tensor("blk.0.attn_qkv.weight", &[1.0]), "a tensor 'blk.0.attn_qkv.weight'"),
        ("learned positions", llama.tensor("position_embd.weight", &[1.0]), "a tensor 'position_embd.weight'"),
        ("a block without a number", llama.tensor("blk.x.attn_q.weight", &[1.0]), "a tensor 'blk.x.attn_q.weight'"),
        ("control characters", llama.tensor("\x1b[2J", &[1.0]), "a tensor '\\u{1b}[2J'"),
        ("no embedding", llama.without("token_embd.weight"), "no tensor 'token_embd.weight'"),
        ("an embedding of one axis", embedding(&[32]), "'token_embd.weight' has the shape (32)"),
        ("an embedding of three axes", embedding(&[32, 2, 5]), "'token_embd.weight' has the shape (5, 2, 32)"),
    ];
    for (what, model, expected) in cases {
        let Err(error) = model.config() else { panic!("{what} is accepted") };
        let message = error.to_string();
        assert!(message.starts_with("some.gguf: ") && message.contains(expected), "{what}: {message}");
        assert!(!message.contains('\n') && message.len() < 300 && error.exit_code() == 3, "{what}: {message}");
    }
}
