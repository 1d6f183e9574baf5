//! Whole models against PyTorch: `tests/fixtures/make.py` computed the expected values.

use graftling::gpu::{Memory, Program, Step};
use graftling::graph::{DType, Graph, Role, Tensor};
use graftling::model::{AdapterConfig, BaseDropout, BottleneckConfig, Config, Model, ToyLayer, Trains};
use graftling::ops::Activation;
use graftling::ops::optimizer::Adam;
use graftling::text::{Batch, IGNORED};
use graftling::train::{Evaluator, Schedule, Shape, TrainOptions, Trainer};
use graftling::weights::{Weight, Weights};
use safetensors::SafeTensors;

use crate::harness::{close, close_to, device};
use crate::whole::{logits, write_inputs};

/// A fixture in memory.
pub struct Fixture(Vec<u8>);

impl Fixture {
    pub fn read(name: &str) -> Fixture {
        let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Fixture(std::fs::read(path).expect("the fixture"))
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("a safetensors file")
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(self.file().tensor(name).unwrap_or_else(|_| panic!("the fixture has no '{name}'")).data())
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        self.f32(name).iter().map(|&v| f64::from(v)).collect()
    }

    fn i32(&self, name: &str) -> Vec<i32> {
        bytemuck::pod_collect_to_vec(self.file().tensor(name).expect(name).data())
    }

    /// The tensors that are neither inputs nor expected values.
    pub fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        for (name, view) in self.file().tensors() {
            if !name.starts_with("input.") && !name.starts_with("expect.") {
                let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
                weights.tensors.insert(name, Weight::from_f32(view.shape().into(), &values));
            }
        }
        weights
    }
}

pub fn config() -> Config {
    let config = Config {
        heads: 4,
        key_value_heads: 4,
        head_size: 8,
        intermediate_size: 96,
        dropout: BaseDropout::default(),
        ..Config::gpt(67, 16, 32, 2)
    };
    config.check().expect("a valid config");
    config
}

pub fn adapters() -> AdapterConfig {
    BottleneckConfig { dropout: 0.0, ..BottleneckConfig::identity_bn(8) }.into()
}

pub fn batch(fixture: &Fixture) -> Batch {
    let unsigned = |name: &str| fixture.i32(name).iter().map(|&v| if v < 0 { IGNORED } else { v as u32 }).collect::<Vec<_>>();
    let batch = Batch {
        rows: 3,
        length: 11,
        tokens: unsigned("input.tokens"),
        types: vec![0; 33],
        targets: unsigned("input.targets"),
        lengths: unsigned("input.lengths"),
    };
    assert_eq!(batch.targets(), 22);
    batch
}

#[test]
fn gpt_logits_loss_and_every_gradient() {
    let (device, fixture) = (device(), Fixture::read("gpt"));
    let (weights, batch) = (fixture.weights(), batch(&fixture));
    for trains in [Trains::adapters(), Trains::everything()] {
        let model = Model::new(&config(), &[&weights], Some(&adapters()), trains).expect("a model");
        let memory = model.upload(device, &[&weights], 0, true).expect("memory");
        close("logits", &logits(&model, &memory, &batch), &fixture.f64("expect.logits"), 5e-6);
        let loss = Evaluator::new(device, &model, &memory).loss(std::slice::from_ref(&batch)).expect("a loss");
        close("loss", &[loss as f32], &fixture.f64("expect.loss"), 2e-6);

        let mut g = Graph::new(device.traits(), &model.parameters, true);
        let inputs = model.inputs(&mut g, batch.rows, batch.length, batch.length);
        let targets = g.input("targets", [batch.rows, batch.length], DType::U32);
        let loss = model.loss(&mut g, &inputs, targets);
        g.backward(loss, loss);
        let mut program = Program::new(device, &memory, &g).expect("a program");
        write_inputs(device, &program, &model, &inputs, &batch);
        program.write(device, targets, &batch.targets);
        memory.set_step(device, Step { target_weight: 1.0 / 22.0, ..Step::default() });
        memory.clear(device);
        program.run(device).expect("a run");
        let mut compared = 0;
        for (tensor, parameter) in model.parameters.iter() {
            let Some(gradient) = g.weight_gradient(tensor) else { continue };
            let got = read_range(&memory, gradient, &g);
            let want = fixture.f64(&format!("expect.grad.{}", parameter.name));
            // The gradient of the key biases is zero up to rounding, hence the small absolute tolerance.
            let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            close_to(&format!("gradient of {}", parameter.name), &got, &want, 1e-4 * largest + 1e-8);
            let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
            let error = norm(&mut got.iter().zip(&want).map(|(&g, w)| f64::from(g) - w));
            assert!(error <= 1e-5 * norm(&mut want.iter().copied()) + 1e-8, "gradient of {}: off by {error:e}", parameter.name);
            compared += 1;
        }
        assert_eq!(compared, if trains == Trains::everything() { 44 } else { 16 });
    }
}

