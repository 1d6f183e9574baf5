//! Files from outside: an error is one sentence that names the file, and nothing is left half-written.

use std::path::{Path, PathBuf};

use graftling::Error;
use graftling::files::replace_file;
use graftling::model::{
    AdapterConfig, Base, BaseIdentity, BottleneckConfig, Config, Model, SavedAdapter, Trains, Width, read_adapter, write_adapter,
};
use graftling::text::Tokenizer;
use graftling::weights::Weights;

use crate::harness::device;

/// A directory that is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("graftling-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn config() -> Config {
    Config { heads: 2, key_value_heads: 2, head_size: 8, ..Config::gpt(256, 16, 16, 1) }
}

/// A base on disk.
fn base(folder: &Folder) {
    let model = Model::new(&config(), &[], None, Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &[], 0, false).expect("memory");
    let weights = model.download(device(), &memory, |_| true).expect("weights");
    Base::write(&folder.0, &config(), &weights, &Tokenizer::bytes_json()).expect("a base");
}

fn expect(error: Error, code: u8, words: &[&str]) {
    let message = error.to_string();
    assert_eq!(error.exit_code(), code, "{message}");
    for word in words {
        assert!(message.contains(word), "'{message}' lacks '{word}'");
    }
    assert!(!message.contains('\n'), "more than one line: {message}");
}

#[test]
fn a_base_comes_back() {
    let folder = Folder::new("base");
    base(&folder);
    let base = Base::open(&folder.0).expect("a base");
    assert_eq!(base.config, config());
    assert_eq!(base.tokenizer.len(), 256);
    let model = Model::new(&base.config, &[&base.weights], None, Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &[&base.weights], 9, false).expect("memory");
    assert_eq!(model.download(device(), &memory, |_| true).expect("weights").tensors, base.weights.tensors);
}

#[test]
fn bad_weights() {
    let folder = Folder::new("weights");
    base(&folder);
    let path = folder.0.join("model.safetensors");
    let good = std::fs::read(&path).expect("the file");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("the file");
        Weights::read(&path).expect_err("a bad file")
    };
    let name = "model.safetensors";
    for end in [0, 4, 7, 8, 100, good.len() / 2, good.len() - 1] {
        expect(read(&good[..end]), 3, &[name, "safetensors"]);
    }
    let mut long_header = good.clone();
    long_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    expect(read(&long_header), 3, &[name]);
    let mut nan = good.clone();
    let last = nan.len() - 4;
    nan[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &nan).expect("the file");
    let damaged = Weights::read(&path).expect("a complete file");
    expect(damaged.check().expect_err("not a number"), 3, &[name, "not finite", "transformer."]);
    let mut json = good.clone();
    json[8] = b'x';
    expect(read(&json), 3, &[name]);
    expect(Weights::read(&folder.0.join("missing")).expect_err("a missing file"), 3, &["missing", "cannot be read"]);

    // A file for another config.
    std::fs::write(&path, &good).expect("the file");
    let weights = Weights::read(&path).expect("a good file");
    let open = |config: &Config| Model::new(config, &[&weights], None, Trains::adapters()).err().expect("a mismatch");
    expect(open(&Config { vocab_size: 300, ..config() }), 3, &[name, "transformer.wte.weight", "(256, 16)", "(300, 16)"]);
    expect(open(&Config { layers: 2, ..config() }), 3, &[name, "transformer.h.1."]);
}

