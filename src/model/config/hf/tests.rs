//! Configs of current models, and messages about bad ones.

use serde_json::json;

use super::super::Encoder;
use super::*;
use crate::ops::{RopePairs, RopeScaling};

fn read(json: &Value) -> Checked<Config> {
    Config::from_json(&json.to_string())
}

/// `json` with one key set to another value; `outer.inner` names a key of an inner object.
fn with(json: &Value, key: &str, value: &Value) -> Value {
    let mut json = json.clone();
    match key.split_once('.') {
        Some((outer, inner)) => json[outer][inner] = value.clone(),
        None => json[key] = value.clone(),
    }
    json
}

/// Sets each key to a bad value and looks for words in the message.
fn check_bad(good: &Value, cases: &[(&str, Value, &[&str])]) {
    read(good).expect("a good config");
    for (key, value, words) in cases {
        let Err(problem) = read(&with(good, key, value)) else { panic!("{key} = {value} is accepted") };
        for word in *words {
            assert!(problem.contains(word), "{key} = {value}: '{problem}' does not say '{word}'");
        }
        assert!(!problem.contains('\n') && problem.len() < 400, "{key}: {problem}");
    }
}

fn gpt2() -> Value {
    json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1,
        "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768,
        "n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
        "task_specific_params": { "text-generation": { "do_sample": true, "max_length": 50 } }, "vocab_size": 50257
    })
}

fn smollm2() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664, "intermediate_size": 1536,
        "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-5,
        "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers.js_config": { "kv_cache_dtype": { "q4f16": "float16" } }, "transformers_version": "4.42.3", "use_cache": true,
        "vocab_size": 49152
    })
}

fn llama3() -> Value {
    let scaling = json!({
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"
    });
    let sizes = json!({
        "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "rope_theta": 500000.0, "vocab_size": 128256, "head_dim": 64, "rope_scaling": scaling
    });
    let mut json = smollm2();
    json.as_object_mut().expect("an object").extend(sizes.as_object().expect("an object").clone());
    json
}

fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu",
        "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
        "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1", "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936
    })
}

/// As written by version 5 of the library.
fn qwen3() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643, "dtype": "bfloat16",
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
        "intermediate_size": 3072, "layer_types": vec!["full_attention"; 28], "max_position_embeddings": 40960, "max_window_layers": 28,
        "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "pad_token_id": null,
        "rms_norm_eps": 1e-6, "rope_parameters": { "rope_theta": 1000000, "rope_type": "default" }, "sliding_window": null,
        "tie_word_embeddings": true, "transformers_version": "5.0.0", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
    })
}

fn rotary(theta: f64, scaling: RopeScaling) -> Positions {
    Positions::Rotary { theta, scaling, pairs: RopePairs::Halves }
}

const LLAMA3: RopeScaling = RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192.0 };

#[test]
fn configs_of_today_are_read() {
    let smollm2_config = Config {
        family: Family::Llama,
        vocab_size: 49152,
        context: 8192,
        hidden_size: 576,
        layers: 30,
        heads: 9,
        key_value_heads: 3,
        head_size: 64,
        intermediate_size: 1536,
        activation: Activation::Silu,
        gated: true,
        norm: NormKind::RmsNorm,
        norm_first: true,
        epsilon: 1e-5,
        positions: rotary(100000.0, RopeScaling::None),
        head_norm: false,
        biases: Biases::default(),
        tied: true,
        dropout: BaseDropout::default(),
        encoder: None,
    };
    assert_eq!(read(&smollm2()), Ok(smollm2_config.clone()));
    let config = Config {
        vocab_size: 128256,
        context: 131072,
        hidden_size: 2048,
        layers: 16,
        heads: 32,
        key_value_heads: 8,
        intermediate_size: 8192,
        positions: rotary(500000.0, LLAMA3),
        ..smollm2_config.clone()
    };
    assert_eq!(read(&llama3()), Ok(config));
    let config = Config {
        family: Family::Qwen2,
        vocab_size: 151936,
        context: 32768,
        hidden_size: 896,
        layers: 24,
        heads: 14,
        key_value_heads: 2,
        intermediate_size: 4864,
        epsilon: 1e-6,
        positions: rotary(1e6, RopeScaling::None),
        biases: Biases { qkv: true, ..Biases::default() },
        ..smollm2_config.clone()
    };
    assert_eq!(read(&qwen2()), Ok(config.clone()));
    let config = Config {
        family: Family::Qwen3,
        context: 40960,
        hidden_size: 1024,
        layers: 28,
        heads: 16,
        key_value_heads: 8,
        head_size: 128,
        intermediate_size: 3072,
        head_norm: true,
        biases: Biases::default(),
        ..config
    };
    assert_eq!(read(&qwen3()), Ok(config));
    let config = Config {
        family: Family::Gpt2,
        vocab_size: 50257,
        context: 1024,
        hidden_size: 768,
        layers: 12,
        heads: 12,
        key_value_heads: 12,
        intermediate_size: 3072,
        activation: Activation::GeluNew,
        gated: false,
        norm: NormKind::LayerNorm,
        positions: Positions::Learned,
        biases: Biases { qkv: true, attention_output: true, ffn: true, head: false },
        dropout: BaseDropout::all(0.1),
        ..smollm2_config
    };
    assert_eq!(read(&gpt2()), Ok(config));
}

