use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tensors::{A, B};
use super::*;
use crate::model::names::Names;
use crate::model::{AdapterConfig, Base, Biases, Config, Family, NormKind, Positions, read_adapter};
use crate::ops::{Activation, RopePairs, RopeScaling};
use crate::weights::{Gguf, Weight, Weights};

fn gpt2() -> Config {
    Config {
        family: Family::Gpt2,
        hidden_size: 8,
        intermediate_size: 24,
        heads: 2,
        key_value_heads: 2,
        head_size: 4,
        ..Config::gpt(16, 8, 24, 2)
    }
}

fn llama() -> Config {
    let positions = Positions::Rotary { theta: 10000.0, scaling: RopeScaling::None, pairs: RopePairs::Adjacent };
    let form = Config { family: Family::Llama, positions, norm: NormKind::RmsNorm, biases: Biases::default(), ..Config::gpt(16, 8, 24, 3) };
    Config {
        hidden_size: 8,
        intermediate_size: 24,
        heads: 2,
        key_value_heads: 1,
        head_size: 8,
        activation: Activation::Silu,
        gated: true,
        ..form
    }
}

fn parsed(spec: &str) -> LoraConfig {
    match AdapterConfig::parse(spec).expect(spec) {
        AdapterConfig::Lora(config) => config,
        other => panic!("{spec} is {other}"),
    }
}

/// The targets of a string on a model, without the part before the layer's number.
fn targets(spec: &str, model: &Config) -> Vec<String> {
    let short = |name: &String| name.trim_start_matches("model.layers.").trim_start_matches("transformer.h.").to_string();
    parsed(spec).targets(model).expect(spec).keys().map(short).collect()
}

#[test]
fn targets_are_those_of_peft() {
    assert_eq!(targets("lora", &gpt2()), ["0.attn.c_attn", "1.attn.c_attn"]);
    assert_eq!(targets("lora[layers=1]", &llama()), ["1.self_attn.q_proj", "1.self_attn.v_proj"]);
    assert_eq!(
        targets("lora[layers=[1],target_modules=all-linear]", &gpt2()),
        ["1.attn.c_attn", "1.attn.c_proj", "1.mlp.c_fc", "1.mlp.c_proj"]
    );
    assert_eq!(targets("lora[target_modules=[c_proj],layers=0]", &gpt2()), ["0.attn.c_proj", "0.mlp.c_proj"]);
    assert_eq!(targets("lora[target_modules=[mlp.c_proj],layers=0]", &gpt2()), ["0.mlp.c_proj"]);
    assert_eq!(targets("lora[target_modules='.*layers.[02].mlp.(up|down)_proj']", &llama()).len(), 4);
    // A regular expression matches the whole name, an entry of a list whole parts at its end.
    assert_eq!(targets("lora[target_modules='.*up_proj']", &llama()).len(), 3);
    assert_eq!(targets("lora[target_modules=all-linear,exclude_modules=[mlp.gate_proj,layers.0.mlp.up_proj]]", &llama()).len(), 21 - 4);

    let config = parsed(
        "lora[r=4,alpha=8,rslora=true,target_modules=all-linear,rank_pattern={k_proj:2,'layers.1.self_attn.q_proj':16},alpha_pattern={up_proj:12}]",
    );
    let targets = config.targets(&llama()).expect("targets");
    let of = |name: &str| {
        let target = targets[&format!("model.layers.{name}")];
        (target.rank, target.scaling, target.outputs, target.inputs)
    };
    assert_eq!(of("0.self_attn.q_proj"), (4, 4.0, 16, 8));
    assert_eq!(of("1.self_attn.q_proj"), (16, 2.0, 16, 8));
    assert_eq!(of("1.self_attn.k_proj"), (2, (8.0 / 2f64.sqrt()) as f32, 8, 8));
    assert_eq!(of("2.mlp.up_proj"), (4, 6.0, 24, 8));
    assert_eq!(of("2.mlp.down_proj"), (4, 4.0, 8, 24));
    assert_eq!(of("2.self_attn.o_proj"), (4, 4.0, 8, 16));
}