/// A range of the gradient arena.
fn read_range(memory: &Memory, gradient: Tensor, g: &Graph) -> Vec<f32> {
    let arena: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device(), memory.arenas().gradients).expect("a read"));
    let (_, offset) = g.root(gradient);
    let first = offset as usize / 4;
    arena[first..first + g.shape(gradient).len() as usize].to_vec()
}

/// The losses of training on one batch, before each of 100 steps and after the last, and the gradient norms.
fn curve(trains: Trains, options: TrainOptions, fixture: &Fixture) -> (Vec<f32>, Vec<f32>) {
    let (device, weights, batch) = (device(), fixture.weights(), batch(fixture));
    let model = Model::new(&config(), &[&weights], Some(&adapters()), trains).expect("a model");
    let memory = model.upload(device, &[&weights], 0, true).expect("memory");
    let mut trainer = Trainer::new(device, &model, &memory, options).expect("a trainer");
    let mut reports = Vec::new();
    for _ in 0..100 {
        reports.extend(trainer.step(std::slice::from_ref(&batch)).expect("a step"));
    }
    while let Some(report) = trainer.finish().expect("a report") {
        reports.push(report);
    }
    assert_eq!(reports.iter().map(|r| r.step).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    let mut losses: Vec<f32> = reports.iter().map(|r| r.loss).collect();
    losses.push(Evaluator::new(device, &model, &memory).loss(&[batch]).expect("a loss") as f32);
    (losses, reports.iter().map(|r| r.gradient_norm).collect())
}

fn compare_curve(name: &str, got: &[f32], want: &[f64]) {
    close_to(&format!("{name}: the first steps"), &got[..20], &want[..20], 1e-4);
    close_to(name, got, want, 1e-3);
}

#[test]
fn curves_of_100_steps() {
    let fixture = Fixture::read("gpt");
    let schedule = Schedule { peak: 1e-3, shape: Shape::Constant, warmup_steps: 0, steps: 100 };
    let options = TrainOptions { schedule, ..TrainOptions::default() };
    for (name, trains) in [("adapters", Trains::adapters()), ("all", Trains::everything())] {
        compare_curve(name, &curve(trains, options, &fixture).0, &fixture.f64(&format!("expect.curve.{name}")));
    }

    let max_norm = fixture.f64("expect.curve.adamw_clip.max_norm")[0];
    let adam = Adam { weight_decay: 0.1, decoupled: true, clip_norm: Some(max_norm), ..Adam::default() };
    let schedule = Schedule { peak: 3e-3, shape: Shape::Cosine, warmup_steps: 10, steps: 100 };
    let rates: Vec<f32> = (0..100).map(|s| schedule.at(s) as f32).collect();
    close("learning rates", &rates, &fixture.f64("expect.curve.adamw_clip.learning_rates"), 1e-6);
    let (losses, norms) = curve(Trains::adapters(), TrainOptions { adam, schedule, ..TrainOptions::default() }, &fixture);
    compare_curve("adamw_clip", &losses, &fixture.f64("expect.curve.adamw_clip"));
    close("gradient norms", &norms, &fixture.f64("expect.curve.adamw_clip.grad_norms"), 1e-3);
}

#[test]
fn toy_layer() {
    let (device, fixture) = (device(), Fixture::read("toy"));
    let weights = fixture.weights();
    // The fixture is (length 10, batch 32, hidden 128); a program expects (batch, length, hidden).
    let (length, rows, hidden) = (10, 32, 128);
    let batch_first = |v: Vec<f32>| -> Vec<f32> {
        (0..v.len()).map(|i| v[(i / hidden % length * rows + i / (hidden * length)) * hidden + i % hidden]).collect()
    };
    let exact = |v: Vec<f32>| batch_first(v).iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    for trains_all in [true, false] {
        let layer = ToyLayer::new(hidden as u32, 4, 16, trains_all);
        let memory = Memory::new(device, &layer.parameters, true).expect("memory");
        for (tensor, parameter) in layer.parameters.iter() {
            memory.write(device, tensor, &weights.get(&parameter.name, &parameter.shape).expect("a weight").bytes());
        }
        let mut g = Graph::new(device.traits(), &layer.parameters, true);
        let x = g.input("x", [rows as u32, length as u32, hidden as u32], DType::F32);
        if trains_all {
            g.track(x);
        }
        let lengths = g.input("lengths", [rows as u32], DType::U32);
        let y = layer.forward(&mut g, x, lengths);
        assert_eq!(g.shape(y), g.shape(x));
        g.keep(y);
        let dy = g.input("dy", [rows as u32, length as u32, hidden as u32], DType::F32);
        g.backward(y, dy);
        let dx = g.gradient(x);
        assert_eq!(dx.is_some(), trains_all);
        dx.into_iter().for_each(|dx| g.keep(dx));
        let mut program = Program::new(device, &memory, &g).expect("a program");
        program.write(device, x, &batch_first(fixture.f32("input.x")));
        program.write(device, dy, &batch_first(fixture.f32("input.dy")));
        program.write(device, lengths, &[length as u32; 32]);
        memory.clear(device);
        program.run(device).expect("a run");
        close("y", &program.read(device, &memory, y).expect("y"), &exact(fixture.f32("expect.y")), 2e-6);
        if let Some(dx) = dx {
            close("dx", &program.read(device, &memory, dx).expect("dx"), &exact(fixture.f32("expect.grad.x")), 1e-5);
        }
        for (tensor, parameter) in layer.parameters.iter() {
            if let Some(gradient) = g.weight_gradient(tensor) {
                let want = fixture.f64(&format!("expect.grad.{}", parameter.name));
                close(&format!("gradient of {}", parameter.name), &read_range(&memory, gradient, &g), &want, 1e-4);
            }
        }
    }
}

/// With zero up-projections, a model with adapters returns exactly the base's logits.
#[test]
fn identity_adapters_change_no_bit() {
    let (device, fixture) = (device(), Fixture::read("gpt"));
    let (mut weights, batch) = (fixture.weights(), batch(&fixture));
    weights.tensors.retain(|name, _| !name.contains("_adapters."));
    let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let plain = Model::new(&config(), &[&weights], None, Trains::adapters()).expect("a model");
    let memory = plain.upload(device, &[&weights], 0, false).expect("memory");
    let want = bits(logits(&plain, &memory, &batch));
    for adapters in
        [AdapterConfig::identity_bn(8), BottleneckConfig { activation: Activation::Relu, ..BottleneckConfig::identity_bn(16) }.into()]
    {
        let adapted = Model::new(&config(), &[&weights], Some(&adapters), Trains::adapters()).expect("a model");
        let memory = adapted.upload(device, &[&weights], 5, false).expect("memory");
        assert_eq!(bits(logits(&adapted, &memory, &batch)), want);
    }
}

pub fn training(steps: u64) -> TrainOptions {
    let schedule = Schedule { peak: 1e-2, shape: Shape::Constant, warmup_steps: 0, steps };
    TrainOptions { schedule, seed: 3, ..TrainOptions::default() }
}

/// Frozen bytes never change, whatever trains; a repeated run gives the same bits, even with dropout.
#[test]
fn frozen_bytes_stay_and_runs_repeat() {
    let (device, fixture) = (device(), Fixture::read("gpt"));
    let (weights, batch) = (fixture.weights(), batch(&fixture));
    for trains in
        [Trains::adapters(), Trains { head: true, norms: true, ..Trains::adapters() }, Trains { embeddings: true, ..Trains::adapters() }]
    {
        let config = Config { dropout: BaseDropout { attention: 0.1, ffn_output: 0.1, ..BaseDropout::default() }, ..config() };
        let model = Model::new(&config, &[&weights], Some(&AdapterConfig::identity_bn(8)), trains).expect("a model");
        let run = || {
            let memory = model.upload(device, &[&weights], 0, true).expect("memory");
            let before = model.frozen_fingerprint(device, &memory).expect("a hash");
            let start = memory.read(device, memory.arenas().values).expect("values");
            let mut trainer = Trainer::new(device, &model, &memory, training(5)).expect("a trainer");
            for _ in 0..5 {
                trainer.step(&[batch.clone(), batch.clone()]).expect("a step");
            }
            while trainer.finish().expect("a report").is_some() {}
            assert_eq!(model.frozen_fingerprint(device, &memory).expect("a hash"), before, "training changed a frozen weight");
            let end = memory.read(device, memory.arenas().values).expect("values");
            assert_ne!(start, end, "training changed nothing");
            end
        };
        assert_eq!(run(), run(), "two runs differ");
    }
}

/// The rows of a batch, accumulated one by one, give the step of the whole batch.
#[test]
fn accumulation_is_the_whole_batch() {
    let (device, fixture) = (device(), Fixture::read("gpt"));
    let (weights, whole) = (fixture.weights(), batch(&fixture));
    let row = |r: usize| Batch {
        rows: 1,
        length: 11,
        tokens: whole.tokens[r * 11..][..11].to_vec(),
        types: vec![0; 11],
        targets: whole.targets[r * 11..][..11].to_vec(),
        lengths: vec![whole.lengths[r]],
    };
    let model = Model::new(&config(), &[&weights], Some(&adapters()), Trains::everything()).expect("a model");
    let run = |batches: &[Batch]| {
        let memory = model.upload(device, &[&weights], 0, true).expect("memory");
        let mut trainer = Trainer::new(device, &model, &memory, training(1)).expect("a trainer");
        let early = trainer.step(batches).expect("a step");
        let report = early.or_else(|| trainer.finish().expect("a report")).expect("the report of one step");
        let gradients: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device, memory.arenas().gradients).expect("gradients"));
        (report, gradients)
    };
    let (a, gradients) = run(std::slice::from_ref(&whole));
    let (b, accumulated) = run(&[row(0), row(1), row(2)]);
    close("loss", &[b.loss], &[f64::from(a.loss)], 1e-6);
    close("gradients", &accumulated, &gradients.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), 1e-5);
}

