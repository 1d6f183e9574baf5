//! Shared by the tests of whole models: from a batch to logits.

use graftling::gpu::{Device, Memory, Program};
use graftling::graph::Graph;
use graftling::model::{Inputs, Model};
use graftling::text::Batch;

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