#[test]
fn strings_come_back() {
    for (spec, canonical) in [
        ("lora", "lora[r=8]"),
        (" lora[ lora_alpha = 16 , r=4, ] ", "lora[r=4,alpha=16]"),
        ("lora[dropout=0.05,use_rslora=True]", "lora[r=8,dropout=0.05,rslora=True]"),
        ("lora[target_modules=[q_proj,v_proj]]", "lora[r=8,target_modules=['q_proj','v_proj']]"),
        ("lora[target_modules=All-Linear]", "lora[r=8,target_modules='all-linear']"),
        ("lora[target_modules=[all-linear]]", "lora[r=8,target_modules='all-linear']"),
        ("lora[layers_to_transform=[0,2],rank_pattern={q_proj:2}]", "lora[r=8,layers=[0,2],rank_pattern={'q_proj': 2}]"),
        ("lora[alpha=0.1,exclude_modules=[k_proj]]", "lora[r=8,alpha=0.1,exclude_modules=['k_proj']]"),
    ] {
        let config = parsed(spec);
        assert_eq!(config.to_string(), canonical);
        assert_eq!(parsed(canonical), config, "{spec}");
    }
}

#[test]
fn what_cannot_be_is_said() {
    let said = |spec: &str, words: &str| {
        let problem = match AdapterConfig::parse(spec) {
            Ok(config) => config.check_for(&llama()).expect_err(spec),
            Err(error) => error.to_string(),
        };
        assert!(problem.contains(words), "'{problem}' does not say '{words}'");
    };
    for (spec, words) in [
        ("lora[r=0]", "r has the rank 0; it must be from 1 to 1024"),
        ("lora[r=1025]", "r has the rank 1025"),
        ("lora[r=-1]", "r is -1, but must be a whole number from 0 up"),
        ("lora[r=2.5]", "r is 2.5, but must be a whole number"),
        ("lora[rank_pattern={q_proj:0}]", "rank_pattern has the rank 0"),
        ("lora[rank_pattern=3]", "rank_pattern is 3, but must be a map such as {'q_proj': 16}"),
        ("lora[alpha=1e40]", "lora_alpha is inf; it must be a finite number"),
        ("lora[alpha=x]", "alpha is 'x', but must be a number"),
        ("lora[dropout=1]", "lora_dropout is 1; it must be from 0 to below 1"),
        ("lora[rslora=2]", "rslora is 2, but must be True or False"),
        ("lora[rank=8]", "there is no key 'rank'"),
        ("lora[alpha=1,alpha=2]", "'alpha' appears twice; remove one"),
        ("lora[r=8]|seq_bn", "'|' combines several methods"),
        ("lora[target_modules=[]]", "target_modules is empty"),
        ("lora[target_modules=[1]]", "target_modules is [1], but must be a list of modules"),
        (
            "lora[target_modules=[q_prok]]",
            "target_modules has 'q_prok', but a LoRA of this llama model can be on q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; did you mean 'q_proj'?",
        ),
        ("lora[target_modules=[lm_head]]", "target_modules has 'lm_head', but a LoRA of this llama model can be on q_proj"),
        ("lora[target_modules=[c_attn]]", "target_modules has 'c_attn'"),
        ("lora[target_modules=q_proj]", "target_modules leaves no linear layer; as a list"),
        ("lora[target_modules='(']", "target_modules has '(', which is not a regular expression"),
        ("lora[target_modules='a{1000000}']", "which is not a regular expression that Graftling supports"),
        ("lora[target_modules='.*q_proj',layers=[0]]", "layers_to_transform needs target_modules as a list"),
        ("lora[layers=[]]", "layers_to_transform is empty"),
        ("lora[layers=[3]]", "layers_to_transform has 3, but the model has 3 layers, counted from 0"),
        ("lora[exclude_modules=[q_proj,v_proj]]", "target_modules leaves no linear layer"),
    ] {
        said(spec, words);
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora").join(name)
}

/// PEFT's own files, with one thing changed at a time.
#[test]
fn files_of_other_kinds_are_refused_by_name() {
    let text = fs::read_to_string(fixture("llama/default/adapter_config.json")).expect("the file");
    let good: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(PeftJson::read(&good).expect("a good file").config, parsed("lora[r=8,alpha=16,target_modules=[q_proj,v_proj]]"));
    for (key, value, words) in [
        ("peft_type", json!("IA3"), "'peft_type' is 'IA3', but of PEFT's methods Graftling reads LoRA only"),
        ("peft_type", json!(3), "'peft_type' is 3"),
        ("use_dora", json!(true), "has use_dora (DoRA), which is not supported"),
        ("use_qalora", json!(true), "has use_qalora (QA-LoRA)"),
        ("use_bdlora", json!({"a": 1}), "has use_bdlora"),
        ("lora_bias", json!(true), "has lora_bias (a bias of B)"),
        ("layer_replication", json!([[0, 2]]), "has layer_replication (repeated layers)"),
        ("alora_invocation_tokens", json!([1, 2]), "has alora_invocation_tokens (activated LoRA)"),
        ("trainable_token_indices", json!([5]), "has trainable_token_indices"),
        ("target_parameters", json!(["experts"]), "has target_parameters"),
        ("megatron_config", json!({"a": 1}), "has megatron_config"),
        ("bias", json!("all"), "'bias' is 'all', but trained biases of the base are not supported"),
        ("init_lora_weights", json!("pissa"), "'init_lora_weights' is 'pissa', which changes the base's own weights"),
        ("layers_pattern", json!("blocks"), "'layers_pattern' is 'blocks'"),
        ("modules_to_save", json!("lm_head"), "'modules_to_save' is 'lm_head', but must be a list of modules"),
        ("r", json!(0), "r has the rank 0"),
        ("r", json!("8"), "r is '8', but must be a whole number"),
        ("r", json!(1u64 << 40), "r is 1099511627776, but must be a whole number"),
        ("lora_alpha", json!(null), "lora_alpha is None, but must be a number"),
        ("lora_dropout", json!(-1), "lora_dropout is -1"),
        ("target_modules", json!([null]), "target_modules is [None], but must be a list of modules"),
        ("rank_pattern", json!({"q_proj": "x"}), "rank_pattern is 'x', but must be a whole number"),
        ("alpha_pattern", json!([1]), "alpha_pattern is [1], but must be a map"),
        ("layers_to_transform", json!("all"), "layers_to_transform is 'all', but must be a list of layers"),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        let problem = PeftJson::read(&bad).expect_err(words);
        assert!(problem.contains(words), "'{problem}' does not say '{words}'");
    }
    assert!(PeftJson::read(&json!([1])).expect_err("a list").contains("is not a map"));
}

/// What is written says what was read.
#[test]
fn configs_come_back_from_json() {
    for spec in [
        "lora[r=3,alpha=0.5]",
        "lora[rslora=true,layers=[0,2],target_modules=[q_proj],exclude_modules=[k_proj]]",
        "lora[alpha_pattern={q_proj:2.5},target_modules='.*q_proj']",
    ] {
        let written =
            PeftJson { config: parsed(spec), model_name: "a/b".into(), modules_to_save: vec!["lm_head".into()], transposed: true };
        let json: Value = serde_json::from_str(&written.write(Some("CAUSAL_LM"))).expect("JSON");
        assert_eq!(PeftJson::read(&json), Ok(written), "{spec}");
        assert_eq!((&json["peft_type"], &json["fan_in_fan_out"]), (&json!("LORA"), &json!(true)));
    }
}

/// A file of a LoRA on all targets of a model.
fn file(config: &LoraConfig, model: &Config) -> Weights {
    let mut weights = Weights { path: "adapter_model.safetensors".into(), ..Weights::default() };
    for (name, target) in config.targets(model).expect("targets") {
        for (end, shape) in [(A, [target.rank, target.inputs]), (B, [target.outputs, target.rank])] {
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| i as f32).collect();
            weights.tensors.insert(format!("base_model.model.{name}{end}"), Weight::from_f32(shape.into(), &values));
        }
    }
    weights
}