#[test]
fn missing_keys_stand_for_the_defaults_of_transformers() {
    let llama = read(&json!({
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 2048
    }))
    .expect("a config");
    assert_eq!((llama.key_value_heads, llama.head_size, llama.epsilon, llama.tied), (4, 16, 1e-6, false));
    assert_eq!((llama.positions, llama.biases), (rotary(10000.0, RopeScaling::None), Biases::default()));
    let sizes = json!({ "model_type": "gpt2", "vocab_size": 99, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 8 });
    let gpt2 = read(&sizes).expect("a config");
    assert_eq!((gpt2.intermediate_size, gpt2.activation, gpt2.tied), (128, Activation::GeluNew, true));
    assert_eq!((gpt2.epsilon, gpt2.dropout), (1e-5, BaseDropout::all(0.1)));
    let mut plain = qwen3();
    drop(["head_dim", "rope_parameters", "layer_types"].map(|key| plain.as_object_mut().expect("an object").remove(key)));
    let qwen3 = read(&plain).expect("a config");
    assert_eq!((qwen3.head_size, qwen3.positions), (128, rotary(10000.0, RopeScaling::None)));
}

#[test]
fn options_that_are_supported() {
    let llama = |key, value| read(&with(&smollm2(), key, &value)).unwrap_or_else(|e| panic!("{key}: {e}"));
    assert_eq!(llama("attention_bias", json!(true)).biases, Biases { qkv: true, attention_output: true, ..Biases::default() });
    assert_eq!(llama("mlp_bias", json!(true)).biases, Biases { ffn: true, ..Biases::default() });
    assert_eq!(llama("hidden_act", json!("gelu_pytorch_tanh")).activation, Activation::GeluNew);
    assert_eq!(llama("num_key_value_heads", Value::Null).key_value_heads, 9);
    assert_eq!(llama("head_dim", json!(32)).head_size, 32);
    assert_eq!(llama("attention_dropout", json!(0.25)).dropout, BaseDropout { attention: 0.25, ..BaseDropout::default() });
    for linear in [json!({ "type": "linear", "factor": 4 }), json!({ "rope_type": "linear", "type": "linear", "factor": 4.0 })] {
        assert_eq!(llama("rope_scaling", linear).positions, rotary(100000.0, RopeScaling::Linear(4.0)));
    }
    assert_eq!(llama("rope_scaling", json!({ "rope_type": "default" })).positions, rotary(100000.0, RopeScaling::None));
    let mut five = llama3();
    five["rope_parameters"] = five["rope_scaling"].take();
    five["rope_parameters"]["rope_theta"] = five["rope_theta"].take();
    assert_eq!(read(&five), read(&llama3()));
    for json in [with(&qwen2(), "use_sliding_window", &json!(true)), with(&qwen3(), "layer_types", &Value::Null)] {
        read(&json).expect("no layer slides");
    }
    let bias = read(&with(&qwen3(), "attention_bias", &json!(true))).expect("a config");
    assert_eq!(bias.biases, Biases { qkv: true, attention_output: true, ..Biases::default() });
}

