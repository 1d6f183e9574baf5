//! The inputs of a model's recordings, and what is written to them before a run.

use super::{Model, Positions};
use crate::gpu::{Device, Program};
use crate::graph::{DType, Graph, Tensor};
use crate::ops;
use crate::text::{Batch, order_of};

/// The inputs of a recording, written before each run.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Tokens (batch, length).
    pub tokens: Tensor,
    /// The length of each row, excluding padding (batch).
    pub lengths: Tensor,
    /// The types of the tokens (batch, length), for an encoder that has types.
    pub types: Option<Tensor>,
    /// The positions of the flattened tokens, sorted by token (batch·length), in a recording that trains the embeddings.
    pub order: Option<Tensor>,
    /// The same, sorted by type.
    pub type_order: Option<Tensor>,
    /// The table of [`ops::rope_table`] (positions, head_size), for a model with rotary positions. It is the same in every run.
    pub rope: Option<Tensor>,
}

/// The keys and values of earlier tokens, for a recording that continues after them.
pub struct Cache {
    /// The number of earlier tokens (1).
    pub start: Tensor,
    /// The keys and values of each layer, both (key_value_heads, context, head_size).
    pub layers: Vec<[Tensor; 2]>,
}

impl Model {
    /// The inputs that a recording of this model needs for positions up to `positions`.
    pub fn inputs(&self, g: &mut Graph, batch: u32, length: u32, positions: u32) -> Inputs {
        let trains = |g: &Graph, table| g.training() && g.needs_gradient(table);
        let trains_tokens = trains(g, self.embeddings.tokens);
        let trains_types = self.embeddings.types.is_some_and(|table| trains(g, table));
        let rotary = matches!(self.config.positions, Positions::Rotary { .. });
        Inputs {
            tokens: g.input("tokens", [batch, length], DType::U32),
            lengths: g.input("lengths", [batch], DType::U32),
            types: self.embeddings.types.map(|_| g.input("types", [batch, length], DType::U32)),
            order: trains_tokens.then(|| g.input("order", [batch * length], DType::U32)),
            type_order: trains_types.then(|| g.input("type_order", [batch * length], DType::U32)),
            rope: rotary.then(|| g.input("rope", [positions, self.config.head_size], DType::F32)),
        }
    }

    /// Writes a batch to the inputs of a program, except [`Inputs::rope`].
    pub fn write(&self, device: &Device, program: &Program, inputs: &Inputs, batch: &Batch) {
        program.write(device, inputs.tokens, &batch.tokens);
        program.write(device, inputs.lengths, &batch.lengths);
        if let Some(order) = inputs.order {
            program.write(device, order, &order_of(&batch.tokens));
        }
        if let Some(types) = inputs.types {
            // RoBERTa has one type, whatever its tokenizer says.
            let last = self.config.encoder.map_or(0, |encoder| encoder.token_types - 1);
            let of_batch: Vec<u32> = batch.types.iter().map(|&kind| kind.min(last)).collect();
            program.write(device, types, &of_batch);
            if let Some(order) = inputs.type_order {
                program.write(device, order, &order_of(&of_batch));
            }
        }
    }

    /// The contents of [`Inputs::rope`].
    pub fn rope_table(&self, positions: u32) -> Option<Vec<f32>> {
        let Positions::Rotary { theta, scaling, .. } = &self.config.positions else { return None };
        Some(ops::rope_table(&ops::rope_frequencies(*theta, self.config.head_size, scaling), positions))
    }

    /// Declares the states for generating up to `context` tokens.
    pub fn cache(&self, g: &mut Graph, context: u32) -> Cache {
        let shape = [self.config.key_value_heads, context, self.config.head_size];
        let layers = (0..self.config.layers).map(|i| ["keys", "values"].map(|name| g.state(&format!("h{i}.{name}"), shape)));
        Cache { layers: layers.collect(), start: g.input("start", [1], DType::U32) }
    }
}
