//! Activations in f16: every kernel family that handles them, and training that matches f32.

use graftling::doctor::examine;
use graftling::gpu::{Memory, Program};
use graftling::graph::{Graph, Traits};
use graftling::model::{AdapterConfig, BaseDropout, Config, Model, Trains};
use graftling::train::{Estimate, Evaluator, LossScaler, Report, TrainOptions, Trainer, TrainerState};

use crate::checkpointing::{batch, gpt, llama};
use crate::harness::{all_traits, device};
use crate::models;
use crate::whole::write_inputs;

fn all_right(traits: &Traits, wanted: impl Fn(&str) -> bool) {
    assert!(traits.half, "these tests need a device with 16-bit floats");
    let findings = examine(device(), traits, true, wanted, |_| ()).expect("a working device");
    let wrong: Vec<_> = findings.iter().filter_map(|finding| finding.wrong.as_ref()).collect();
    assert!(wrong.is_empty() && !findings.is_empty(), "{wrong:#?}");
}

/// The kernels of this device, then the differing ones of other devices. The formats of frozen weights make no difference here.
#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        all_right(&traits, |name| !name.contains("matmul") || ["matmul f32", "matmul q4_k"].contains(&name));
    }
}

/// The gradient of a model's first step matches f32 up to rounding, which is small only if the loss is scaled; and memory and
/// checkpointing behave as in f32.
#[test]
fn training() {
    let norms = Trains { norms: true, ..Trains::adapters() };
    for (config, adapter, trains) in [
        (llama(), "double_seq_bn[bottleneck=8,dropout=0.1]", Trains::adapters()),
        (llama(), "scaled_par_bn[bottleneck=8]", Trains::everything()),
        (llama(), "seq_bn[bottleneck=8,scaling=0.0001]", Trains::adapters()),
        (gpt(), "seq_bn[bottleneck=8,ln_after=True]", norms),
    ] {
        let adapter = AdapterConfig::parse(adapter).expect("a spec");
        let run = |half, checkpointing| {
            let model = Model::new(&config, &[], Some(&adapter), trains).expect("a model").with_half_activations(half);
            let memory = model.upload(device(), &[], 5, true).expect("memory");
            let options = TrainOptions { checkpointing, ..models::training(3) };
            let mut trainer = Trainer::new(device(), &model, &memory, options).expect("a trainer");
            let reports = trainer.step(&[batch()]).expect("a step");
            let report = reports.or_else(|| trainer.finish().expect("a report")).expect("a report");
            assert!(!report.skipped);
            let gradient = memory.read(device(), memory.arenas().gradients).expect("gradients");
            let gradient: Vec<f64> = bytemuck::pod_collect_to_vec::<_, f32>(&gradient).into_iter().map(f64::from).collect();
            (report, gradient, Estimate::new(&model, device().traits(), 2, 17, checkpointing).expect("an estimate").programs)
        };
        let ((single, want, bytes), (half, got, fewer)) = (run(false, false), run(true, false));
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        // The backward pass starts from the scaled loss; the reported norm is unscaled.
        let factor = f64::from(half.gradient_norm) / norm(&got);
        let off: Vec<f64> = got.iter().zip(&want).map(|(got, want)| got * factor - want).collect();
        let share = norm(&off) / norm(&want);
        assert!((half.loss - single.loss).abs() < 1e-3 * single.loss, "{adapter}: a loss of {} and not {}", half.loss, single.loss);
        assert!(share < 1.0 / 512.0, "{adapter}: the gradient is off by {share} of itself");
        assert!((fewer as f64) < 0.8 * bytes as f64, "{adapter}: {fewer} of {bytes} bytes");
        let (again, gradient, _) = run(true, true);
        assert!(again == half && gradient == got, "{adapter}: checkpointing changes it");
    }
}

/// Multiplies the weights of a model whose names contain one of these words.
fn multiply(model: &Model, memory: &Memory, words: &[&str], factor: f32) {
    let named = |name: &str| words.iter().any(|word| name.contains(word));
    for (tensor, _) in model.parameters.iter().filter(|(_, p)| p.pieces.iter().any(|piece| named(&piece.name))) {
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device(), tensor).expect("a weight"));
        let values: Vec<f32> = values.iter().map(|v| v * factor).collect();
        memory.write(device(), tensor, bytemuck::cast_slice(&values));
    }
}