#[test]
fn bad_configs_of_gpt2() {
    check_bad(
        &gpt2(),
        &[
            ("n_embd", json!(null), &["no n_embd"]),
            ("n_embd", json!(0), &["n_embd = 0", "from 1 to"]),
            ("n_embd", json!(-768), &["n_embd = -768"]),
            ("n_embd", json!(768.5), &["n_embd = 768.5"]),
            ("n_embd", json!("768"), &["n_embd = \"768\""]),
            ("n_embd", json!(1u64 << 33), &["n_embd = 8589934592"]),
            ("n_embd", json!(1e30), &["n_embd = 1e+30"]),
            ("n_embd", json!(770), &["n_embd = 770", "n_head = 12"]),
            ("n_embd", json!(792), &["a head size of 66", "multiple of 4"]),
            ("n_head", json!(2), &["a head size of 384"]),
            ("n_layer", json!([12]), &["n_layer = a list"]),
            ("n_layer", json!(5000), &["5000 layers"]),
            ("n_positions", json!({}), &["n_positions = an object"]),
            ("vocab_size", json!(16777217), &["vocab_size = 16777217"]),
            ("n_inner", json!(0), &["n_inner = 0"]),
            ("activation_function", json!("relu6"), &["activation_function = \"relu6\"", "gelu_new"]),
            ("activation_function", json!(1), &["activation_function = 1"]),
            ("layer_norm_epsilon", json!(0), &["layer_norm_epsilon = 0"]),
            ("layer_norm_epsilon", json!(-1e-5), &["layer_norm_epsilon = -"]),
            ("layer_norm_epsilon", json!(1e-60), &["layer_norm_epsilon"]),
            ("attn_pdrop", json!(1.0), &["attn_pdrop = 1.0"]),
            ("embd_pdrop", json!(-0.1), &["embd_pdrop = -0.1"]),
            ("resid_pdrop", json!(0.9999999999), &["resid_pdrop"]),
            ("scale_attn_weights", json!(false), &["scale_attn_weights = false", "only true"]),
            ("scale_attn_by_inverse_layer_idx", json!(true), &["scale_attn_by_inverse_layer_idx = true"]),
            ("add_cross_attention", json!(true), &["add_cross_attention = true"]),
            ("is_encoder_decoder", json!(true), &["is_encoder_decoder = true"]),
            ("pruned_heads", json!({ "0": [1] }), &["pruned_heads = an object"]),
            ("tie_word_embeddings", json!("yes"), &["tie_word_embeddings = \"yes\""]),
            ("quantization_config", json!({ "bits": 4 }), &["quantization_config", "GGUF"]),
            ("rope_theta", json!(10000), &["unknown key rope_theta = 10000"]),
            ("alibi\n", json!(true), &["alibi\\n = true"]),
            ("model_type", json!("mamba"), &["model_type = \"mamba\"", "gpt2, llama, qwen2, qwen3, bert"]),
            ("model_type", json!(null), &["no model_type"]),
        ],
    );
}

#[test]
fn bad_configs_of_llama() {
    check_bad(
        &llama3(),
        &[
            ("num_attention_heads", json!(0), &["num_attention_heads = 0"]),
            ("num_key_value_heads", json!(5), &["32 heads", "5 key and value heads"]),
            ("num_key_value_heads", json!(64), &["64 key and value heads"]),
            ("head_dim", json!(6), &["a head size of 6"]),
            ("head_dim", json!(512), &["a head size of 512"]),
            ("head_dim", json!(-64), &["head_dim = -64"]),
            ("hidden_act", json!("xielu"), &["hidden_act = \"xielu\""]),
            ("attention_bias", json!(1), &["attention_bias = 1"]),
            ("mlp_bias", json!("false"), &["mlp_bias = \"false\""]),
            ("rms_norm_eps", json!("1e-5"), &["rms_norm_eps = \"1e-5\""]),
            ("attention_dropout", json!(2), &["attention_dropout = 2"]),
            ("rope_theta", json!(0), &["rope_theta = 0"]),
            ("rope_theta", json!(-1), &["rope_theta = -1"]),
            ("rope_theta", json!(1e300), &["rope_theta = 1e+300"]),
            ("rope_theta", json!("10000"), &["rope_theta = \"10000\""]),
            ("rope_scaling", json!("linear"), &["rope_scaling = \"linear\"", "an object"]),
            ("rope_scaling", json!({}), &["no rope_scaling.rope_type"]),
            ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 }), &["yarn", "default, linear and llama3"]),
            ("rope_scaling", json!({ "type": "dynamic", "factor": 4.0 }), &["dynamic"]),
            ("rope_scaling", json!({ "type": "longrope" }), &["longrope"]),
            ("rope_scaling", json!({ "type": "linear", "rope_type": "llama3" }), &["\"linear\"", "\"llama3\""]),
            ("rope_scaling", json!({ "type": "linear" }), &["no rope_scaling.factor"]),
            ("rope_scaling", json!({ "type": "linear", "factor": 0.0 }), &["rope_scaling.factor = 0.0"]),
            ("rope_scaling.factor", json!(null), &["no rope_scaling.factor"]),
            ("rope_scaling.factor", json!(-8), &["rope_scaling.factor = -8"]),
            ("rope_scaling.low_freq_factor", json!(0), &["rope_scaling.low_freq_factor = 0"]),
            ("rope_scaling.high_freq_factor", json!(1), &["high_freq_factor = 1", "larger"]),
            ("rope_scaling.original_max_position_embeddings", json!(8192.5), &["original_max_position_embeddings = 8192.5"]),
            ("rope_scaling.attention_factor", json!(1.2), &["unknown key rope_scaling.attention_factor = 1.2"]),
            ("rope_parameters", json!({ "rope_type": "default" }), &["both rope_scaling and rope_parameters"]),
            ("rope_interleaved", json!(true), &["rope_interleaved = true"]),
            ("partial_rotary_factor", json!(0.5), &["partial_rotary_factor = 0.5"]),
            ("sliding_window", json!(4096), &["unknown key sliding_window = 4096"]),
            ("num_local_experts", json!(8), &["num_local_experts = 8"]),
            ("layer_types", json!(["full_attention"]), &["layer_types = a list"]),
        ],
    );
}

