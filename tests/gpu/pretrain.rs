//! `graftling pretrain` as a user runs it: a model trained from scratch, which then works like any other.

use std::path::{Path, PathBuf};
use std::process::Output;

use graftling::graph::DType;
use graftling::model::{Base, Model, Positions, Trains};
use graftling::text::{Batch, DataOptions, Splits, Task};
use graftling::train::Evaluator;

use crate::harness::{self, device};

/// A directory with a config and data that is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, config: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("graftling-{}-pretrain-{name}", std::process::id()));
        std::fs::create_dir_all(folder.join("data")).expect("a directory");
        std::fs::write(folder.join("small.toml"), config).expect("a config");
        let text = include_str!("../../src/model/transformer.rs");
        std::fs::write(folder.join("data/train.txt"), text).expect("a text");
        std::fs::write(folder.join("data/valid.txt"), &text[..600]).expect("a text");
        Folder(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn run(&self, out: &str, more: &[&str]) -> Output {
        let mut command = harness::command();
        command.arg("pretrain").arg("--config").arg(self.path("small.toml")).arg("--data").arg(self.path("data"));
        command.arg("--out").arg(self.path(out)).args(["--json", "--log-every", "1"]).args(more).output().expect("the command runs")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The JSON result of a successful run.
fn result(output: &Output) -> serde_json::Value {
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    serde_json::from_str(printed.lines().last().expect("a line")).expect("the last line is JSON")
}

/// The loss on `valid.txt` of the model in a directory.
fn evaluated(folder: &Folder, directory: &Path) -> f64 {
    let base = Base::open(directory).expect("a model");
    let options = DataOptions { max_length: base.config.context as usize, train_on_prompt: true, task: Task::Language };
    let data = Splits::read(&folder.path("data"), &base.tokenizer, &options).expect("data");
    let batches: Vec<Batch> = data.valid.expect("a validation file").batches(2).collect();
    let model = Model::new(&base.config, &[&base.weights], None, Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &[&base.weights], 0, false).expect("memory");
    Evaluator::new(device(), &model, &memory).loss(&batches).expect("a loss")
}

#[test]
fn a_gated_rotary_model_with_its_own_tokens() {
    let config = "layers = 2\nhidden = 32\nheads = 4\nkey-value-heads = 2\ncontext = 24\ntokenizer = { bpe = 300 }\nbatch-size = 2\n\
                  learning-rate = 0.01\nwarmup-steps = 0\nsteps = 9\nsave-every = 2";
    let folder = Folder::new("gated", config);
    let result = result(&folder.run("model", &["--steps", "3"]));
    let out = folder.path("model");
    let base = Base::open(&out).expect("a model");
    let c = &base.config;
    assert!(c.gated && c.tied && c.norm_first && matches!(c.positions, Positions::Rotary { .. }));
    assert_eq!((c.vocab_size, c.key_value_heads, base.tokenizer.len()), (300, 2, 300));
    assert_eq!(base.weights.tensors["transformer.h.1.ffn.gate_proj.weight"].dtype, DType::F16);
    let loss = evaluated(&folder, &out);
    assert_eq!((result["eval_loss"].as_f64(), result["steps"].as_u64()), (Some(loss), Some(3)), "{result}");
    assert!(result["total_params"].as_u64() > Some(300 * 32) && result["seconds"].as_f64() > Some(0.0), "{result}");
    assert!(loss < f64::from(300).ln(), "{loss} after three steps");
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    assert_eq!((metrics.matches("\"loss\"").count(), metrics.matches("\"eval_loss\"").count()), (3, 2), "{metrics}");
    assert!(std::fs::read_to_string(out.join("loss.svg")).expect("a drawing").contains("validation"));

    // A run that goes wrong warns about it, and its result contains the warning.
    let wrong = folder.run("wrong", &["--steps", "14", "--learning-rate", "10", "--quiet"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    let warnings: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    assert!(
        warnings[0].starts_with("the loss has risen from ") && warnings[1].contains("the model is worse than an untrained one"),
        "{said}"
    );
    assert_eq!((&self::result(&wrong)["warnings"], &result["warnings"]), (&serde_json::json!(warnings), &serde_json::json!([])));

    // An existing model is not overwritten.
    let again = folder.run("model", &["--steps", "3"]);
    assert_eq!(again.status.code(), Some(2), "{}", String::from_utf8_lossy(&again.stderr));
}

#[test]
fn a_post_norm_model_of_bytes_in_f32() {
    let config = "layers = 1\nhidden = 32\nheads = 2\ncontext = 24\nnorm = \"layer\"\nnorm-position = \"post\"\npositions = \"learned\"\n\
                  gated = false\nbiases = true\ntied-head = false\ndropout = 0.1\nbatch-size = 2\nformat = \"f32\"\nsteps = 3";
    let folder = Folder::new("post", config);
    let first = result(&folder.run("one", &["--seed", "5"]));
    let base = Base::open(&folder.path("one")).expect("a model");
    assert!(!base.config.norm_first && !base.config.tied && base.config.vocab_size == 256);
    assert!(base.weights.tensors.values().all(|weight| weight.dtype == DType::F32));
    assert_eq!(first["eval_loss"].as_f64(), Some(evaluated(&folder, &folder.path("one"))));
    // The same seed gives the same bytes, another seed gives others.
    result(&folder.run("two", &["--seed", "5"]));
    result(&folder.run("three", &["--seed", "6"]));
    let bytes = |out: &str| std::fs::read(folder.path(out).join("model.safetensors")).expect("weights");
    assert!(bytes("one") == bytes("two") && bytes("one") != bytes("three"));
}

#[test]
fn a_bad_config_names_file_and_key() {
    let folder = Folder::new("bad", "layers = 1\nhiden = 32");
    let output = folder.run("model", &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("small.toml: has an unknown key hiden; did you mean 'hidden'?"), "{said}");
    assert!(!folder.path("model").exists());
}
