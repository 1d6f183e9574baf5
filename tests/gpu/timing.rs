//! The device's own clock on a step.

use graftling::model::{AdapterConfig, Model, Trains};
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