#[test]
fn bad_configs_of_qwen() {
    let some_slide: Vec<&str> = (0..24).map(|i| if i < 20 { "full_attention" } else { "sliding_attention" }).collect();
    let sliding = with(&qwen2(), "use_sliding_window", &json!(true));
    check_bad(
        &sliding,
        &[
            ("max_window_layers", json!(-1), &["max_window_layers = -1"]),
            ("sliding_window", json!("wide"), &["sliding_window = \"wide\""]),
            ("use_sliding_window", json!("true"), &["use_sliding_window = \"true\""]),
            ("layer_types", json!(["full_attention"]), &["layer_types = a list", "a list of 24"]),
            ("layer_types", json!(vec!["chunked_attention"; 24]), &["chunked_attention"]),
            ("layer_types", json!(vec![1; 24]), &["1 in its layer_types"]),
            ("layer_types", json!("full_attention"), &["layer_types = \"full_attention\""]),
            ("use_mrope", json!(true), &["use_mrope = true"]),
            ("attention_bias", json!(false), &["unknown key attention_bias = false"]),
            ("mlp_bias", json!(true), &["unknown key mlp_bias = true"]),
        ],
    );
    let narrow = with(&with(&sliding, "sliding_window", &json!(4096)), "max_window_layers", &json!(24));
    check_bad(
        &narrow,
        &[("max_window_layers", json!(20), &["sliding_window of 4096"]), ("layer_types", json!(some_slide), &["sliding_window of 4096"])],
    );
    check_bad(
        &qwen3(),
        &[
            ("rope_parameters.rope_theta", json!(0.5), &["rope_parameters.rope_theta = 0.5"]),
            ("rope_parameters.rope_type", json!("yarn"), &["yarn"]),
            ("rope_parameters.partial_rotary_factor", json!(0.25), &["rope_parameters.partial_rotary_factor = 0.25"]),
            ("rope_parameters.full_attention", json!({}), &["rope_parameters.full_attention = an object"]),
            ("rope_theta", json!(10000), &["two different values of rope_theta"]),
            ("mlp_bias", json!(false), &["mlp_bias"]),
            ("num_experts", json!(128), &["num_experts = 128"]),
        ],
    );
}

#[test]
fn bad_configs_of_the_small_gpt() {
    let config = Config::gpt(256, 16, 64, 2);
    assert_eq!(Config::from_json(&config.to_json()), Ok(config.clone()));
    let good: Value = serde_json::from_str(&config.to_json()).expect("JSON");
    check_bad(
        &good,
        &[
            ("vocab_size", json!(0), &["vocab_size = 0"]),
            ("num_hidden_layers", json!(1u64 << 31), &["num_hidden_layers"]),
            ("num_attention_heads", json!(3), &["64, which is not a multiple"]),
            ("hidden_act", json!("relu6"), &["relu6"]),
            // Found by fuzzing: a name that was shown without escapes.
            ("hidden_act", json!("gelu\u{7f}\r"), &["hidden_act = \"gelu\\u{7f}\\r\""]),
            ("hidden_act", json!(null), &["no hidden_act"]),
            ("dropout", json!(1.0), &["dropout = 1.0"]),
            ("dropout", json!(null), &["no dropout"]),
            ("layer_norm_eps", json!(0.0), &["layer_norm_eps = 0.0"]),
            ("rope_theta", json!(10000), &["rope_theta"]),
        ],
    );
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/base/config.json");
    assert_eq!(Config::read(&base).expect("the base").layers, 4);
}