#[test]
fn tensors_that_do_not_belong_are_named() {
    let (config, model) = (parsed("lora[r=2]"), llama());
    let at = "base_model.model.model.layers.0.self_attn.q_proj";
    let (a, b) = (format!("{at}{A}"), format!("{at}{B}"));
    let zeros = |shape: [u32; 2]| Weight::from_f32(shape.into(), &vec![0.0; (shape[0] * shape[1]) as usize]);
    let put = |name: &str, weight| (None, Some((name.to_string(), weight)));
    for ((gone, put), words) in [
        ((Some(&a), None), format!("has no tensor '{a}' of shape (2, 8)")),
        (put(&a, zeros([3, 8])), format!("tensor '{a}' has the shape (3, 8), but the config and the model require (2, 8)")),
        (put(&b, zeros([8, 2])), format!("tensor '{b}' has the shape (8, 2), but the config and the model require (16, 2)")),
        (put(&a, Weight::from_f32([2, 8].into(), &[f32::NAN; 16])), format!("tensor '{a}' has a number that is not finite at element 0")),
        (put(&a.replace("q_proj", "k_proj"), zeros([2, 8])), "is not part of this configuration and model".into()),
        (put(&a.replace(".0.", ".3."), zeros([2, 8])), "is not part of this configuration and model".into()),
        (put(&a.replace("base_model.model.", ""), zeros([2, 8])), "does not begin with 'base_model.model.'".into()),
        (put(&a.replace("model.model.model.", "model.model."), zeros([2, 8])), "appears twice".into()),
        (put("base_model.model.model.rotary.weight", zeros([2, 8])), "it is not a tensor of the model".into()),
        (put("", zeros([1, 1])), "tensor '' does not begin".into()),
    ] {
        let mut disk = file(&config, &model);
        gone.map(|name| disk.tensors.remove(name).expect("it was there"));
        disk.tensors.extend(put);
        let problem = to_memory(&disk, &config, &model).expect_err(&words).to_string();
        assert!(problem.starts_with("adapter_model.safetensors: ") && problem.contains(&words), "'{problem}' does not say '{words}'");
    }
    let tied = Config { tied: true, ..model };
    let mut disk = file(&config, &tied);
    disk.tensors.insert("base_model.model.lm_head.weight".into(), zeros([16, 8]));
    let problem = to_memory(&disk, &config, &tied).expect_err("a tied head").to_string();
    assert!(problem.contains("the model's head is its token embedding"), "{problem}");
}