/// The largest gated product of a model's feed-forward layers, and the largest output of a down-projection.
fn largest_activations(model: &Model, memory: &Memory) -> [f32; 2] {
    let mut g = Graph::new(device().traits(), &model.parameters, false);
    let batch = batch();
    let inputs = model.inputs(&mut g, batch.rows, batch.length, batch.length);
    model.hidden(&mut g, &inputs, None);
    let written: Vec<_> = g.line().iter().flat_map(|dispatch| dispatch.arguments.last()).map(|argument| argument.tensor).collect();
    let gated: Vec<_> = (0..written.len()).filter(|&i| g.info(written[i]).label.ends_with("ffn.gated")).collect();
    let tensors: Vec<_> = gated.iter().map(|&i| [written[i], written[i + 1]]).collect();
    tensors.as_flattened().iter().for_each(|&tensor| g.keep(tensor));
    let mut program = Program::new(device(), memory, &g).expect("a program");
    write_inputs(device(), &program, model, &inputs, &batch);
    program.run(device()).expect("a run");
    let largest = |tensor| program.read(device(), memory, tensor).expect("values").iter().fold(0.0f32, |m, v| m.max(v.abs()));
    [0, 1].map(|i| tensors.iter().map(|pair| largest(pair[i])).fold(0.0, f32::max))
}

/// Models with massive activations (Sun et al. 2024): if the gated product, or only the down-projection's output, exceeds the largest
/// f16 value, evaluation and training in f16 stay near those in f32.
#[test]
fn massive_activations() {
    const LARGEST: f32 = 65_504.0;
    let config = Config { dropout: BaseDropout::default(), ..llama() };
    let adapter = AdapterConfig::parse("seq_bn[bottleneck=8]").expect("a spec");
    for (input_factor, output_factor, past) in [(3000.0, 0.1, [true, false]), (100.0, 2000.0, [false, true])] {
        let run = |half| {
            let model = Model::new(&config, &[], Some(&adapter), Trains::adapters()).expect("a model").with_half_activations(half);
            let memory = model.upload(device(), &[], 5, true).expect("memory");
            multiply(&model, &memory, &["gate_proj", "up_proj"], input_factor);
            multiply(&model, &memory, &["down_proj"], output_factor);
            multiply(&model, &memory, &["embed_tokens"], 50.0);
            let largest = largest_activations(&model, &memory);
            assert_eq!(largest.map(|v| v > LARGEST), past, "{largest:?}");
            let loss = Evaluator::new(device(), &model, &memory).loss(&[batch()]).expect("a loss");
            let mut trainer = Trainer::new(device(), &model, &memory, models::training(3)).expect("a trainer");
            let reports = steps(&mut trainer, 3);
            assert!(reports.iter().all(|report| !report.skipped), "{reports:?}");
            [vec![loss as f32], reports.iter().map(|report| report.loss).collect()].concat()
        };
        let (single, half) = (run(false), run(true));
        assert!(single.iter().zip(&half).all(|(want, got)| (got - want).abs() < 2e-3 * want), "{half:?} and not {single:?}");
        assert!(single[3] < single[1], "{single:?}: nothing is learned");
    }
}

/// Takes more steps and returns their reports.
fn steps(trainer: &mut Trainer, count: usize) -> Vec<Report> {
    let mut reports = Vec::new();
    for _ in 0..count {
        reports.extend(trainer.step(&[batch()]).expect("a step"));
    }
    while let Some(report) = trainer.finish().expect("a report") {
        reports.push(report);
    }
    reports
}

