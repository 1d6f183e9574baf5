//! Runs in which something goes wrong on the device.

use graftling::Error;
use graftling::gpu::{Device, Memory};
use graftling::graph::DType;
use graftling::model::{BaseIdentity, Model, SavedAdapter, Trains};
use graftling::train::{Checkpoint, RunState, Trainer};

use crate::harness::device;
use crate::models::{Fixture, adapters, batch, config, training};

/// Steps whose gradients are not finite are skipped and counted; ten in a row end the run. The same holds in f16 if the loss is not finite
/// either: no loss scale could help, so it stays as it is.
#[test]
fn divergence_is_an_error_that_names_the_step() {
    for half in [false, true] {
        diverge(half);
    }
}

fn diverge(half: bool) {
    let (device, fixture) = (device(), Fixture::read("gpt"));
    let (weights, batch) = (fixture.weights(), batch(&fixture));
    let model = Model::new(&config(), &[&weights], Some(&adapters()), Trains::adapters()).expect("a model").with_half_activations(half);
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
    assert_eq!(memory.metrics(device).expect("metrics").loss_scale, if half { 65_536.0 } else { 1.0 });
    assert_eq!(memory.read(device, memory.arenas().values).expect("values"), bytemuck::cast_slice::<f32, u8>(&poisoned));
    let error = model.download(device, &memory, |_| true).expect_err("an infinite weight is no result");
    assert!(error.to_string().contains("is no longer finite"), "{error}");
}

/// If anything to be saved (an adapter, the head, a norm, a moment) has a value that is not finite, nothing is written, and what was saved
/// before stays.
#[test]
fn nothing_that_is_not_finite_is_saved() {
    let (device, fixture) = (device(), Fixture::read("gpt"));
    let weights = fixture.weights();
    let trains = Trains { head: true, norms: true, ..Trains::adapters() };
    let model = Model::new(&config(), &[&weights], Some(&adapters()), trains).expect("a model");
    let memory = model.upload(device, &[&weights], 0, true).expect("memory");
    let mut trainer = Trainer::new(device, &model, &memory, training(5)).expect("a trainer");
    trainer.step(&[batch(&fixture)]).expect("a step");
    let directory = std::env::temp_dir().join(format!("graftling-{}-not-finite", std::process::id()));
    let save = || {
        let trained = model.download(device, &memory, |name| model.trains(name))?;
        let adapter = SavedAdapter::of(&model, &trained, "default", &BaseIdentity::of(&config(), &weights, "base"))?;
        let (moments, trainer) = (trainer.moments(|_| true)?, trainer.state()?);
        let state = RunState { trainer, ..RunState::default() };
        Checkpoint { adapter, base_of: None, moments, state }.write(&directory)
    };
    let files = || {
        let paths = std::fs::read_dir(&directory).expect("a checkpoint").map(|entry| entry.expect("a file").path());
        paths.map(|path| (std::fs::read(&path).expect("bytes"), path)).collect::<std::collections::BTreeSet<_>>()
    };
    save().expect("a good checkpoint");
    let before = files();
    assert_eq!(before.len(), 8, "{:?}", before.iter().map(|(_, path)| path).collect::<Vec<_>>());

    let arenas = memory.arenas();
    let poisonings = [
        (arenas.values, "", "attention_adapters.adapters.default.adapter_up.weight"),
        (arenas.values, "", "cls.weight"),
        (arenas.values, "", "ln_1.weight"),
        (arenas.first_moment, "first.", "adapter_down.0.bias"),
        (arenas.second_moment, "second.", "ln_2.bias"),
    ];
    for (arena, moment, end) in poisonings {
        let (_, parameter) = model.parameters.iter().find(|(_, p)| p.arena_offset.is_some() && p.name.ends_with(end)).expect(end);
        let at = 4 * (parameter.arena_offset.expect("it trains") + parameter.shape.len() - 1);
        let good = memory.read_at(device, arena, at, 4).expect("a number");
        for bad in [f32::NAN, f32::INFINITY] {
            memory.write_at(device, arena, at, &bad.to_le_bytes());
            let error = save().expect_err(end);
            assert!(error.to_string().contains(&format!("'{moment}{}' is no longer finite", parameter.name)), "{error}");
            assert_eq!(error.exit_code(), 6);
            assert!(files() == before && !directory.with_added_extension("partial").exists(), "{end}: what was saved has changed");
        }
        memory.write_at(device, arena, at, &good);
    }
    save().expect("all is well again");
    std::fs::remove_dir_all(&directory).expect("it goes");
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
