use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::{Scaling, Width};
use super::*;
use crate::files::Folder;
use crate::ops::Activation;
use crate::weights::Weight;

fn json_at(directory: &Path, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(directory.join(file)).expect("the file")).expect("JSON")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters").join(name)
}

/// Adapters saved by the library, with their models' prefixes and numbers of layers.
const SAVED: [(&str, &str, u32); 4] = [
    ("gpt2-double", "transformer.h", 2),
    ("gpt2-plus", "transformer.h", 2),
    ("llama-seq", "model.layers", 3),
    ("llama-par", "model.layers", 3),
];

/// The configuration of bottleneck adapters.
fn of(adapter: &SavedAdapter) -> &BottleneckConfig {
    adapter.config.bottleneck().expect("bottleneck adapters")
}

fn read_json(text: &str) -> std::result::Result<AdapterJson, String> {
    AdapterJson::read(&serde_json::from_str(text).expect("JSON"))
}

/// The names of a family whose layers have this prefix.
fn names(prefix: &str) -> &'static Names {
    Names::of(if prefix == "transformer.h" { Family::Gpt2 } else { Family::Llama })
}

/// Compares numbers as numbers, since a 16 in a file may be 16.0.
fn assert_same(ours: &Value, theirs: &Value, at: &str) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{at}");
            a.iter().for_each(|(key, value)| assert_same(value, &b[key], &format!("{at}.{key}")));
        }
        (Value::Number(a), Value::Number(b)) => assert_eq!(a.as_f64(), b.as_f64(), "{at}"),
        _ => assert_eq!(ours, theirs, "{at}"),
    }
}

#[test]
fn what_the_library_saved_is_read_and_written_as_it_was() {
    for (name, prefix, layers) in SAVED {
        let adapter = read_adapter(&fixture(name)).expect(name);
        assert_eq!((adapter.name.as_str(), adapter.hidden_size), ("task", 8));
        assert_eq!(adapter.head.is_some(), name == "llama-seq");
        let memory = adapter.weights_for(of(&adapter), names(prefix), layers, 8).expect(name);
        assert_eq!(memory.tensors.len(), of(&adapter).tensors(prefix, layers, 8).expect(name).len());

        let folder = Folder::new(&format!("adapter-{name}"));
        write_adapter(&folder.0, &SavedAdapter { weights: memory.clone(), ..adapter.clone() }).expect(name);
        let mut theirs = json_at(&fixture(name), CONFIG);
        if name == "llama-par" {
            // It was saved from a model without a head. Graftling always writes the class of a language model.
            theirs["model_class"] = "LlamaForCausalLM".into();
        }
        assert_same(&json_at(&folder.0, CONFIG), &theirs, name);
        if adapter.head.is_some() {
            assert_same(&json_at(&folder.0, HEAD_CONFIG), &json_at(&fixture(name), HEAD_CONFIG), HEAD_CONFIG);
        }
        let again = read_adapter(&folder.0).expect(name);
        assert_eq!(again.config, adapter.config);
        assert_eq!(again.weights_for(of(&again), names(prefix), layers, 8).expect(name).tensors, memory.tensors);
        assert_eq!(again.head.map(|head| head.tensors), adapter.head.map(|head| head.tensors));
    }
}

#[test]
fn adapters_of_whole_models_are_read_and_written_as_they_were() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    for model in ["gpt2", "llama", "qwen2", "qwen3"] {
        let prefix = if model == "gpt2" { "transformer.h" } else { "model.layers" };
        let Ok(entries) = fs::read_dir(models.join(model)) else {
            continue;
        };
        let base = json_at(&models.join(model), "config.json");
        let number = |a: &str, b: &str| base.get(a).unwrap_or(&base[b]).as_u64().expect(a) as u32;
        let (layers, hidden) = (number("n_layer", "num_hidden_layers"), number("n_embd", "hidden_size"));
        let mut read = 0;
        for directory in entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.join(CONFIG).exists()) {
            let name = directory.display().to_string();
            let adapter = read_adapter(&directory).expect(&name);
            let memory = adapter.weights_for(of(&adapter), names(prefix), layers, hidden).expect(&name);
            let folder = Folder::new(&format!("adapter-{model}-{read}"));
            write_adapter(&folder.0, &SavedAdapter { weights: memory.clone(), ..adapter.clone() }).expect(&name);
            assert_same(&json_at(&folder.0, CONFIG), &json_at(&directory, CONFIG), &name);
            if adapter.head.is_some() {
                assert_same(&json_at(&folder.0, HEAD_CONFIG), &json_at(&directory, HEAD_CONFIG), &name);
            }
            let again = read_adapter(&folder.0).expect(&name);
            let again = again.weights_for(of(&again), names(prefix), layers, hidden).expect(&name);
            assert_eq!(again.tensors, memory.tensors, "{name}");
            read += 1;
        }
        assert!(read > 2, "{model} has {read} adapters");
    }
}

