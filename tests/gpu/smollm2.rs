//! The real SmolLM2-135M-Instruct, quantised in Q4_1, against `transformers` on the same weights decoded. `tests/fixtures/make_smollm2.py`
//! computed the expected values; `scripts/fetch-smollm2` downloads the model.

use std::path::PathBuf;
use std::sync::LazyLock;

use graftling::generate::Generator;
use graftling::gpu::Device;
use graftling::model::{Base, BottleneckConfig, Model, Trains};
use graftling::sampling::Sampling;
use graftling::text::{Batch, ChatTemplate, Message};
use graftling::train::{Estimate, Evaluator, Schedule, Shape, TrainOptions, Trainer};
use graftling::weights::{Weight, Weights};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::harness::device;
use crate::whole::logits;

fn project(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn file() -> PathBuf {
    project("models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

static BASE: LazyLock<Base> = LazyLock::new(|| Base::open(&file()).expect("the model; run scripts/fetch-smollm2"));

/// The values of a tensor in the fixture.
fn numbers<T: bytemuck::Pod>(name: &str) -> Vec<T> {
    let bytes = std::fs::read(project("tests/fixtures/smollm2.safetensors")).expect("the fixture");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    bytemuck::pod_collect_to_vec(file.tensor(name).expect(name).data())
}

fn tokens(name: &str) -> Vec<u32> {
    numbers::<i32>(name).into_iter().map(|token| token as u32).collect()
}

fn texts() -> Value {
    serde_json::from_str(&std::fs::read_to_string(project("tests/fixtures/smollm2.json")).expect("the fixture")).expect("JSON")
}

/// Expects no difference above 2e-3.
fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let far = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    assert!(far <= 2e-3, "{what}: off by {far}");
}

#[test]
fn tokens_and_chats() {
    let (texts, tokenizer) = (texts(), &BASE.tokenizer);
    let ids = |value: &Value| value.as_array().expect("tokens").iter().map(|t| t.as_u64().expect("a token") as u32).collect::<Vec<_>>();
    for string in texts["strings"].as_array().expect("strings") {
        let text = string["text"].as_str().expect("a text");
        assert_eq!(tokenizer.encode(text).expect("tokens"), ids(&string["tokens"]), "{text:?}");
        assert_eq!(tokenizer.decode(&ids(&string["tokens"])), text);
    }
    let template = ChatTemplate::of(tokenizer).expect("a template");
    for chat in texts["chats"].as_array().expect("chats") {
        let text = |value: &Value| value.as_str().expect("a text").to_string();
        let messages = chat["messages"].as_array().expect("messages").iter();
        let messages: Vec<_> = messages.map(|m| Message { role: text(&m["role"]), content: text(&m["content"]) }).collect();
        let rendered = template.render(&messages, chat["add_generation_prompt"].as_bool().expect("a bool")).expect("a text");
        assert_eq!(rendered, text(&chat["text"]));
        assert_eq!(tokenizer.encode(&rendered).expect("tokens"), ids(&chat["tokens"]));
    }
}

#[test]
fn logits_and_a_continuation() {
    let base = &*BASE;
    let model = Model::new(&base.config, &[&base.weights], None, Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &[&base.weights], 0, false).expect("memory");

    let sentence = tokens("sentence.tokens");
    let logits = logits(&model, &memory, &Batch::new(&[&sentence]));
    let rows = || logits.chunks(base.config.vocab_size as usize);
    let every_16th: Vec<f32> = rows().flat_map(|row| row.iter().step_by(16).copied()).collect();
    close("logits of a sentence", &every_16th, &numbers("sentence.logits"));
    let sums: Vec<f32> = rows().map(|row| row.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln() as f32).collect();
    close("log-sum-exp of a sentence", &sums, &numbers("sentence.logsumexp"));

    let texts = texts();
    let prompt = base.tokenizer.encode_document(texts["prompt"].as_str().expect("a text")).expect("tokens");
    assert_eq!(prompt, tokens("prompt.tokens"));
    let mut generator = Generator::new(device(), &model, &memory, 64).expect("a generator");
    close("logits of the prompt", &generator.logits(&prompt).expect("logits"), &numbers("prompt.logits"));
    let sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
    let ends = base.tokenizer.end_tokens();
    let continuation = generator.generate(&prompt, 8, sampling, ends, |_| true).expect("tokens");
    assert_eq!(continuation, tokens("prompt.continuation"));
    assert_eq!(base.tokenizer.decode(&continuation), texts["continuation"].as_str().expect("a text"));
    assert!(base.tokenizer.decode(&continuation).starts_with(" Paris"));
}

/// Training follows PyTorch's, and the weights need hardly more memory than the file's size.
#[test]
fn training_follows_the_library() {
    follows_the_library(device(), false, 1e-3);
}

/// Compares 25 steps of seq_bn, with activations in f16 if `half`, with PyTorch's in f32.
pub fn follows_the_library(device: &Device, half: bool, tolerance: f32) {
    const STEPS: usize = 25;
    let base = &*BASE;
    let config = BottleneckConfig::seq_bn();
    let mut start = Weights::default();
    for layer in 0..base.config.layers {
        for (i, (end, shape)) in config.parameters(layer, base.config.hidden_size).expect("a width").into_iter().enumerate() {
            let n = f64::from(4 * layer) + i as f64;
            let matrix = shape.axes().len() == 2;
            let value = |i: u64| if matrix { (0.02 * (1.0 + 0.37 * i as f64 + 1.7 * n).sin()) as f32 } else { 0.0 };
            let values: Vec<f32> = (0..shape.len()).map(value).collect();
            let name = format!("model.layers.{layer}.output_adapters.adapters.default.{end}");
            start.tensors.insert(name, Weight::from_f32(shape, &values));
        }
    }
    let sources = [&base.weights, &start];
    let model = Model::new(&base.config, &sources, Some(&config.into()), Trains::adapters()).expect("a model").with_half_activations(half);
    let size = std::fs::metadata(file()).expect("the file").len();
    let estimate = Estimate::new(&model, device.traits(), 2, 16, false).expect("an estimate");
    assert!(estimate.weights <= size + size / 10, "{} bytes of weights from a file of {size}", estimate.weights);

    let memory = model.upload(device, &sources, 0, true).expect("memory");
    let tokens = tokens("train.tokens");
    let batch = Batch::new(&[&tokens[..16], &tokens[16..]]);
    let schedule = Schedule { peak: 1e-4, shape: Shape::Constant, warmup_steps: 0, steps: STEPS as u64 };
    let options = TrainOptions { schedule, ..TrainOptions::default() };
    let mut trainer = Trainer::new(device, &model, &memory, options).expect("a trainer");
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        losses.extend(trainer.step(std::slice::from_ref(&batch)).expect("a step").map(|report| report.loss));
    }
    while let Some(report) = trainer.finish().expect("the last steps") {
        losses.push(report.loss);
    }
    let taken = memory.bytes() + trainer.bytes();
    assert!(taken.abs_diff(estimate.total()) * 100 <= 15 * taken, "{taken} bytes allocated, {} estimated", estimate.total());
    losses.push(Evaluator::new(device, &model, &memory).loss(&[batch]).expect("a loss") as f32);
    let curve = numbers::<f32>("train.loss_curve");
    assert_eq!(losses.len(), curve.len());
    for (step, (got, want)) in losses.iter().zip(&curve).enumerate() {
        assert!((got - want).abs() <= tolerance, "the loss after {step} steps is {got}, not {want}");
    }
}
