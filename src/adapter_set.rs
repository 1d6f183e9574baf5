//! Several adapters on one base at once, each row of a batch with its own: what the `adapters` library calls `BatchSplit`.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use crate::gpu::{Device, Memory, Program};
use crate::graph::{Graph, Tensor};
use crate::model::{Config, Inputs, Model, SavedSetup, Trains};
use crate::ops::{self, Pooling};
use crate::weights::Weights;
use crate::words::{count, did_you_mean, shown};

/// A base on a device, alone and with named adapters, which share its weights.
pub struct AdapterSet<'a> {
    device: &'a Device,
    config: Config,
    weights: &'a Weights,
    base: Adapted,
    adapters: BTreeMap<String, Adapted>,
}

/// A model with its memory, and its programs by the rows and length of their batch.
struct Adapted {
    model: Model,
    memory: Memory,
    programs: HashMap<[u32; 2], Compiled>,
}

/// A recording of the logits after each row's last token.
struct Compiled {
    program: Program,
    inputs: Inputs,
    logits: Tensor,
}

/// Rows are padded to a multiple of this many tokens, so that few programs serve many lengths.
const ROUND: usize = 16;

impl<'a> AdapterSet<'a> {
    /// Uploads a base; it has no adapters yet.
    ///
    /// # Errors
    /// As [`Model::new`] and [`Model::upload`].
    pub fn new(device: &'a Device, config: &Config, weights: &'a Weights) -> Result<AdapterSet<'a>> {
        let model = Model::new(config, &[weights], None, Trains::adapters())?;
        let memory = model.upload(device, &[weights], 0, false)?;
        let base = Adapted { model, memory, programs: HashMap::new() };
        Ok(AdapterSet { device, config: config.clone(), weights, base, adapters: BTreeMap::new() })
    }

    /// Adds adapters under a name, in place of those that had it. Only what they have beside the base is uploaded.
    ///
    /// # Errors
    /// As [`SavedSetup::sources`], [`Model::new`] and [`Model::upload_beside`].
    pub fn insert(&mut self, name: &str, adapters: &SavedSetup) -> Result<()> {
        let changes = adapters.sources(&self.config)?;
        let sources: Vec<_> = [self.weights].into_iter().chain(&changes).collect();
        let model = Model::new(&self.config, &sources, adapters.setup(), Trains::adapters())?;
        let memory = model.upload_beside(self.device, &self.base.memory, &sources)?;
        self.adapters.insert(name.into(), Adapted { model, memory, programs: HashMap::new() });
        Ok(())
    }

    /// Removes the adapters of a name and frees their memory.
    pub fn remove(&mut self, name: &str) {
        self.adapters.remove(name);
    }

    /// The model with the adapters of a name, or the base alone, and its memory: for an [`Evaluator`](crate::train::Evaluator) or a
    /// [`Generator`](crate::generate::Generator).
    ///
    /// # Errors
    /// [`Error::Usage`] if there are none of that name.
    pub fn get(&self, name: Option<&str>) -> Result<(&Model, &Memory)> {
        let Some(name) = name else { return Ok((&self.base.model, &self.base.memory)) };
        let found = self.adapters.get(name).map(|adapted| (&adapted.model, &adapted.memory));
        found.ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Error {
        let advice = did_you_mean(name, self.adapters.keys().map(String::as_str));
        Error::Usage(format!("there is no adapter '{}' in the set; {}", shown(name), advice.unwrap_or("insert it first".into())))
    }

    /// The logits (vocabulary) after the last token of each row, with the adapters of the row's name, or with the base alone. Rows of one name are
    /// computed together.
    ///
    /// # Errors
    /// [`Error::Usage`] if a row is empty or longer than the context, has a token outside the vocabulary, or names adapters that are not in the
    /// set; [`Error::Limit`] if the rows of one name exceed the device's limits. Fails if the device fails.
    pub fn logits(&mut self, rows: &[(Option<&str>, &[u32])]) -> Result<Vec<Vec<f32>>> {
        let mut groups: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
        for (i, (name, tokens)) in rows.iter().enumerate() {
            self.config.check_tokens(tokens)?;
            let (length, context) = (tokens.len(), self.config.context);
            if length == 0 || length > context as usize {
                return Err(Error::Usage(format!("row {i} has {}, but the model takes 1 to {context}; cut it", count(length, "token"))));
            }
            self.get(*name)?;
            groups.entry(*name).or_default().push(i);
        }
        let mut logits = vec![Vec::new(); rows.len()];
        for (name, members) in groups {
            let tokens: Vec<_> = members.iter().map(|&i| rows[i].1).collect();
            let adapted = match name {
                Some(name) => self.adapters.get_mut(name).expect("it was found above"),
                None => &mut self.base,
            };
            let all = adapted.logits(self.device, &tokens)?;
            members.iter().zip(all.chunks(all.len() / members.len())).for_each(|(&i, own)| logits[i] = own.to_vec());
        }
        Ok(logits)
    }
}

impl Adapted {
    /// The logits (rows, vocabulary) after the last token of each row.
    fn logits(&mut self, device: &Device, rows: &[&[u32]]) -> Result<Vec<f32>> {
        let longest = rows.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        let length = longest.next_multiple_of(ROUND).min(self.model.config.context as usize);
        let padded: Vec<u32> = rows.iter().flat_map(|tokens| tokens.iter().copied().chain(std::iter::repeat(0)).take(length)).collect();
        let lengths: Vec<_> = rows.iter().map(|tokens| tokens.len() as u32).collect();
        let shape = [rows.len() as u32, length as u32];
        if !self.programs.contains_key(&shape) {
            self.programs.insert(shape, Compiled::new(device, &self.model, &self.memory, shape)?);
        }
        let Compiled { program, inputs, logits } = self.programs.get_mut(&shape).expect("it was made");
        program.write(device, inputs.tokens, &padded);
        program.write(device, inputs.lengths, &lengths);
        program.run(device)?;
        program.read(device, &self.memory, *logits)
    }
}

impl Compiled {
    fn new(device: &Device, model: &Model, memory: &Memory, [rows, length]: [u32; 2]) -> Result<Compiled> {
        let mut g = Graph::new(device.traits(), &model.parameters, false);
        let inputs = model.inputs(&mut g, rows, length, length);
        let hidden = model.hidden(&mut g, &inputs, None);
        let last = ops::pool(&mut g, hidden, inputs.lengths, Pooling::Last);
        let logits = model.logits(&mut g, last);
        g.keep(logits);
        g.check_limits()?;
        let program = Program::new(device, memory, &g)?;
        if let Some((rope, table)) = inputs.rope.zip(model.rope_table(length)) {
            program.write(device, rope, &table);
        }
        Ok(Compiled { program, inputs, logits })
    }
}
