//! Shared by the tests of whole models: from a batch to logits, gradients, and the losses of training steps.

use graftling::gpu::{Device, Memory, Program, Step};
use graftling::graph::Graph;
use graftling::model::{Inputs, Model};
use graftling::text::Batch;
use graftling::train::{Evaluator, Schedule, Shape, TrainOptions, Trainer};
use graftling::weights::{Weight, Weights};

use crate::harness::device;

/// Writes every input that a recording of the model needs for a batch.
pub fn write_inputs(device: &Device, program: &Program, model: &Model, inputs: &Inputs, batch: &Batch) {
    model.write(device, program, inputs, batch);
    if let Some((rope, table)) = inputs.rope.zip(model.rope_table(batch.length)) {
        program.write(device, rope, &table);
    }
}

/// The logits (rows, length, vocabulary) of a model for a batch.
pub fn logits(model: &Model, memory: &Memory, batch: &Batch) -> Vec<f32> {
    let mut g = Graph::new(device().traits(), &model.parameters, false);
    let inputs = model.inputs(&mut g, batch.rows, batch.length, batch.length);
    let hidden = model.hidden(&mut g, &inputs, None);
    let logits = model.logits(&mut g, hidden);
    g.keep(logits);
    let mut program = Program::new(device(), memory, &g).expect("a program");
    write_inputs(device(), &program, model, &inputs, batch);
    program.run(device()).expect("a run");
    program.read(device(), memory, logits).expect("a read")
}

/// The logits (rows, vocabulary) after the last token of each row.
pub fn last_logits(model: &Model, memory: &Memory, batch: &Batch) -> Vec<f32> {
    let all = logits(model, memory, batch);
    let vocabulary = all.len() / batch.tokens.len();
    let last = |(row, &length): (usize, &u32)| (row * batch.length as usize + length as usize - 1) * vocabulary;
    batch.lengths.iter().enumerate().map(last).flat_map(|at| all[at..at + vocabulary].to_vec()).collect()
}

/// The gradients of everything that trains, under the names in memory.
pub fn gradients(model: &Model, memory: &Memory, batch: &Batch) -> Weights {
    let device = device();
    let mut g = Graph::new(device.traits(), &model.parameters, true);
    let inputs = model.inputs(&mut g, batch.rows, batch.length, batch.length);
    let targets = model.targets(&mut g, [batch.rows, batch.length]);
    let loss = model.loss(&mut g, &inputs, targets);
    g.backward(loss, loss);
    let mut program = Program::new(device, memory, &g).expect("a program");
    program.write(device, targets, &batch.targets);
    write_inputs(device, &program, model, &inputs, batch);
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

/// Takes 30 steps on a batch. Expects the losses before each and after the last to be those of `curve` within 2e-4, and returns them.
pub fn thirty_losses(what: &str, model: &Model, memory: &Memory, batch: &Batch, curve: &[f64]) -> Vec<f32> {
    let device = device();
    let schedule = Schedule { peak: 1e-3, shape: Shape::Constant, warmup_steps: 0, steps: 30 };
    let mut trainer = Trainer::new(device, model, memory, TrainOptions { schedule, ..TrainOptions::default() }).expect("a trainer");
    let mut losses = Vec::new();
    for _ in 0..30 {
        losses.extend(trainer.step(std::slice::from_ref(batch)).expect("a step").map(|report| report.loss));
    }
    while let Some(report) = trainer.finish().expect("the last steps") {
        losses.push(report.loss);
    }
    losses.push(Evaluator::new(device, model, memory).loss(std::slice::from_ref(batch)).expect("a loss") as f32);
    assert_eq!(losses.len(), curve.len());
    for (step, (&got, want)) in losses.iter().zip(curve).enumerate() {
        assert!((f64::from(got) - want).abs() <= 2e-4, "{what}: the loss after {step} steps is {got}, not {want}");
    }
    losses
}