#[test]
fn saved_configs_are_understood() {
    let read = |name| of(&read_adapter(&fixture(name)).expect(name)).clone();
    let double = BottleneckConfig { width: Width::Reduction(3.5), dropout: 0.05, init_seed: Some(7), ..BottleneckConfig::double_seq_bn() };
    assert_eq!(read("gpt2-double"), double);
    let seq = BottleneckConfig {
        width: Width::Reductions([(0, 2.0)].into(), Some(4.5)),
        leave_out: vec![1],
        ln_after: true,
        activation: Activation::GeluNew,
        ..BottleneckConfig::seq_bn()
    };
    assert_eq!(read("llama-seq"), seq);
    assert_eq!(read("llama-par"), BottleneckConfig { attention: true, width: Width::Reduction(8.0), ..BottleneckConfig::scaled_par_bn() });
    let plus = BottleneckConfig { width: Width::Reduction(4.0), stochastic_depth: 0.0, ..BottleneckConfig::adapter_plus() };
    assert_eq!(read("gpt2-plus"), plus);
}

fn json_of(spec: &str, hidden_size: u32) -> AdapterJson {
    let config = BottleneckConfig::parse(spec).expect(spec);
    AdapterJson { name: "default".into(), config, hidden_size, model_type: "gpt2".into(), model_name: "Größe\n\"x\"".into() }
}

#[test]
fn configs_come_back_from_json() {
    let specs = [
        "double_seq_bn",
        "seq_bn",
        "par_bn",
        "scaled_par_bn",
        "adapter_plus",
        "seq_bn[reduction_factor={'0': 14.285714285714286, 'default': 0.3}]",
        "double_seq_bn[dropout=0.3,scaling=-0.7,non_linearity=mish,ln_before=True,leave_out=[5, 3]]",
        "par_bn[init_weights_seed=18446744073709551615]",
    ];
    for spec in specs {
        let json = json_of(spec, 768);
        assert_eq!(read_json(&json.write()), Ok(json), "{spec}");
    }
    // A bottleneck comes back as a reduction factor that yields the same width.
    for (hidden, width) in [(100, 7), (576, 64), (32, 64), (896, 13)] {
        let json = json_of(&format!("identity_bn[bottleneck={width}]"), hidden);
        let read = read_json(&json.write()).expect("a good file");
        assert_eq!(read.config.bottleneck(0, hidden), Ok(width));
        assert_eq!(BottleneckConfig { width: Width::Bottleneck(width), ..read.config }, json.config);
    }
}

#[test]
fn identity_bn_is_saved_in_the_librarys_terms() {
    let json: Value = serde_json::from_str(&json_of("identity_bn", 768).write()).expect("JSON");
    let config = &json["config"];
    assert_eq!((&config["mh_adapter"], &config["output_adapter"]), (&json!(true), &json!(true)));
    assert_eq!((&config["non_linearity"], &config["init_weights"]), (&json!("gelu"), &json!("mam_adapter")));
    assert_eq!((&config["dropout"], &config["reduction_factor"], &config["scaling"]), (&json!(0.1), &json!(12), &json!(1.0)));
    assert_eq!((&json["version"], &json["model_class"]), (&json!("adapters.1.3.0"), &json!("GPT2LMHeadModel")));
}

/// A change to a valid file's JSON.
type Change<'a> = &'a dyn Fn(&mut Value);