#[test]
fn bad_configs() {
    let folder = Folder::new("config");
    let path = folder.0.join("config.json");
    let good: serde_json::Value = serde_json::from_str(&config().to_json()).expect("JSON");
    let cases: &[(&str, serde_json::Value, &str)] = &[
        ("vocab_size", 0.into(), "vocab_size"),
        ("vocab_size", (-1).into(), "vocab_size = -1"),
        ("vocab_size", (1u64 << 33).into(), "vocab_size = 8589934592"),
        ("num_hidden_layers", (1u64 << 31).into(), "num_hidden_layers"),
        ("num_attention_heads", 3.into(), "heads"),
        ("hidden_act", "relu6".into(), "relu6"),
        ("dropout", 1.0.into(), "dropout"),
        ("layer_norm_eps", 0.0.into(), "layer_norm_eps"),
        ("model_type", "mamba".into(), "mamba"),
        ("rope_theta", 10000.into(), "rope_theta"),
    ];
    for (field, value, word) in cases {
        let mut json = good.clone();
        json[*field] = value.clone();
        std::fs::write(&path, json.to_string()).expect("the file");
        expect(Config::read(&path).expect_err("a bad config"), 3, &["config.json", word]);
    }
    std::fs::write(&path, "{").expect("the file");
    expect(Config::read(&path).expect_err("cut short"), 3, &["config.json"]);
    std::fs::write(&path, [0xff, 0xfe]).expect("the file");
    expect(Config::read(&path).expect_err("not text"), 3, &["config.json"]);
    let tokenizer = folder.0.join("tokenizer.json");
    std::fs::write(&tokenizer, "{\"model\": 1}").expect("the file");
    expect(Tokenizer::read(&tokenizer).err().expect("a bad tokenizer"), 3, &["tokenizer.json"]);
}

#[test]
fn adapters_come_back() {
    let folder = Folder::new("adapter");
    for adapters in [BottleneckConfig::identity_bn(6), BottleneckConfig { dropout: 0.0, ..BottleneckConfig::identity_bn(16) }] {
        let trains = Trains { head: true, ..Trains::adapters() };
        let model = Model::new(&config(), &[], Some(&adapters.clone().into()), trains).expect("a model");
        let memory = model.upload(device(), &[], 1, true).expect("memory");
        let trained = model.download(device(), &memory, |n| n.contains("_adapters.") || n.starts_with("cls.")).expect("weights");
        let identity = BaseIdentity::of(&config(), &Weights::default(), "assets/base");
        write_adapter(&folder.0, &SavedAdapter::of(&model, &trained, "default", &identity).expect("an adapter")).expect("an adapter");
        let read = read_adapter(&folder.0).expect("an adapter");
        let AdapterConfig::Bottleneck(found) = read.config.clone() else { panic!("{:?}", read.config) };
        let width = Width::Bottleneck(found.bottleneck(0, 16).expect("a bottleneck"));
        assert_eq!(BottleneckConfig { width, ..found }, adapters);
        let sources = read.sources(&config()).expect("its tensors");
        let mut weights = sources[0].tensors.clone();
        weights.extend(read.head.expect("a head").tensors);
        assert_eq!(weights, trained.tensors);
    }
    let path = folder.0.join("adapter_config.json");
    let good: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("the file")).expect("JSON");
    for (field, value) in
        [("non_linearity", "softmax".into()), ("use_gating", true.into()), ("reduction_factor", 0.into()), ("dropout", 2.into())]
    {
        let mut json = good.clone();
        json["config"][field] = value;
        std::fs::write(&path, json.to_string()).expect("the file");
        expect(read_adapter(&folder.0).expect_err("a bad config"), 3, &["adapter_config.json", field]);
    }
}

#[test]
fn files_are_written_whole_or_not_at_all() {
    let folder = Folder::new("write");
    let path = folder.0.join("deep/file");
    replace_file(&path, b"one").expect("a file");
    replace_file(&path, b"two").expect("a file");
    assert_eq!(std::fs::read(&path).expect("the file"), b"two");
    assert_eq!(std::fs::read_dir(path.parent().expect("a parent")).expect("a directory").count(), 1);

    // A directory in the file's place stays, and the temporary file is removed.
    let taken = folder.0.join("taken");
    std::fs::create_dir_all(taken.join("inside")).expect("a directory");
    expect(replace_file(&taken, b"three").expect_err("a directory"), 1, &["taken", "cannot write"]);
    assert!(taken.join("inside").exists() && !folder.0.join("taken.partial").exists());
    if Path::new("/dev/full").exists() {
        expect(replace_file(Path::new("/dev/full/file"), b"x").expect_err("not a directory"), 1, &["/dev/full/file"]);
    }
}