/// Rows of B follow the heads of a GGUF llama; A, and the matrices of GPT-2, stay as they are.
#[test]
fn elements_are_in_the_models_order() {
    let (config, model) = (parsed("lora[r=2,target_modules=[q_proj,k_proj,v_proj]]"), llama());
    let memory = to_memory(&file(&config, &model), &config, &model).expect("tensors");
    let first = |module: &str, end: &str| {
        let weight = &memory.tensors[&format!("model.layers.0.self_attn.{module}{end}")];
        weight.to_f32().chunks(weight.shape.last() as usize).map(|row| row[0]).collect::<Vec<_>>()
    };
    assert_eq!(first("q_proj", B)[..8], [0.0, 8.0, 2.0, 10.0, 4.0, 12.0, 6.0, 14.0]);
    assert_eq!(first("q_proj", B)[8..], first("q_proj", B)[..8].iter().map(|row| row + 16.0).collect::<Vec<_>>());
    assert_eq!(first("k_proj", B), first("q_proj", B)[..8]);
    assert_eq!(first("v_proj", B), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]);
    assert_eq!(first("q_proj", A), [0.0, 8.0]);
    let config = parsed("lora[r=2]");
    let memory = to_memory(&file(&config, &gpt2()), &config, &gpt2()).expect("tensors");
    let b = &memory.tensors["transformer.h.0.attn.c_attn.lora_B.weight"];
    assert_eq!((b.shape.axes(), b.to_f32()[2]), (&[24, 2][..], 2.0));
}

