//! Work that exceeds a device's limits: workgroups are folded, batches are cut, and anything else is an error before allocation.

use std::collections::BTreeSet;

use graftling::Error;
use graftling::generate::Generator;
use graftling::gpu::{Device, Memory, Program, State, Step};
use graftling::graph::wgsl::FILES;
use graftling::graph::{DType, Graph, Parameters, Tensor, Traits};
use graftling::model::{AdapterConfig, AdapterSetup, BaseDropout, Config, FusionConfig, Model, NamedAdapter, Trains};
use graftling::ops::optimizer::{Adam, adam};
use graftling::ops::{self, Pointwise, Pooling};
use graftling::text::{Batch, order_of};
use graftling::train::{Estimate, Evaluator, TrainOptions, Trainer, TrainerState};

use crate::checkpointing::{gpt, llama};
use crate::harness::{Random, all_traits, close, device, unchecked};
use crate::models::training;
use crate::whole::write_inputs;

/// Rows of 100 tokens, so that most kernels have several workgroups.
fn batch(rows: u32) -> Batch {
    let rows: Vec<Vec<u32>> = (0..rows).map(|row| (0..100).map(|i| (i * 7 + row * 3) % 50).collect()).collect();
    Batch::new(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// The entry points that a recording launches with folded workgroups.
fn folded(g: &Graph) -> impl Iterator<Item = String> {
    g.line().iter().filter(|dispatch| dispatch.kernel.folded.is_some()).map(|dispatch| dispatch.kernel.to_string())
}

/// What a step leaves in the arenas of values and gradients, and its loss.
fn step(traits: &Traits, model: &Model, folds: bool, seen: &mut BTreeSet<String>) -> [Vec<f32>; 3] {
    let (device, batch) = (unchecked(), batch(5));
    let memory = model.upload(device, &[], 5, true).expect("memory");
    let mut g = Graph::new(traits, &model.parameters, true);
    let inputs = model.inputs(&mut g, batch.rows, batch.length, batch.length);
    let targets = g.input("targets", [batch.rows, batch.length], DType::U32);
    let loss = model.loss(&mut g, &inputs, targets);
    g.backward(loss, loss);
    model.regularise(&mut g);
    adam(&mut g, &Adam::default(), None);
    if folds {
        g.fold();
        seen.extend(folded(&g));
    }
    let mut program = Program::new(device, &memory, &g).expect("a program");
    write_inputs(device, &program, model, &inputs, &batch);
    program.write(device, targets, &batch.targets);
    memory.clear(device);
    memory.set_step(device, Step { seed: 3, counter: 1, target_weight: 0.01, learning_rate: 0.1, ..Step::default() });
    program.run(device).expect("a run");
    let arenas = memory.arenas();
    let read = |arena| bytemuck::pod_collect_to_vec::<u8, f32>(&memory.read(device, arena).expect("a read"));
    [read(arenas.values), read(arenas.gradients), read(arenas.metrics)[..2].to_vec()]
}

/// The logits after a prompt of 17 tokens, and after one more.
fn generated(traits: &Traits, model: &Model, folds: bool, seen: &mut BTreeSet<String>) -> [Vec<f32>; 2] {
    let device = unchecked();
    let memory = model.upload(device, &[], 5, false).expect("memory");
    let mut state = None;
    let mut logits = |tokens: &[u32], start: u32| {
        let length = tokens.len() as u32;
        let mut g = Graph::new(traits, &model.parameters, false);
        let cache = model.cache(&mut g, 20);
        let inputs = model.inputs(&mut g, 1, length, 20);
        let hidden = model.hidden(&mut g, &inputs, Some(&cache));
        let logits = model.logits(&mut g, hidden);
        g.keep(logits);
        if folds {
            g.fold();
            seen.extend(folded(&g));
        }
        let state = state.get_or_insert_with(|| State::new(device, &g).expect("memory"));
        let mut program = Program::with_state(device, &memory, state, &g).expect("a program");
        program.write(device, inputs.tokens, tokens);
        program.write(device, cache.start, &[start]);
        if let Some((rope, table)) = inputs.rope.zip(model.rope_table(20)) {
            program.write(device, rope, &table);
        }
        program.run(device).expect("a run");
        program.read(device, &memory, logits).expect("a read")
    };
    [logits(&batch(1).tokens[..17], 0), logits(&[9], 17)]
}

/// What the ops of heads leave of 280 texts: the loss, and the gradient of the embeddings.
fn heads(traits: &Traits, folds: bool, seen: &mut BTreeSet<String>) -> Vec<f32> {
    let (device, [batch, length, hidden, vocabulary]) = (unchecked(), [280, 5, 12, 67]);
    let mut parameters = Parameters::default();
    let table = parameters.add("table", [vocabulary, hidden], DType::F32, true);
    let mut g = Graph::new(traits, &parameters, true);
    let input = |g: &mut Graph, name: &str, shape: &[usize]| g.input(name, shape, DType::U32);
    let shape = [batch as usize, length as usize];
    let (tokens, lengths) = (input(&mut g, "tokens", &shape), input(&mut g, "lengths", &shape[..1]));
    let (order, targets) = (input(&mut g, "order", &[shape[0] * shape[1]]), input(&mut g, "targets", &[shape[0], hidden as usize]));
    let x = ops::embedding(&mut g, tokens, table, Some(order));
    let [means, last] = [Pooling::Mean, Pooling::Last].map(|pooling| ops::pool(&mut g, x, lengths, pooling));
    let scores = ops::add(&mut g, means, last);
    let loss = ops::pointwise_loss(&mut g, scores, targets, Pointwise::SquaredError);
    g.backward(loss, loss);
    if folds {
        g.fold();
        seen.extend(folded(&g));
    }
    let memory = Memory::new(device, &parameters, true).expect("memory");
    memory.write(device, table, bytemuck::cast_slice(&Random(7).values((vocabulary * hidden) as usize)));
    let mut program = Program::new(device, &memory, &g).expect("a program");
    let words: Vec<u32> = (0..batch * length).map(|i| i * 7 % vocabulary).collect();
    program.write(device, tokens, &words);
    program.write(device, order, &order_of(&words));
    program.write(device, lengths, &(0..batch).map(|row| 1 + row % length).collect::<Vec<_>>());
    program.write(device, targets, &(0..batch * hidden).map(|i| (i as f32 / 3360.0).to_bits()).collect::<Vec<_>>());
    memory.clear(device);
    memory.set_step(device, Step { target_weight: 0.01, ..Step::default() });
    program.run(device).expect("a run");
    let gradients = bytemuck::pod_collect_to_vec(&memory.read(device, memory.arenas().gradients).expect("a read"));
    [vec![memory.metrics(device).expect("metrics").loss], gradients].concat()
}

/// Folded workgroups compute the same as unfolded ones, in every kernel that has more than one.
#[test]
fn every_kernel_folds() {
    let wide = |config: Config| Config { context: 128, layers: 1, hidden_size: 128, intermediate_size: 260, ..config };
    let odd = |config: Config| Config { intermediate_size: 257, hidden_size: 66, ..wide(config) };
    let mut seen = BTreeSet::new();
    let parsed = |spec: &str| AdapterConfig::parse(spec).expect("a spec");
    let one = |spec: &str| AdapterSetup::from(Some(&parsed(spec)));
    let names = ["a", "b"].map(String::from);
    let frozen = |name: &String| NamedAdapter { name: name.clone(), config: parsed("seq_bn[bottleneck=8]"), trains: false };
    let fused = AdapterSetup { adapters: names.iter().map(frozen).collect() }.under(&FusionConfig::new(names.into(), true).into());
    let fusion = (wide(llama()), fused);
    let llama = (wide(llama()), one("double_seq_bn_inv[bottleneck=8,dropout=0.1]"));
    let lora = (wide(gpt()), one("lora[target_modules=all-linear]"));
    let gpt = (odd(gpt()), one("scaled_par_bn[bottleneck=7,scaling=channel]"));
    let all = all_traits();
    for (traits, (config, adapters)) in all.iter().chain(&all[1..]).zip([&llama, &llama, &gpt, &lora, &fusion]) {
        let model = Model::new(config, &[], adapters, Trains::everything()).expect("a model");
        let mut run = |folds| {
            let trained = step(traits, &model, folds, &mut seen);
            trained.into_iter().chain(generated(traits, &model, folds, &mut seen)).collect::<Vec<_>>()
        };
        let (plain, folded) = (run(false), run(true));
        for (what, (plain, folded)) in ["values", "gradients", "loss", "prompt", "token"].iter().zip(plain.iter().zip(&folded)) {
            let plain: Vec<f64> = plain.iter().map(|&v| f64::from(v)).collect();
            assert!(plain.iter().any(|&v| v != 0.0), "the {what} are all zero");
            close(&format!("the folded {what}, cpu {}", traits.cpu), folded, &plain, 1e-6);
        }
    }
    for traits in &all {
        let (plain, folded) = (heads(traits, false, &mut seen), heads(traits, true, &mut seen));
        let plain: Vec<f64> = plain.iter().map(|&v| f64::from(v)).collect();
        close(&format!("the folded heads, cpu {}", traits.cpu), &folded, &plain, 1e-6);
    }
    // Few software devices have cooperative matrices.
    for (file, text) in FILES.iter().filter(|(file, _)| *file != "matmul_matrix") {
        for entry in text.split("@compute").skip(1).filter_map(|rest| rest.split_once("fn ")?.1.split_once('(')) {
            let name = format!("{file}.{}", entry.0);
            let single = ["loss.finish", "optimizer.finish_norm", "pointwise_loss.forward"].contains(&name.as_str());
            assert!(seen.contains(&name) != single, "{name} was never folded");
        }
    }
}

/// A batch that exceeds a limit takes the same steps as its micro-batches, bit for bit, and a resumed run has the same dropout masks as an
/// uninterrupted one.
#[test]
fn a_batch_is_cut_where_it_does_not_fit() {
    let mut tight = Device::open_checked(None).expect("a device");
    // The widest activation is the gate and up of a feed-forward layer, (5, 100, 128): three rows of it fit.
    tight.limit(|traits| traits.max_binding = 3 * 100 * 128 * 4);
    let config = Config { context: 128, dropout: BaseDropout::all(0.2), ..llama() };
    let adapter = AdapterConfig::parse("double_seq_bn[bottleneck=8,dropout=0.1]").expect("a spec");
    let model = Model::new(&config, &[], Some(&adapter), Trains::adapters()).expect("a model");
    let options = TrainOptions { checkpointing: true, ..training(5) };
    let run = |device: &Device, batches: &[Batch], resumed: bool| {
        let memory = model.upload(device, &[], 5, true).expect("memory");
        let mut trainer = Trainer::new(device, &model, &memory, options).expect("a trainer");
        for step in 0..4 {
            if resumed && step == 2 {
                let (state, moments) = (trainer.state().expect("a state"), trainer.moments(|_| true).expect("moments"));
                trainer = Trainer::new(device, &model, &memory, options).expect("a trainer");
                trainer.restore(&state, &moments).expect("moments");
            }
            trainer.step(batches).expect("a step");
        }
        let TrainerState { batches: counted, .. } = trainer.state().expect("a state");
        let loss = Evaluator::new(device, &model, &memory).loss(batches).expect("a loss");
        (counted, loss, memory.read(device, memory.arenas().values).expect("values"))
    };
    let whole = batch(5);
    let micro =
        Trainer::new(&tight, &model, &model.upload(&tight, &[], 5, true).expect("memory"), options).expect("a trainer").prepare(5, 100);
    assert_eq!(micro.expect("micro-batches"), 3);
    assert_eq!(Estimate::new(&model, tight.traits(), 5, 100, true).expect("an estimate").micro_batch, 3);

    let cut = run(&tight, std::slice::from_ref(&whole), false);
    let accumulated = run(device(), &whole.cut(3), false);
    assert_eq!((cut.0, accumulated.0), (8, 8));
    assert!(cut == accumulated, "a batch that is cut differs from accumulation");
    assert!(cut == run(&tight, &[whole], true), "a resumed run differs");
}

/// What no cut can make fit is refused, with a length that fits, before anything is allocated.
#[test]
fn a_row_that_does_not_fit_is_an_error() {
    let mut tight = Device::open_checked(None).expect("a device");
    tight.limit(|traits| traits.max_binding = 70 * 128 * 4);
    let config = Config { context: 1024, ..llama() };
    let model = Model::new(&config, &[], Some(&AdapterConfig::identity_bn(8)), Trains::adapters()).expect("a model");
    let memory = model.upload(&tight, &[], 5, true).expect("memory");
    let before = memory.bytes();
    let mut trainer = Trainer::new(&tight, &model, &memory, training(1)).expect("a trainer");
    let with_trainer = memory.bytes();
    for error in [
        trainer.prepare(2, 100).expect_err("too long"),
        trainer.step(&[batch(1)]).expect_err("too long"),
        Evaluator::new(&tight, &model, &memory).loss(&[batch(1)]).expect_err("too long"),
        Estimate::new(&model, tight.traits(), 2, 100, false).expect_err("too long"),
    ] {
        assert!(matches!(error, Error::Limit { .. }) && error.exit_code() == 4, "{error}");
        assert!(error.to_string().contains("--max-length 70"), "{error}");
        assert!(!error.to_string().contains("checkpointing"), "{error}");
    }
    assert_eq!(memory.bytes(), with_trainer, "something was allocated beside the {before} bytes of the model");
    assert_eq!(trainer.prepare(2, 70).expect("it fits"), 1);

    // The keys of 625 tokens fit, 2 heads of 8 each.
    tight.limit(|traits| traits.max_binding = 625 * 2 * 8 * 4);
    let error = Generator::new(&tight, &model, &memory, 1024).err().expect("too long");
    assert!(matches!(&error, Error::Limit { advice, .. } if advice.contains("--max-tokens") && advice.contains("625")), "{error}");
    tight.limit(|traits| traits.max_buffer = 1 << 10);
    let error = Memory::new(&tight, &model.parameters, true).err().expect("too small");
    assert!(matches!(&error, Error::Limit { advice, .. } if advice.contains("model")), "{error}");
}

/// Kernels count elements in u32.
#[test]
fn elements_past_u32_are_refused() {
    let parameters = graftling::graph::Parameters::default();
    let record = |rows: u32| {
        let traits = Traits { max_binding: u64::MAX, max_buffer: u64::MAX, ..Traits::minimal() };
        let mut g = Graph::new(&traits, &parameters, false);
        let x: Tensor = g.input("x", [rows, 1 << 15], DType::F32);
        graftling::ops::multiply(&mut g, x, 2.0);
        g.check_limits()
    };
    record(1 << 16).expect("2^31 elements");
    let error = record((1 << 16) + 1).expect_err("more");
    assert!(matches!(&error, Error::Limit { unit: "elements", .. }), "{error}");
}