#[test]
fn bad_configs_are_refused_in_one_sentence() {
    let gone = "so it does not describe a bottleneck adapter; save it with the adapters library";
    let cases: &[(Change, String)] = &[
        (&|j| drop(j.as_object_mut().expect("a map").remove("config")), format!("has no 'config', {gone}")),
        (&|j| drop(j.as_object_mut().expect("a map").remove("name")), format!("has no 'name', {gone}")),
        (&|j| drop(j.as_object_mut().expect("a map").remove("hidden_size")), format!("has no 'hidden_size', {gone}")),
        (&|j| drop(j["config"].as_object_mut().expect("a map").remove("mh_adapter")), format!("has no 'mh_adapter', {gone}")),
        (&|j| drop(j["config"].as_object_mut().expect("a map").remove("reduction_factor")), format!("has no 'reduction_factor', {gone}")),
        (&|j| *j = json!([]), format!("has no 'version', {gone}")),
        (&|j| *j = json!(null), format!("has no 'version', {gone}")),
        (&|j| j["config"] = json!(null), "'config' is not a map of a bottleneck adapter's keys; save it again".into()),
        (
            &|j| j["version"] = json!("3.2.1"),
            "'version' is '3.2.1', but must begin with 'adapters.'; load and save it with the adapters library".into(),
        ),
        (&|j| j["version"] = json!(1), "'version' is 1, but must be text".into()),
        (&|j| j["name"] = json!("a.b"), "'a.b' is not a valid adapter name; use up to 100 characters without dots".into()),
        (&|j| j["name"] = json!(null), "'name' is None, but must be text".into()),
        (&|j| j["model_type"] = json!(["gpt2"]), "'model_type' is ['gpt2'], but must be text".into()),
        (&|j| j["hidden_size"] = json!(-8), "'hidden_size' is -8, but must be a model's hidden size".into()),
        (&|j| j["hidden_size"] = json!(0), "'hidden_size' is 0, but must be a model's hidden size".into()),
        (&|j| j["hidden_size"] = json!(1u64 << 40), "'hidden_size' is 1099511627776, but must be a model's hidden size".into()),
        (&|j| j["hidden_size"] = json!(8.5), "'hidden_size' is 8.5, but must be a model's hidden size".into()),
        (
            &|j| j["config"] = json!({"architecture": "reft", "r": 8}),
            "'architecture' is 'reft', which is another method; Graftling reads bottleneck adapters, LoRA and fusions".into(),
        ),
        (
            &|j| j["config"] = json!({"architecture": "prefix_tuning"}),
            "'architecture' is 'prefix_tuning', which is another method; Graftling reads bottleneck adapters, LoRA and fusions".into(),
        ),
        (
            &|j| j["config"]["architecture"] = json!(7),
            "'architecture' is 'unknown', which is not known; Graftling reads bottleneck adapters, LoRA and fusions".into(),
        ),
        (&|j| j["config"]["use_gate"] = json!(false), "there is no key 'use_gate'; did you mean 'use_gating'?".into()),
        (&|j| j["config"]["bottleneck"] = json!(8), "there is no key 'bottleneck' in files; use reduction_factor".into()),
        (&|j| j["config"]["use_gating"] = json!(true), "use_gating=True is not supported; leave it at False".into()),
        (
            &|j| j["config"]["inv_adapter"] = json!("glow"),
            "inv_adapter='glow' is not supported, and the adapters library fails to run it; use 'nice'".into(),
        ),
        (&|j| j["config"]["dropout"] = json!(null), "dropout is None, but must be a number".into()),
        (&|j| j["config"]["dropout"] = json!("0.1"), "dropout is '0.1', but must be a number".into()),
        (&|j| j["config"]["dropout"] = json!(-1), "dropout is -1; it must be from 0 to below 1".into()),
        (&|j| j["config"]["scaling"] = json!(1e300), "scaling is inf; it must be a finite number, 'learned' or 'channel'".into()),
        (&|j| j["config"]["reduction_factor"] = json!(0), "reduction_factor is 0; it must be a number above 0".into()),
        (
            &|j| j["config"]["reduction_factor"] = json!({"-1": 2}),
            "reduction_factor has an entry for '-1', which is neither a layer number nor \"default\"".into(),
        ),
        (&|j| j["config"]["leave_out"] = json!([0.5]), "leave_out is 0.5, but must be a whole number from 0 up".into()),
        (&|j| j["config"]["leave_out"] = json!(null), "leave_out is None, but must be a list of layers such as [0, 1]".into()),
        (&|j| j["config"]["mh_adapter"] = json!("true"), "mh_adapter is 'true', but must be True or False".into()),
        (
            &|j| j["config"]["init_weights"] = json!("xavier"),
            "init_weights is 'xavier', but must be 'bert', 'mam_adapter' or 'houlsby'".into(),
        ),
        (
            &|j| j["config"]["original_ln_after"] = json!(false),
            "original_ln_after=False loses the residual stream unless \
          original_ln_before=True and residual_before_ln=False; set both, or leave original_ln_after at True"
                .into(),
        ),
    ];
    let good: Value = serde_json::from_str(&json_of("double_seq_bn", 768).write()).expect("JSON");
    for (change, sentence) in cases {
        let mut json = good.clone();
        change(&mut json);
        assert_eq!(read_json(&json.to_string()).expect_err(sentence), *sentence);
    }
    // Older files lack keys that have defaults.
    let mut old = good.clone();
    old["config"] = json!({"mh_adapter": true, "output_adapter": true, "reduction_factor": 16, "non_linearity": "swish"});
    assert_eq!(read_json(&old.to_string()).map(|json| json.config), Ok(BottleneckConfig::double_seq_bn()));
}