/// A is uniform within ±1/√inputs, B zero.
#[test]
fn starts_are_those_of_peft() {
    let start = |name: &str, seed| LoraConfig::start(name, &[64, 256].into(), seed, 3).expect(name);
    let a = start("x.lora_A.weight", 7);
    let mean = a.iter().sum::<f32>() / a.len() as f32;
    let deviation = (a.iter().map(|v| v * v).sum::<f32>() / a.len() as f32).sqrt();
    let largest = a.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    assert!(
        mean.abs() < 1e-3 && (deviation - 0.0625 / 3f32.sqrt()).abs() < 1e-3 && largest <= 0.0625 && largest > 0.062,
        "{mean} {deviation}"
    );
    assert_ne!(a, start("x.lora_A.weight", 8));
    assert!(start("x.lora_B.weight", 7).iter().all(|&v| v == 0.0));
    assert!(LoraConfig::start("x.weight", &[1, 1].into(), 0, 0).is_none());
}

/// All of PEFT's files among the fixtures are understood, also without the base's outer module.
#[test]
fn what_peft_saved_is_read() {
    for (case, tensors) in [("gpt2/default", 4), ("gpt2/all", 16), ("llama/patterns", 18), ("llama/head", 13), ("qwen2/regex", 6)] {
        let adapter = read_adapter(&fixture(case)).expect(case);
        assert_eq!(adapter.weights.tensors.len(), tensors, "{case}");
    }
}

/// s·B·A of one target, rows by columns.
fn delta(scaling: f64, a: &[f32], b: &[f32], rank: usize) -> Vec<f64> {
    let inputs = a.len() / rank;
    let element = |row: &[f32], i: usize| row.iter().enumerate().map(|(r, &b)| f64::from(b) * f64::from(a[r * inputs + i])).sum::<f64>();
    b.chunks(rank).flat_map(|row| (0..inputs).map(|i| scaling * element(row, i)).collect::<Vec<_>>()).collect()
}

/// What llama.cpp computes from the file, alpha / rank · B·A, is the update of the model in GGUF's order, for rsLoRA and patterns too.
#[test]
fn gguf_adapters_have_the_same_updates() {
    for (case, model) in [("gpt2", "gpt2"), ("llama", "llama"), ("llama", "llama.gguf"), ("qwen3", "qwen3.gguf")] {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let (config, _) = Base::open_weights(&models.join(model)).expect(model);
        let (of_gguf, _) = Base::open_weights(&models.join(format!("{case}.gguf"))).expect(case);
        for name in ["default", "all", "patterns"] {
            let Ok(adapter) = read_adapter(&fixture(&format!("{case}/{name}"))) else { continue };
            let path = std::env::temp_dir().join(format!("graftling-{}-{model}-{name}.gguf", std::process::id()));
            let count = adapter.export(&config, ExportForm::Gguf, &path).expect("an export");
            let file = Gguf::open(&path).expect("the file");
            fs::remove_file(&path).expect("the file");
            let lora = adapter.config.lora().expect("a LoRA");
            let targets = lora.targets(&of_gguf).expect("targets");
            assert_eq!((count, file.tensors().len()), (targets.len(), 2 * targets.len()));
            let text = |key: &str| file.required::<&str>(key).expect("a text");
            assert_eq!([text("general.type"), text("adapter.type"), text("general.architecture")], ["adapter", "lora", case]);
            let alpha = f64::from(file.required::<f32>("adapter.lora.alpha").expect("a number"));
            let memory = to_memory(&adapter.weights, lora, &of_gguf).expect("tensors");
            for (module, target) in targets {
                let theirs =
                    Names::of(of_gguf.family).translate(&format!("{module}.weight"), Names::of_gguf(of_gguf.family)).expect("a name");
                let [a, b] = ["a", "b"].map(|end| file.tensor(&format!("{theirs}.lora_{end}")).expect(&theirs));
                assert_eq!(a.shape.axes(), [u64::from(target.rank), u64::from(target.inputs)]);
                let rank = target.rank as usize;
                let got = delta(alpha / f64::from(target.rank), &a.to_f32(), &b.to_f32(), rank);
                let [a, b] = [A, B].map(|end| memory.tensors[&format!("{module}{end}")].to_f32());
                let want = delta(target.scaling.into(), &a, &b, rank);
                assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-6), "{model} {name}: {module}");
            }
        }
    }
}

