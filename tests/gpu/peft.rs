//! LoRA on the tiny models against PEFT: `tests/fixtures/make_lora.py` computed the expected values.

use std::path::PathBuf;

use graftling::gpu::{Memory, Program, Step};
use graftling::graph::{DType, Graph};
use graftling::model::{AdapterConfig, BaseIdentity, Model, SavedAdapter, Trains, read_adapter, write_adapter};
use graftling::train::{Evaluator, Schedule, Shape, TrainOptions, Trainer};
use graftling::weights::{Weight, Weights};

use crate::harness::{close, device};
use crate::pretrained::{Fixture, error};
use crate::whole::{logits, write_inputs};

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

/// The gradients of everything that trains, at the start.
pub fn gradients(fixture: &Fixture, model: &Model, memory: &Memory) -> Weights {
    let (device, batch) = (device(), fixture.batch());
    let mut g = Graph::new(device.traits(), &model.parameters, true);
    let inputs = model.inputs(&mut g, batch.rows, batch.length, batch.length);
    let targets = g.input("targets", [batch.rows, batch.length], DType::U32);
    let loss = model.loss(&mut g, &inputs, targets);
    g.backward(loss, loss);
    let mut program = Program::new(device, memory, &g).expect("a program");
    program.write(device, targets, &batch.targets);
    write_inputs(device, &program, model, &inputs, &batch);
    memory.clear(device);
    memory.set_step(device, Step { target_weight: 1.0 / batch.targets() as f32, ..Step::default() });
    program.run(device).expect("a run");
    let arena: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device, memory.arenas().gradients).expect("a read"));
    let mut gradients = Weights::default();
    for (_, parameter) in model.parameters.iter() {
        let Some(mut at) = parameter.arena_offset.map(|offset| offset as usize) else { continue };
        for piece in &parameter.pieces {
            let len = piece.shape.len() as usize;
            gradients.tensors.insert(piece.name.clone(), Weight::from_f32(piece.shape.clone(), &arena[at..at + len]));
            at += len;
        }
    }
    gradients
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
    let all = logits(&model, &memory, &batch);
    let vocabulary = all.len() / batch.tokens.len();
    let last = |(row, &length): (usize, &u32)| (row * batch.length as usize + length as usize - 1) * vocabulary;
    let ends: Vec<_> = batch.lengths.iter().enumerate().map(last).collect();
    let got: Vec<_> = ends.iter().flat_map(|&at| all[at..at + vocabulary].to_vec()).collect();
    close(&format!("{what}: logits"), &got, &values("logits"), 2e-5);

    let tensors = on_disk(fixture, &model, &gradients(fixture, &model, &memory));
    let count = tensors.len();
    assert_eq!(count, saved.weights.tensors.len(), "{what}: what trains is what PEFT saved");
    for (name, got) in tensors {
        let off = error(&got, &values(&format!("grad/{name}")));
        assert!(off < 1e-4, "{what}: the gradient of {name} is off by {off:e}");
    }

    let schedule = Schedule { peak: 1e-3, shape: Shape::Constant, warmup_steps: 0, steps: 30 };
    let mut trainer = Trainer::new(device, &model, &memory, TrainOptions { schedule, ..TrainOptions::default() }).expect("a trainer");
    let mut losses = Vec::new();
    for _ in 0..30 {
        losses.extend(trainer.step(std::slice::from_ref(&batch)).expect("a step").map(|report| report.loss));
    }
    while let Some(report) = trainer.finish().expect("the last steps") {
        losses.push(report.loss);
    }
    losses.push(Evaluator::new(device, &model, &memory).loss(std::slice::from_ref(&batch)).expect("a loss") as f32);
    let curve = values("loss_curve");
    assert_eq!(losses.len(), curve.len());
    for (step, (&got, want)) in losses.iter().zip(&curve).enumerate() {
        assert!((f64::from(got) - want).abs() <= 2e-4, "{what}: the loss after {step} steps is {got}, not {want}");
    }
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
