//! Work measured by the device's own clock: a step, and the submissions that a program is cut into.

use graftling::gpu::{Memory, Program};
use graftling::graph::{DType, Graph, Parameters};
use graftling::model::{AdapterConfig, Model, Trains};
use graftling::ops::{self, Linear};
use graftling::text::Batch;
use graftling::train::Trainer;

use super::harness::device;
use super::models;

#[test]
fn every_dispatch_of_a_step_is_timed() {
    let model = Model::new(&models::config(), &[], Some(&AdapterConfig::identity_bn(8)), Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &[], 5, true).expect("memory");
    let mut trainer = Trainer::new(device(), &model, &memory, models::training(1)).expect("a trainer");
    let batch = Batch::new(&[&[1, 2, 3, 4, 5, 6, 7, 8]]);
    let timings = trainer.time(&batch).expect("time stamps");
    let total: f64 = timings.iter().map(|t| t.seconds).sum();
    assert!((1e-5..60.0).contains(&total), "{total} s");
    assert!(timings.iter().all(|t| t.bytes > 0 && t.seconds >= 0.0), "{timings:?}");
    let (first, last) = (&timings[0], timings.last().expect("an optimizer"));
    assert_eq!((first.kernel.as_str(), last.kernel.as_str()), ("embedding.forward", "optimizer.adam"));

    // A query, key and value projection of 8 tokens: a multiplication and an addition for each weight and token.
    let hidden = u64::from(models::config().hidden_size);
    let projection = timings.iter().find(|t| t.label.starts_with("h0.attn.matmul")).expect("a product");
    assert_eq!(projection.operations, 2 * 8 * hidden * 3 * hidden);
}

/// Once a program has been timed, its submissions have many dispatches and still take about 100 ms at most.
#[test]
fn submissions_are_as_long_as_they_may_be() {
    const PRODUCTS: usize = 120;
    let mut parameters = Parameters::default();
    let layer = Linear::new(parameters.add("weight", [512, 512], DType::F32, false), None);
    let mut g = Graph::new(device().traits(), &parameters, false);
    let x = g.input("x", [128, 512], DType::F32);
    for _ in 0..PRODUCTS {
        ops::linear(&mut g, x, &layer);
    }
    let memory = Memory::new(device(), &parameters, false).expect("memory");
    let mut program = Program::new(device(), &memory, &g).expect("a program");
    for _ in 0..3 {
        program.run(device()).expect("a run");
    }
    // The minimum of several times, since other work on the machine can only add to it.
    let times = [(); 3].map(|()| program.time(device()).expect("time stamps"));
    let least = |i: usize| times.iter().map(|timings| timings[i].seconds).fold(f64::INFINITY, f64::min);
    let submissions = program.submissions(device());
    assert!(submissions.len() <= PRODUCTS / 2, "{submissions:?}");
    assert_eq!(submissions.iter().map(|submission| submission.len()).sum::<usize>(), PRODUCTS);
    for submission in submissions {
        let seconds: f64 = submission.clone().map(least).sum();
        assert!(seconds < 0.15, "dispatches {submission:?} take {seconds} s");
    }
}