/// mlx-lm's files have the same updates in Hugging Face's order: scale · (lora_a·lora_b)ᵀ.
#[test]
fn mlx_adapters_have_the_same_updates() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    for model in ["llama", "llama.gguf"] {
        let (config, _) = Base::open_weights(&models.join(model)).expect(model);
        let (hf, _) = Base::open_weights(&models.join("llama")).expect("llama");
        let adapter = read_adapter(&fixture("llama/patterns")).expect("an adapter");
        let path = std::env::temp_dir().join(format!("graftling-{}-{model}-mlx", std::process::id()));
        adapter.export(&config, ExportForm::Mlx, &path).expect("an export");
        let json: Value = serde_json::from_str(&fs::read_to_string(path.join("adapter_config.json")).expect("the file")).expect("JSON");
        let tensors = Weights::read(&path.join("adapters.safetensors")).expect("the tensors").tensors;
        let lora = adapter.config.lora().expect("a LoRA");
        let memory = to_memory(&adapter.weights, lora, &hf).expect("tensors");
        let scale = json["lora_parameters"]["scale"].as_f64().expect("a number");
        assert_eq!((&json["num_layers"], &json["lora_parameters"]["rank"], tensors.len()), (&json!(3), &json!(6), 18));
        for (module, target) in lora.targets(&hf).expect("targets") {
            let [a, b] = ["lora_a", "lora_b"].map(|end| tensors[&format!("{module}.{end}")].transposed().to_f32());
            let got = delta(scale, &a, &b, 6);
            let [a, b] = [A, B].map(|end| memory.tensors[&format!("{module}{end}")].to_f32());
            let want = delta(target.scaling.into(), &a, &b, target.rank as usize);
            assert!(got.len() == want.len() && got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-6), "{model}: {module}");
        }
        // They are read again, here with one rank, since zeros fill the others up.
        let again = read_adapter(&path).expect("mlx-lm's directory");
        let config = again.config.lora().expect("a LoRA");
        let memory = to_memory(&again.weights, config, &hf).expect("tensors");
        let targets = config.targets(&hf).expect("targets");
        assert_eq!((targets.len(), targets.values().all(|target| target.rank == 6)), (9, true));
        for (module, target) in targets {
            let [a, b] = [A, B].map(|end| memory.tensors[&format!("{module}{end}")].to_f32());
            let got = delta(target.scaling.into(), &a, &b, 6);
            let [a, b] = ["lora_a", "lora_b"].map(|end| tensors[&format!("{module}.{end}")].transposed().to_f32());
            assert!(got.iter().zip(&delta(scale, &a, &b, 6)).all(|(got, want)| (got - want).abs() < 1e-6), "{model}: {module}");
        }
        fs::remove_dir_all(&path).expect("the directory");
    }
}