/// From a loss scale that is far too high, it takes more than ten overflows in a row to find one at which steps count, and the run
/// continues. So does a run that was saved during these steps, and it ends with the same bytes.
#[test]
fn overflows_lower_the_loss_scale() {
    let adapter = AdapterConfig::parse("double_seq_bn[bottleneck=8,dropout=0.1]").expect("a spec");
    let model = Model::new(&llama(), &[], Some(&adapter), Trains::adapters()).expect("a model").with_half_activations(true);
    let begin = |weights: &[&_]| model.upload(device(), weights, 5, true).expect("memory");
    let trainer = |memory| Trainer::new(device(), &model, memory, models::training(60)).expect("a trainer");
    let scale = 2f32.powi(40);

    let memory = begin(&[]);
    let mut whole = trainer(&memory);
    assert_eq!(whole.state().expect("a state").loss_scaler, Some(LossScaler { scale: 65_536.0, growth_tracker: 0 }));
    let high = TrainerState { loss_scaler: Some(LossScaler { scale, growth_tracker: 7 }), ..TrainerState::default() };
    let moments = whole.moments(|_| true).expect("moments");
    whole.restore(&high, &moments).expect("it fits");
    let mut reports = steps(&mut whole, 7);
    let weights = model.download(device(), &memory, |_| true).expect("weights");
    let (moments, state) = (whole.moments(|_| true).expect("moments"), whole.state().expect("a state"));
    assert_eq!(state.loss_scaler, Some(LossScaler { scale: scale / 128.0, growth_tracker: 0 }));
    reports.extend(steps(&mut whole, 33));

    let skipped = reports.iter().take_while(|report| report.skipped).count();
    assert!((12..30).contains(&skipped), "{skipped} steps were skipped");
    for (step, report) in reports.iter().enumerate() {
        let halvings = skipped.min(step + 1) as i32;
        assert_eq!((report.skipped, report.loss_scale), (step < skipped, Some(scale / 2f32.powi(halvings))), "{report:?}");
    }
    assert!(reports[39].loss < reports[0].loss, "{reports:?}");
    let end = whole.state().expect("a state");
    assert_eq!((end.updates, end.skipped, end.skipped_in_a_row), (40 - skipped as u32, skipped as u32, 0));

    // The state goes through its file.
    let state: TrainerState = serde_json::from_str(&serde_json::to_string(&state).expect("JSON")).expect("a state");
    let resumed_memory = begin(&[&weights]);
    let mut resumed = trainer(&resumed_memory);
    resumed.restore(&state, &moments).expect("it fits");
    // Compared as text, since the norm of an overflowed gradient is NaN, which equals nothing.
    assert_eq!(format!("{:?}", steps(&mut resumed, 33)), format!("{:?}", &reports[7..]));
    assert_eq!(resumed.state().expect("a state"), end);
    let bytes = |memory: &Memory| {
        let arenas = memory.arenas();
        [arenas.values, arenas.first_moment, arenas.second_moment].map(|arena| memory.read(device(), arena).expect("an arena"))
    };
    assert!(bytes(&memory) == bytes(&resumed_memory), "the resumed run comes to other bytes");
}

/// In f32 there is no loss scale. Checkpoints from before there was one are valid in f32, and in f16 start at the initial scale.
#[test]
fn states_without_a_loss_scale() {
    let old = r#"{"step":3,"batches":3,"updates":2,"skipped":1,"skipped_in_a_row":0}"#;
    let state: TrainerState = serde_json::from_str(old).expect("a state");
    assert_eq!(serde_json::to_string(&state).expect("JSON"), old);
    let adapter = AdapterConfig::parse("seq_bn[bottleneck=8]").expect("a spec");
    for half in [false, true] {
        let model = Model::new(&llama(), &[], Some(&adapter), Trains::adapters()).expect("a model").with_half_activations(half);
        let memory = model.upload(device(), &[], 5, true).expect("memory");
        let mut trainer = Trainer::new(device(), &model, &memory, models::training(9)).expect("a trainer");
        let moments = trainer.moments(|_| true).expect("moments");
        for before in [None, Some(LossScaler { scale: 8.0, growth_tracker: 5 })] {
            trainer.restore(&TrainerState { loss_scaler: before, ..state }, &moments).expect("it fits");
            let scaler = half.then(|| before.unwrap_or_default());
            assert_eq!(trainer.state().expect("a state"), TrainerState { loss_scaler: scaler, ..state });
            assert_eq!(memory.metrics(device()).expect("metrics").loss_scale, scaler.map_or(1.0, |scaler| scaler.scale));
        }
    }
}
