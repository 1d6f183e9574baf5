//! Sentence vectors: the mean of an encoder's hidden states over the tokens of a text, divided by its length (Reimers and Gurevych 2019,
//! "Sentence-BERT").

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text_if_any};
use crate::gpu::{Device, Memory, Program};
use crate::graph::{Graph, Tensor, Traits, fitting};
use crate::model::{Inputs, Model};
use crate::ops::{self, Pooling};
use crate::text::Batch;
use crate::weights::parse_json;

/// A model ready to turn texts into vectors.
pub struct Embedder<'a> {
    device: &'a Device,
    model: &'a Model,
    memory: &'a Memory,
    /// A program for each batch shape so far.
    compiled: HashMap<[u32; 2], Compiled>,
}

struct Compiled {
    program: Program,
    inputs: Inputs,
    means: Tensor,
}

impl<'a> Embedder<'a> {
    /// Creates an embedder of an encoder with these weights.
    ///
    /// # Panics
    /// If the model is a decoder.
    pub fn new(device: &'a Device, model: &'a Model, memory: &'a Memory) -> Embedder<'a> {
        assert!(model.config.encoder.is_some(), "sentence vectors come from an encoder");
        Embedder { device, model, memory, compiled: HashMap::new() }
    }

    /// The sentence vectors of a batch, (hidden) for each row, all of length 1.
    ///
    /// # Errors
    /// [`Error::Usage`] if a token is not in the model's vocabulary, [`Error::NotFinite`] if a vector is not finite, [`Error::Limit`] if not
    /// even one row fits the device's limits, or an error of the device.
    pub fn vectors(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let &mut Embedder { device, model, memory, ref mut compiled } = self;
        model.config.check_tokens(&batch.tokens)?;
        let rows = rows_at_once(model, device.traits(), [batch.rows, batch.length])?;
        let mut vectors = Vec::new();
        for batch in batch.cut(rows) {
            let Compiled { program, inputs, means } = match compiled.entry([batch.rows, batch.length]) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(Compiled::new(device, model, memory, [batch.rows, batch.length])?),
            };
            model.write(device, program, inputs, &batch);
            program.run(device)?;
            let means: Vec<f32> = program.read(device, memory, *means)?;
            for mean in means.chunks(model.config.hidden_size as usize) {
                vectors.push(normalised(mean)?);
            }
        }
        Ok(vectors)
    }
}

impl Compiled {
    fn new(device: &Device, model: &Model, memory: &Memory, shape: [u32; 2]) -> Result<Compiled> {
        let (graph, inputs, means) = record(model, device.traits(), shape);
        Ok(Compiled { program: Program::new(device, memory, &graph)?, inputs, means })
    }
}

/// The recordings that an [`Embedder`] runs for batches of `rows` texts of `length` tokens: for
/// [`self_check`](crate::doctor::self_check), before it exists.
///
/// # Errors
/// [`Error::Limit`] if not even one row fits the device's limits.
pub fn recordings(model: &Model, traits: &Traits, [rows, length]: [u32; 2]) -> Result<Vec<Graph>> {
    let rows = rows_at_once(model, traits, [rows, length])?;
    Ok(vec![record(model, traits, [rows, length]).0])
}

fn record(model: &Model, traits: &Traits, [rows, length]: [u32; 2]) -> (Graph, Inputs, Tensor) {
    let mut g = Graph::new(traits, &model.parameters, false);
    g.set_half(model.half);
    let inputs = model.inputs(&mut g, rows, length, length);
    let hidden = model.hidden(&mut g, &inputs, None);
    let means = g.scoped("sentence", |g| ops::pool(g, hidden, inputs.lengths, Pooling::Mean));
    g.keep(means);
    (g, inputs, means)
}

/// How many rows of a batch the device's limits allow at once.
fn rows_at_once(model: &Model, traits: &Traits, [rows, length]: [u32; 2]) -> Result<u32> {
    let check = |rows| record(model, traits, [rows, length]).0.check_limits();
    if check(rows).is_ok() {
        return Ok(rows);
    }
    check(1)?;
    Ok(fitting(rows, check).unwrap_or(1))
}

/// A vector divided by its length, computed in f64.
fn normalised(mean: &[f32]) -> Result<Vec<f32>> {
    let length = mean.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() {
        return Err(Error::NotFinite { what: "a sentence vector".into() });
    }
    Ok(mean.iter().map(|&v| (f64::from(v) / length.max(1e-12)) as f32).collect())
}

/// Checks that a model's directory asks for the mean over all tokens, if it says how its sentence vectors are made (as the
/// `sentence-transformers` library does, in `1_Pooling/config.json`).
///
/// # Errors
/// [`Error::File`] if it asks for something else.
pub fn check_pooling(directory: &Path) -> Result<()> {
    let path = directory.join("1_Pooling/config.json");
    let Some(text) = read_text_if_any(&path, CONFIG_BYTES)? else { return Ok(()) };
    let json = parse_json(&text).map_err(|problem| Error::file(&path, problem))?;
    let is = |(key, value): (&String, &serde_json::Value)| key.starts_with("pooling_mode_") && *value == true;
    let modes: Vec<_> = json.as_object().into_iter().flatten().filter(|entry| is(*entry)).map(|(key, _)| key.as_str()).collect();
    if modes == ["pooling_mode_mean_tokens"] {
        return Ok(());
    }
    let problem = "asks for another vector than the mean over all tokens, which is the only one that is supported; choose another model";
    Err(Error::file(path, problem))
}
