//! LoRA on the tiny models against PEFT: `tests/fixtures/make_lora.py` computed the expected values.

use std::path::PathBuf;

use graftling::gpu::Memory;
use graftling::model::{AdapterConfig, BaseIdentity, Model, SavedAdapter, Trains, read_adapter, write_adapter};
use graftling::train::Evaluator;
use graftling::weights::Weights;

use crate::harness::{close, device};
use crate::pretrained::{Fixture, error};
use crate::whole::{gradients, last_logits, logits, thirty_losses};

/// The models, each also as GGUF, with their cases.
pub const CASES: [(&str, &[&str]); 8] = [
    ("gpt2", &["default", "all"]),
    ("llama", &["default", "all", "patterns", "head"]),
    ("qwen2", &["default", "all", "regex"]),
    ("qwen3", &["default", "all"]),
    ("gpt2.gguf", &["all"]),
    ("llama.gguf", &["default", "all", "patterns", "head"]),
    ("qwen2.gguf", &["all"]),
    ("qwen3.gguf", &["all"]),
];

pub fn path(model: &str, file: &str) -> PathBuf {
    let model = model.strip_suffix(".gguf").unwrap_or(model);
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora").join(model).join(file)
}

/// The model with an adapter of PEFT, and its memory.
fn adapted(fixture: &Fixture, saved: &SavedAdapter, trains: Trains) -> (Model, Memory) {
    let changes = saved.sources(&fixture.config).expect("the adapter's tensors");
    let sources: Vec<_> = [&fixture.weights].into_iter().chain(&changes).collect();
    let model = Model::new(&fixture.config, &sources, Some(&saved.config), trains).expect("a model");
    let memory = model.upload(device(), &sources, 0, true).expect("memory");
    (model, memory)
}

/// Tensors of the model as its adapter is saved: under PEFT's names and in its order.
fn on_disk(fixture: &Fixture, model: &Model, tensors: &Weights) -> Vec<(String, Vec<f32>)> {
    let identity = BaseIdentity::of(&fixture.config, &fixture.weights, fixture.name);
    let saved = SavedAdapter::of(model, tensors, "default", &identity).expect("an adapter");
    assert!(saved.base.is_none());
    let parts = saved.weights.tensors.into_iter().chain(saved.head.into_iter().flat_map(|head| head.tensors));
    parts.map(|(name, weight)| (format!("base_model.model.{name}"), weight.to_f32())).collect()
}

/// Every case of every model, from both file formats: the logits, every gradient, the losses of 30 steps, and the tensors after them.
#[test]
fn loras_train_as_in_peft() {
    for (name, cases) in CASES {
        let fixture = Fixture::open(name);
        let expected = Weights::read(&path(name, "expected.safetensors")).expect("the expected values");
        for case in cases {
            let values = |key: &str| -> Vec<f64> {
                let weight = expected.tensors.get(&format!("{case}/{key}")).unwrap_or_else(|| panic!("{name} has no '{case}/{key}'"));
                weight.to_f32().into_iter().map(f64::from).collect()
            };
            follow(&fixture, case, &values);
        }
    }
}

fn follow(fixture: &Fixture, case: &str, values: &dyn Fn(&str) -> Vec<f64>) {
    let (device, batch) = (device(), fixture.batch());
    let what = format!("{} {case}", fixture.name);
    let saved = read_adapter(&path(fixture.name, case)).expect("an adapter");
    let trains = Trains { head: case == "head", ..Trains::adapters() };
    let (model, memory) = adapted(fixture, &saved, trains);

    // The logits of each row's last token.
    close(&format!("{what}: logits"), &last_logits(&model, &memory, &batch), &values("logits"), 2e-5);

    let tensors = on_disk(fixture, &model, &gradients(&model, &memory, &batch));
    let count = tensors.len();
    assert_eq!(count, saved.weights.tensors.len(), "{what}: what trains is what PEFT saved");
    for (name, got) in tensors {
        let off = error(&got, &values(&format!("grad/{name}")));
        assert!(off < 1e-4, "{what}: the gradient of {name} is off by {off:e}");
    }

    let losses = thirty_losses(&what, &model, &memory, &batch, &values("loss_curve"));
    let trained = model.download(device, &memory, |name| model.trains(name)).expect("the tensors");
    for (name, got) in on_disk(fixture, &model, &trained) {
        let off = error(&got, &values(&format!("final/{name}")));
        assert!(off <= 1e-2, "{what}: {name} is off by {off:e} after 30 steps");
    }

    // What is saved comes back with the same loss.
    let place = std::env::temp_dir().join(format!("graftling-{}-peft", std::process::id()));
    let place = std::env::var_os("KEEP_ADAPTERS").map_or(place, |kept| PathBuf::from(kept).join(format!("{}-{case}", fixture.name)));
    let identity = BaseIdentity::of(&fixture.config, &fixture.weights, fixture.name);
    let saved = SavedAdapter::of(&model, &trained, "default", &identity).expect("an adapter");
    write_adapter(&place, &saved).expect("an adapter");
    let again = read_adapter(&place).expect("the adapter");
    let (model, memory) = adapted(fixture, &again, trains);
    let loss = Evaluator::new(device, &model, &memory).loss(std::slice::from_ref(&batch)).expect("a loss") as f32;
    assert_eq!(loss.to_bits(), losses[30].to_bits(), "{what}: the loss after reading it back");
    match std::env::var_os("KEEP_ADAPTERS") {
        // For `make_lora.py check`, which computes the loss with PEFT.
        Some(_) => println!("{}: loss {loss:.6}", place.display()),
        None => std::fs::remove_dir_all(&place).expect("the adapter"),
    }
}

/// A new LoRA leaves the logits as they are, to the bit, whatever its targets.
#[test]
fn new_loras_change_nothing() {
    for name in ["gpt2", "llama", "llama.gguf", "qwen3"] {
        let fixture = Fixture::open(name);
        let batch = fixture.batch();
        let bits = |adapters: Option<&AdapterConfig>| -> Vec<u32> {
            let model = Model::new(&fixture.config, &[&fixture.weights], adapters, Trains::adapters()).expect("a model");
            let memory = model.upload(device(), &[&fixture.weights], 5, true).expect("memory");
            logits(&model, &memory, &batch).into_iter().map(f32::to_bits).collect()
        };
        let base = bits(None);
        for spec in ["lora", "lora[r=3,alpha=64,target_modules=all-linear]"] {
            let adapters = AdapterConfig::parse(spec).expect(spec);
            assert!(bits(Some(&adapters)) == base, "{name} with {spec}");
        }
    }
}