#[test]
fn what_is_no_config_at_all() {
    let texts =
        ["", "{", "[]", "null", "{\"model_type\": \"gpt2\", \"model_type\": \"llama\"}", "{\"rope_theta\": NaN}", "{\"n_embd\": 1e999}"];
    for (text, word) in texts.into_iter().zip(["JSON", "JSON", "a list", "null", "'model_type' appears twice", "JSON", "JSON"]) {
        let problem = Config::from_json(text).expect_err(text);
        assert!(problem.contains(word) && !problem.contains('\n'), "{text}: {problem}");
    }
    let message = Config::read(Path::new("/nowhere/config.json")).expect_err("nothing there").to_string();
    assert!(message.starts_with("/nowhere/config.json: cannot be read"), "{message}");
}

/// MiniLM's, a BERT of `transformers` 4.8.
fn minilm() -> Value {
    json!({
        "_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1,
        "gradient_checkpointing": false, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 384, "initializer_range": 0.02,
        "intermediate_size": 1536, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
        "num_hidden_layers": 6, "pad_token_id": 0, "position_embedding_type": "absolute", "transformers_version": "4.8.2",
        "type_vocab_size": 2, "use_cache": true, "vocab_size": 30522
    })
}

fn distilbert() -> Value {
    json!({
        "activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": 768, "dropout": 0.1,
        "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512, "model_type": "distilbert", "n_heads": 12,
        "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": false,
        "tie_weights_": true, "transformers_version": "4.10.0.dev0", "vocab_size": 30522
    })
}

#[test]
fn configs_of_encoders_are_read() {
    let bert = read(&minilm()).expect("a config");
    assert_eq!((bert.family, bert.layers, bert.heads, bert.head_size, bert.context), (Family::Bert, 6, 12, 32, 512));
    assert_eq!((bert.activation, bert.norm_first, bert.epsilon, bert.tied), (Activation::Gelu, false, 1e-12, true));
    assert_eq!(bert.biases, Biases { qkv: true, attention_output: true, ffn: true, head: true });
    assert_eq!(bert.dropout, BaseDropout::all(0.1));
    assert_eq!(bert.encoder, Some(Encoder { token_types: 2, first_position: 0, pooler: true, head: true }));

    // RoBERTa's table of positions begins with rows for padding.
    let mut roberta = with(&with(&minilm(), "model_type", &json!("roberta")), "max_position_embeddings", &json!(514));
    roberta = with(&with(&roberta, "type_vocab_size", &json!(1)), "pad_token_id", &json!(1));
    roberta = with(&with(&roberta, "classifier_dropout", &json!(0.3)), "layer_norm_eps", &json!(1e-5));
    let roberta = read(&roberta).expect("a config");
    assert_eq!((roberta.context, roberta.epsilon, roberta.dropout.head), (512, 1e-5, 0.3));
    assert_eq!(roberta.encoder, Some(Encoder { token_types: 1, first_position: 2, pooler: true, head: true }));

    let distilbert = read(&distilbert()).expect("a config");
    assert_eq!((distilbert.layers, distilbert.heads, distilbert.intermediate_size, distilbert.epsilon), (6, 12, 3072, 1e-12));
    assert_eq!(distilbert.dropout, BaseDropout { attention_output: 0.0, head: 0.2, ..BaseDropout::all(0.1) });
    assert_eq!(distilbert.encoder, Some(Encoder { token_types: 0, first_position: 0, pooler: false, head: true }));
}

#[test]
fn bad_configs_of_encoders() {
    check_bad(
        &minilm(),
        &[
            ("position_embedding_type", json!("relative_key"), &["position_embedding_type = \"relative_key\"", "\"absolute\""]),
            ("is_decoder", json!(true), &["is_decoder = true"]),
            ("add_cross_attention", json!(true), &["add_cross_attention = true"]),
            ("hidden_act", json!("celu"), &["hidden_act = \"celu\""]),
            ("hidden_size", json!(385), &["hidden_size = 385", "num_attention_heads = 12"]),
            ("num_attention_heads", json!(128), &["head size of 3 "]),
            ("num_hidden_layers", json!(null), &["no num_hidden_layers"]),
            ("embedding_size", json!(128), &["unknown key embedding_size = 128"]),
            ("type_vocab_size", json!(0), &["type_vocab_size = 0"]),
        ],
    );
    let roberta = with(&minilm(), "model_type", &json!("roberta"));
    check_bad(&roberta, &[("max_position_embeddings", json!(1), &["max_position_embeddings = 1, but the first 1 are padding's"])]);
    let cases: [(&str, Value, &[&str]); 2] =
        [("attention_dropout", json!(1), &["attention_dropout = 1"]), ("dim", json!(null), &["no dim"])];
    check_bad(&distilbert(), &cases);
}
