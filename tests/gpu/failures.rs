//! What becomes of a run when something goes wrong on the device.

use graftling::Error;
use graftling::gpu::{Device, Memory};
use graftling::graph::DType;
use graftling::model::{Model, Trains};
use graftling::train::Trainer;

use crate::harness::device;
use crate::models::{Fixture, adapters, batch, config, training};

/// Gradients that are not finite are skipped and counted; ten steps in a row end the run.
#[test]
fn divergence_is_an_error_that_names_the_step() {
    let (device, fixture) = (device(), Fixture::read("gpt"));
    let (weights, batch) = (fixture.weights(), batch(&fixture));
    let model = Model::new(&config(), &[&weights], Some(&adapters()), Trains::adapters()).expect("a model");
    let memory = model.upload(device, &[&weights], 0, true).expect("memory");
    let values = memory.read(device, memory.arenas().values).expect("values");
    let mut poisoned: Vec<f32> = bytemuck::pod_collect_to_vec(&values);
    poisoned[0] = f32::INFINITY;
    memory.write(device, memory.arenas().values, bytemuck::cast_slice(&poisoned));
    let mut trainer = Trainer::new(device, &model, &memory, training(100)).expect("a trainer");
    let mut skipped = 0;
    let error = loop {
        match trainer.step(std::slice::from_ref(&batch)) {
            Ok(report) => skipped += report.is_some_and(|r| r.skipped) as u32,
            Err(error) => break error,
        }
    };
    assert_eq!(skipped, 9);
    assert!(matches!(error, Error::Diverged { count: 10, step: 10, .. }), "{error}");
    assert_eq!(error.exit_code(), 6);
    assert_eq!(memory.read(device, memory.arenas().values).expect("values"), bytemuck::cast_slice::<f32, u8>(&poisoned));
    let error = model.download(device, &memory, |_| true).expect_err("an infinite weight is no result");
    assert!(error.to_string().contains("is not finite"), "{error}");
}

/// A lost device and limits that are too small are errors, not panics.
#[test]
fn lost_devices_and_limits() {
    let own = Device::open(None).expect("a device");
    let fixture = Fixture::read("gpt");
    let weights = fixture.weights();
    let model = Model::new(&config(), &[&weights], Some(&adapters()), Trains::adapters()).expect("a model");
    let memory = model.upload(&own, &[&weights], 0, true).expect("memory");
    let mut trainer = Trainer::new(&own, &model, &memory, training(5)).expect("a trainer");
    trainer.step(&[batch(&fixture)]).expect("a step");
    own.lose();
    let error = trainer.step(&[batch(&fixture)]).expect_err("the device is gone");
    assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);

    let mut parameters = graftling::graph::Parameters::default();
    parameters.add("enormous", [1 << 24, 1 << 24], DType::F32, false);
    let error = Memory::new(device(), &parameters, false).err().expect("no device has that much");
    assert!(matches!(error, Error::Limit { .. }) && error.to_string().contains("enormous"), "{error}");
    assert_eq!(error.exit_code(), 4);

    let error = Device::open(Some("no such device")).err().expect("there is none of that name");
    assert!(error.to_string().contains("no such device"), "{error}");
    assert_eq!(error.exit_code(), 4);
}