/// Backward stops below the lowest trainable tensor, and no dispatch writes a frozen weight or gives it a gradient.
#[test]
fn backward_stops_at_the_lowest_trainable_tensor() {
    let record = |adapters: Option<&AdapterConfig>, trains: Trains| {
        let model = Model::new(&config(), &[], adapters, trains).expect("a model");
        let mut g = Graph::new(device().traits(), &model.parameters, true);
        let inputs = model.inputs(&mut g, 2, 8, 8);
        let targets = g.input("targets", [2, 8], DType::U32);
        let loss = model.loss(&mut g, &inputs, targets);
        let forward = g.line().len();
        g.backward(loss, loss);
        for dispatch in g.line() {
            let reflection = dispatch.kernel.reflect();
            for (binding, argument) in reflection.storage.iter().zip(&dispatch.arguments) {
                let (root, _) = g.root(argument.tensor);
                if g.info(root).role == Role::Frozen {
                    assert!(!binding.writable, "{} binds the frozen {} for writing", dispatch.label, g.info(root).label);
                }
            }
        }
        g.line()[forward..].iter().map(|d| d.label.clone()).collect::<Vec<_>>()
    };
    assert_eq!(record(None, Trains::adapters()), Vec::<String>::new(), "nothing trains, so there is no backward pass");

    // Only the head: its own gradient, nothing below.
    let head = record(None, Trains { head: true, ..Trains::adapters() });
    assert!(head.iter().all(|l| l.starts_with("loss.")) && !head.iter().any(|l| l.contains("input_gradient")), "{head:?}");

    // Adapters: below the first block's attention adapter nothing runs, and no weight of the base gets a gradient.
    let adapters = record(Some(&adapters()), Trains::adapters());
    assert!(!adapters.iter().any(|l| l.starts_with("h0.attn.") || l.contains("embedding")), "{adapters:#?}");
    assert!(adapters.iter().any(|l| l.starts_with("h1.attn.attention") && l.contains(".backward")));
    let weights: Vec<_> = adapters.iter().filter(|l| l.contains("weight_gradient")).collect();
    assert!(weights.iter().all(|l| l.contains("_adapter.")), "{weights:?}");
    assert_eq!(weights.len(), 2 * 2 * 2, "two matrices in each of two adapters of each of two blocks");

    let everything = record(None, Trains::everything());
    assert_eq!(everything.iter().filter(|l| l.ends_with("embedding.token_gradient")).count(), 1);
}