#[test]
fn bad_files_are_named() {
    let folder = Folder::new("adapter-bad");
    let adapter = read_adapter(&fixture("llama-seq")).expect("an adapter");
    write_adapter(&folder.0, &adapter).expect("an adapter");
    let config = folder.0.join(CONFIG);
    let good = fs::read_to_string(&config).expect("the file");
    let problem = |text: &[u8]| {
        fs::write(&config, text).expect("the file");
        let error = read_adapter(&folder.0).expect_err("a bad file");
        assert_eq!(error.exit_code(), 3);
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        message.strip_prefix(&format!("{}: ", config.display())).expect("the file's name").to_string()
    };
    let huge = good.replacen("\"hidden_size\": 8", "\"hidden_size\": 1e999", 1);
    for text in [&good.as_bytes()[..good.len() / 2], b"", b"{", "[".repeat(100_000).as_bytes(), huge.as_bytes()] {
        let problem = problem(text);
        assert!(problem.starts_with("is not JSON ("), "{problem}");
    }
    assert!(problem(&[0xff, 0xfe]).starts_with("line 1 is not UTF-8"));
    assert!(problem(" ".repeat(1 << 21).as_bytes()).starts_with("is longer than 1 MiB"));
    fs::remove_file(&config).expect("the file");
    assert!(read_adapter(&folder.0).expect_err("no file").to_string().contains("adapter_config.json: cannot be read"));

    fs::write(&config, &good).expect("the file");
    fs::rename(folder.0.join(WEIGHTS), folder.0.join("pytorch_adapter.bin")).expect("the file");
    assert!(read_adapter(&folder.0).expect_err("no file").to_string().contains("use_safetensors=True"));

    let wide = adapter.weights_for(of(&adapter), names("model.layers"), 3, 16).expect_err("another width").to_string();
    assert!(wide.ends_with("adapter_config.json: hidden_size is 8, but the model's is 16; use the adapter's own base"), "{wide}");
    let short = adapter.weights_for(of(&adapter), names("model.layers"), 2, 8).expect_err("another depth").to_string();
    assert!(
        short.contains("adapter.safetensors: tensor 'model.layers.2.") && short.contains("is for layer 2, but the model has 2"),
        "{short}"
    );
    let other = adapter.weights_for(of(&adapter), names("transformer.h"), 3, 8).expect_err("another model").to_string();
    assert!(other.contains("is not an adapter's tensor in 'transformer.h'"), "{other}");
}

#[test]
fn a_head_of_an_earlier_adapter_goes() {
    let folder = Folder::new("adapter-head");
    let adapter = read_adapter(&fixture("llama-seq")).expect("an adapter");
    write_adapter(&folder.0, &adapter).expect("an adapter");
    assert!(read_adapter(&folder.0).expect("an adapter").head.is_some());
    write_adapter(&folder.0, &SavedAdapter { head: None, ..adapter.clone() }).expect("an adapter");
    assert!(read_adapter(&folder.0).expect("an adapter").head.is_none() && !folder.0.join(HEAD_CONFIG).exists());

    let mut damaged = adapter.clone();
    let nan = Weight::from_f32([1].into(), &[f32::NAN]);
    damaged.head.as_mut().expect("a head").tensors.insert("lm_head.bias".into(), nan);
    let problem = write_adapter(&folder.0, &damaged).expect_err("no number").to_string();
    assert!(problem.contains("'lm_head.bias' is no longer finite") && !folder.0.join(HEAD).exists(), "{problem}");
    write_adapter(&folder.0, &adapter).expect("an adapter");
    let mut bytes = fs::read(folder.0.join(HEAD)).expect("a head");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(folder.0.join(HEAD), bytes).expect("a damaged head");
    let problem = read_adapter(&folder.0).expect_err("no number").to_string();
    assert!(problem.contains("model_head.safetensors: tensor 'lm_head.weight' has a number that is not finite"), "{problem}");

    for adapter in [
        SavedAdapter { name: "a.b".into(), ..adapter.clone() },
        SavedAdapter {
            config: BottleneckConfig { scaling: Scaling::Fixed(f32::NAN), ..BottleneckConfig::seq_bn() }.into(),
            ..adapter.clone()
        },
    ] {
        assert_eq!(write_adapter(&folder.0, &adapter).expect_err("what cannot be").exit_code(), 2);
    }
}
