//! What is saved with an adapter, and which base it belongs to: names and orders of tensors, heads saved with it, and the identity of a
//! base.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use graftling::model::{AdapterConfig, Base, BaseIdentity, Likeness, Model, SavedAdapter, Trains, read_adapter, write_adapter};
use graftling::text::Batch;
use graftling::weights::{Weight, Weights};
use serde_json::Value;

use crate::harness::{self, close, device};
use crate::whole::logits;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/base");

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

/// A temporary directory with a text to learn from and a copy of the base. It is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("graftling-{}-bases-{name}", std::process::id()));
        fs::create_dir_all(folder.join("model")).expect("a directory");
        fs::write(folder.join("text.txt"), "let y = g(x); // and no more\n".repeat(4)).expect("a text");
        for file in fs::read_dir(BASE).expect("the base").map(|entry| entry.expect("an entry")) {
            fs::copy(file.path(), folder.join("model").join(file.file_name())).expect("a copy");
        }
        Folder(folder)
    }

    fn run(&self, line: &str) -> Output {
        let mut command = harness::command();
        command.current_dir(&self.0).args(line.split_whitespace()).output().expect("the command runs")
    }

    /// A command's standard error, and the last line of its standard output as JSON.
    fn succeeds(&self, line: &str) -> (String, Value) {
        let output = self.run(&format!("{line} --json"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {said}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (said, serde_json::from_str(text.lines().last().expect("a line")).expect("JSON"))
    }

    fn fails(&self, line: &str, words: &[&str]) {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{line}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "'{said}' does not say {words:?}");
    }

    /// Changes one value of the copied base, in the first row of a tensor.
    fn change_base(&self) {
        let path = self.0.join("model/model.safetensors");
        let mut weights = Weights::read(&path).expect("the base");
        let name = "transformer.h.1.attn.out_proj.weight";
        let weight = &weights.tensors[name];
        let (dtype, shape, mut values) = (weight.dtype, weight.shape.clone(), weight.to_f32());
        values[3] += 1.0;
        let changed = Weight::from_f32(shape.clone(), &values);
        weights.tensors.insert(name.into(), Weight::new(dtype, shape, changed.in_format(dtype).into_owned()));
        let changed = path.with_extension("changed");
        weights.write(&changed).expect("a file");
        fs::rename(changed, path).expect("it is renamed");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A whole base that is saved with an adapter equals the original tensor by tensor, whichever file it came from, and gives the same logits
/// on top of either file.
#[test]
fn saved_bases_have_the_order_of_their_names() {
    let folder = Folder::new("order");
    for (gguf, directory) in [("llama.gguf", "llama"), ("gpt2.gguf", "gpt2"), ("qwen2.gguf", "qwen2")] {
        let (config, weights) = Base::open_weights(&fixture(gguf)).expect("a model");
        let (hf_config, hf_weights) = Base::open_weights(&fixture(directory)).expect("a model");
        let identity = BaseIdentity::of(&config, &weights, gguf);
        let hf_identity = BaseIdentity::of(&hf_config, &hf_weights, directory);
        assert_eq!(identity.likeness(&hf_identity), Likeness::Same, "{gguf}");

        let model = Model::new(&config, &[&weights], Some(&AdapterConfig::identity_bn(4)), Trains::everything()).expect("a model");
        let memory = model.upload(device(), &[&weights], 0, true).expect("memory");
        let all = model.download(device(), &memory, |_| true).expect("weights");
        write_adapter(&folder.0, &SavedAdapter::of(&model, &all, "default", &identity).expect("an adapter")).expect("an adapter");
        let (saved, original) = (Weights::read(&folder.0.join("base.safetensors")), Weights::read_directory(&fixture(directory)));
        let (saved, original) = (saved.expect("a file").tensors, original.expect("a model").tensors);
        assert!(saved.len() > 10);
        for (name, weight) in &saved {
            let theirs = &original[name];
            assert!(weight.shape == theirs.shape && weight.to_f32() == theirs.to_f32(), "{name} of {gguf} is not that of {directory}");
        }

        let batch = Batch::new(&[&[3, 1, 4, 1, 5, 9, 2, 6][..]]);
        let want: Vec<f64> = logits(&model, &memory, &batch).into_iter().map(f64::from).collect();
        let read = read_adapter(&folder.0).expect("an adapter");
        for (config, weights) in [(&config, &weights), (&hf_config, &hf_weights)] {
            // None of the base's own weights should remain.
            let zeros = |(name, weight): (&String, &Weight)| {
                (name.clone(), Weight::from_f32(weight.shape.clone(), &vec![0.0; weight.shape.len() as usize]))
            };
            let empty = Weights { tensors: weights.tensors.iter().map(zeros).collect(), ..Weights::default() };
            assert_eq!(read.check_base(&BaseIdentity::of(config, &empty, "zeros")).expect("the same form"), None);
            let changes = read.sources(config).expect("its tensors");
            let sources: Vec<_> = [&empty].into_iter().chain(&changes).collect();
            let model = Model::new(config, &sources, Some(&read.config), Trains::adapters()).expect("a model");
            let memory = model.upload(device(), &sources, 0, false).expect("memory");
            close(&format!("logits of {gguf}, saved"), &logits(&model, &memory, &batch), &want, 1e-5);
        }

        // If a directory has no information about its base, all tensors are taken as they are in the model.
        fs::remove_file(folder.0.join("base.json")).expect("it goes");
        let old = read_adapter(&folder.0).expect("an adapter");
        assert_eq!(old.sources(&config).expect("its tensors").pop().expect("a base").tensors, saved);
    }
}

/// A head saved with an adapter is used, saved again, and trained only on request.
#[test]
fn a_head_that_comes_along_does_not_train() {
    let folder = Folder::new("head");
    let common = "--model model --data text.txt --max-length 16 --batch-size 2 --steps 2 --learning-rate 1e-2";
    let (said, first) = folder.succeeds(&format!("train {common} --out first --train head,norms"));
    assert!(said.contains("trains     adapters 132,608, head 33,024, norms 2,048"), "{said}");
    assert_eq!(first["trains"], serde_json::json!({"adapters": 132_608, "head": 33_024, "norms": 2_048}));
    let eval = |adapter: &str| folder.succeeds(&format!("eval --model model --data text.txt --max-length 16 {adapter}")).1["loss"].clone();
    assert_ne!(eval("--adapter first/adapter"), eval(""));

    let (said, second) = folder.succeeds(&format!("train {common} --out second --init-adapter first/adapter --save-every 1"));
    assert!(said.contains("trains     adapters 132,608\n"), "{said}");
    assert_eq!(second["trains"], serde_json::json!({"adapters": 132_608}));
    assert_eq!(second["trainable_params"], 132_608);
    let file = |run: &str, file: &str| fs::read(folder.0.join(run).join(file)).expect("a file");
    for part in ["model_head.safetensors", "base.safetensors"] {
        for folder in ["adapter", "checkpoints/step-000001", "checkpoints/step-000002"] {
            assert_eq!(file(&format!("second/{folder}"), part), file("first/adapter", part), "{folder}/{part}");
        }
    }
    assert_ne!(file("second/adapter", "adapter.safetensors"), file("first/adapter", "adapter.safetensors"));

    let (_, third) = folder.succeeds(&format!("train {common} --out third --init-adapter first/adapter --train head"));
    assert_eq!(third["trains"], serde_json::json!({"adapters": 132_608, "head": 33_024}));
    assert_ne!(file("third/adapter", "model_head.safetensors"), file("first/adapter", "model_head.safetensors"));
    assert_eq!(folder.succeeds("inspect model").1["trains"], serde_json::json!({"adapters": 132_608}));
}

/// The same base is accepted, also under another path; other weights cause a warning, another architecture is refused, and a run resumes
/// only with its own model.
#[test]
fn bases_are_told_apart() {
    let folder = Folder::new("apart");
    let common = "--data text.txt --max-length 16 --batch-size 2";
    folder.succeeds(&format!("train {common} --model model --out run --steps 2"));
    let eval = |model: &str| folder.succeeds(&format!("eval {common} --model {model} --adapter run/adapter")).0;
    for same in ["model", BASE, "builtin", "model --precision f16"] {
        assert!(!eval(same).contains("warning"), "{same}: {}", eval(same));
    }
    folder.change_base();
    let said = eval("model");
    assert!(said.contains("warning: run/adapter was trained on 'model'") && said.contains("has other weights"), "{said}");
    let llama = fixture("llama.gguf").display().to_string();
    let words = ["run/adapter: was trained on another base", "the architecture of 'model' is graftling, but that of", "is llama"];
    folder.fails(&format!("eval {common} --model {llama} --adapter run/adapter"), &words);
    folder.fails("train --out run --resume --steps 3", &["model: is not the model that this run began with", "begin a new run"]);

    // Like a directory of the library or of an earlier version: nothing is known about the base.
    fs::remove_file(folder.0.join("run/adapter/base.json")).expect("it goes");
    assert!(!eval("model").contains("warning"));
    fs::write(folder.0.join("run/adapter/base.json"), "{").expect("a file");
    folder.fails(&format!("eval {common} --model model --adapter run/adapter"), &["run/adapter/base.json: does not say which base"]);
}