/// A snapshot of a toy model's recorded program, which shows changed dispatches in review. `BLESS=1` rewrites it.
#[test]
fn the_program_of_a_toy_model() {
    let model = Model::new(&config(), &[], Some(&AdapterConfig::identity_bn(8)), Trains::adapters()).expect("a model");
    let mut g = Graph::new(&graftling::graph::Traits::minimal(), &model.parameters, true);
    let inputs = model.inputs(&mut g, 2, 8, 8);
    let targets = g.input("targets", [2, 8], DType::U32);
    let loss = model.loss(&mut g, &inputs, targets);
    g.backward(loss, loss);
    let name = |t: Tensor| format!("{} {}", g.info(t).label, g.shape(t));
    let mut text = String::new();
    for d in g.line() {
        let arguments: Vec<_> = d.arguments.iter().map(|a| format!("{:?} {}", a.access, name(a.tensor)).to_lowercase()).collect();
        text += &format!("{} {:?}: {}\n", d.label, d.workgroups, arguments.join(", "));
    }
    let plan = g.plan();
    text += &format!("{} buffers for activations, {} bytes\n", plan.sizes.len(), plan.sizes.iter().sum::<u64>());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/program.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).expect("the snapshot");
    }
    assert_eq!(text, std::fs::read_to_string(path).expect("the snapshot"), "the program has changed; BLESS=1 accepts it");
}