#[test]
fn mlx_files_of_other_kinds_are_refused_by_name() {
    let good = json!({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0}});
    let mut weights = Weights::default();
    for layer in 0..2 {
        for (end, shape) in [("lora_a", [8, 2]), ("lora_b", [2, 16])] {
            let name = format!("model.layers.{layer}.self_attn.q_proj.{end}");
            weights.tensors.insert(name, Weight::from_f32(shape.into(), &vec![1.0; (shape[0] * shape[1]) as usize]));
        }
    }
    let (config, _) = from_mlx(&good, &weights).expect("a good file");
    assert_eq!(config, parsed("lora[r=2,alpha=40,target_modules=[self_attn.q_proj],layers=[0,1]]"));
    let refused = |json: &Value, weights: &Weights, words: &str| {
        let problem = from_mlx(json, weights).expect_err(words);
        assert!(problem.contains(words), "'{problem}' does not say '{words}'");
    };
    for (key, value, words) in [
        ("fine_tune_type", json!("dora"), "'fine_tune_type' is 'dora', but of mlx-lm's kinds Graftling reads lora only"),
        ("lora_parameters", json!({"rank": 8}), "has no 'scale' in 'lora_parameters'"),
        ("lora_parameters", json!({"rank": 0, "scale": 1}), "r has the rank 0"),
        ("lora_parameters", json!({"rank": 8, "scale": "x"}), "scale is 'x', but must be a number"),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        refused(&bad, &weights, words);
    }
    weights.tensors.insert("model.layers.0.self_attn.q_proj.m".into(), Weight::from_f32([8].into(), &[1.0; 8]));
    refused(&good, &weights, "tensor 'model.layers.0.self_attn.q_proj.m' is neither a lora_a nor a lora_b");
}

/// PEFT's own files come back as they were, and what other tools cannot hold is refused.
#[test]
fn exports_to_peft_and_refusals() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let path = std::env::temp_dir().join(format!("graftling-{}-exports", std::process::id()));
    for (model, case) in [("llama", "head"), ("llama.gguf", "head"), ("gpt2.gguf", "all")] {
        let (config, _) = Base::open_weights(&models.join(model)).expect(model);
        let from = fixture(&format!("{}/{case}", model.trim_end_matches(".gguf")));
        let adapter = read_adapter(&from).expect("an adapter");
        adapter.export(&config, ExportForm::Peft, &path).expect("an export");
        let again = read_adapter(&path).expect("the adapter");
        assert_eq!((again.config, again.weights.tensors), (adapter.config.clone(), adapter.weights.tensors.clone()), "{model}");
        fs::remove_dir_all(&path).expect("the directory");
        if case == "head" {
            for form in [ExportForm::Gguf, ExportForm::Mlx] {
                let problem = adapter.export(&config, form, &path).expect_err("a head").to_string();
                assert!(problem.contains("has the whole tensor 'lm_head.weight', which only PEFT's files hold"), "{problem}");
            }
        }
    }
    let encoder = models.with_file_name("encoders").join("bert");
    let (config, _) = Base::open_weights(&encoder).expect("a model");
    let adapter = read_adapter(&encoder.join("lora_all")).expect("an adapter");
    adapter.export(&config, ExportForm::Peft, &path).expect("an export");
    assert_eq!(read_adapter(&path).expect("the adapter").weights.tensors, adapter.weights.tensors);
    let json: Value = serde_json::from_slice(&fs::read(path.join("adapter_config.json")).expect("a file")).expect("JSON");
    assert!(json["task_type"].is_null(), "{json}");
    fs::remove_dir_all(&path).expect("the directory");
    for form in [ExportForm::Gguf, ExportForm::Mlx] {
        let problem = adapter.export(&config, form, &path).expect_err("an encoder").to_string();
        assert!(problem.contains("load adapters of decoders only"), "{problem}");
    }
    let (config, _) = Base::open_weights(&models.join("llama")).expect("a model");
    let bottleneck = read_adapter(&models.join("llama/seq_bn")).expect("an adapter");
    let problem = bottleneck.export(&config, ExportForm::Gguf, &path).expect_err("a bottleneck").to_string();
    assert!(problem.contains("is a bottleneck adapter, which only the adapters library and Graftling can load"), "{problem}");
    let lora = read_adapter(&fixture("qwen2/default")).expect("an adapter");
    let problem = lora.export(&config, ExportForm::Gguf, &path).expect_err("another base").to_string();
    assert!(problem.contains("has no tensor 'base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight'"), "{problem}");
    assert!(!path.exists());
}
