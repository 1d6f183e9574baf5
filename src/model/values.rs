//! A model's values: from files or initial values to device memory, and back.

use super::Model;
use super::adapter::AdapterSetup;
use super::heads::is_label_head;
use crate::error::{Error, Result};
use crate::gpu::{Device, Memory};
use crate::graph::{Parameter, Piece, Shape};
use crate::random::Random;
use crate::weights::{Fingerprint, Weight, Weights};

impl Model {
    /// Creates device memory with the values before training. `sources` are the base and what overrides it, such as a saved adapter: if
    /// several have a tensor, the last one wins. Adapters that no source has are initialised, and so is everything if there are no sources.
    ///
    /// # Errors
    /// [`Error::File`] if the base lacks a tensor, or a source has it in another shape or with a value that is not finite; a device error
    /// if the device fails.
    pub fn upload(&self, device: &Device, sources: &[&Weights], seed: u64, training: bool) -> Result<Memory> {
        let memory = Memory::new(device, &self.parameters, training)?;
        self.fill(device, memory, sources, seed)
    }

    /// Like [`Model::upload`], for evaluation and generation beside another model on the same base: `base` is the memory of a model with the first of
    /// the `sources` alone. Only what the other sources bring is uploaded.
    ///
    /// # Errors
    /// As [`Model::upload`].
    pub fn upload_beside(&self, device: &Device, base: &Memory, sources: &[&Weights]) -> Result<Memory> {
        let changes = sources.get(1..).unwrap_or_default();
        let changed = |name: &str| changes.iter().any(|source| source.tensors.contains_key(name));
        let same = |parameter: &Parameter| !parameter.pieces.iter().any(|piece| changed(&piece.name));
        let memory = Memory::beside(device, &self.parameters, base, same)?;
        self.fill(device, memory, sources, 0)
    }

    /// Writes the values of all weights that are in this memory alone.
    fn fill(&self, device: &Device, memory: Memory, sources: &[&Weights], seed: u64) -> Result<Memory> {
        let mut stream = 0;
        for (tensor, parameter) in self.parameters.iter() {
            if memory.is_shared(tensor) {
                stream += parameter.pieces.len() as u64;
                continue;
            }
            let mut start = 0;
            for Piece { name, shape } in &parameter.pieces {
                let fresh;
                let weight = match source_of(sources, name, &self.adapters) {
                    Some(source) => source.get(name, shape)?,
                    None => {
                        fresh = Weight::from_f32(shape.clone(), &self.start(name, shape, seed, stream));
                        &fresh
                    }
                };
                memory.write_at(device, tensor, start, &weight.in_format(parameter.dtype));
                start += parameter.dtype.bytes(shape.len());
                stream += 1;
            }
        }
        Ok(memory)
    }

    /// Reads the weights for whose names `wanted` returns true back from the device.
    ///
    /// # Errors
    /// If the device fails; [`Error::DivergedWeight`] if a weight that trained is no longer finite.
    pub fn download(&self, device: &Device, memory: &Memory, wanted: impl Fn(&str) -> bool) -> Result<Weights> {
        let mut weights = Weights::default();
        for (tensor, parameter) in self.parameters.iter().filter(|(_, p)| p.pieces.iter().any(|piece| wanted(&piece.name))) {
            let bytes = memory.read(device, tensor)?;
            let mut rest = &bytes[..];
            for Piece { name, shape } in &parameter.pieces {
                let (own, others) = rest.split_at(parameter.dtype.bytes(shape.len()) as usize);
                rest = others;
                let weight = Weight::new(parameter.dtype, shape.clone(), own.to_vec());
                if parameter.arena_offset.is_some() && weight.first_non_finite().is_some() {
                    return Err(Error::DivergedWeight { name: name.clone() });
                }
                if wanted(name) {
                    weights.tensors.insert(name.clone(), weight);
                }
            }
        }
        Ok(weights)
    }

    /// Whether the tensor called `name` trains.
    pub fn trains(&self, name: &str) -> bool {
        let trained = self.parameters.iter().filter(|(_, p)| p.arena_offset.is_some());
        trained.flat_map(|(_, p)| &p.pieces).any(|piece| piece.name == name)
    }

    /// A fingerprint of the bytes of all frozen weights on the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn frozen_fingerprint(&self, device: &Device, memory: &Memory) -> Result<String> {
        let mut fingerprint = Fingerprint::default();
        for (tensor, _) in self.parameters.iter().filter(|(_, p)| p.arena_offset.is_none()) {
            fingerprint.add(&memory.read(device, tensor)?);
        }
        Ok(fingerprint.finish())
    }

    /// The initial values of one tensor. In the base, matrices are normal with standard deviation 0.02, norms 1 and biases 0, as in GPT-2;
    /// adapters follow their config.
    fn start(&self, name: &str, shape: &Shape, seed: u64, stream: u64) -> Vec<f32> {
        if let Some(start) = self.adapters.start(name, shape, seed, stream) {
            return start;
        }
        let mut random = Random::new(seed, stream);
        let len = 0..shape.len();
        match shape.axes() {
            [_] if name.ends_with(".bias") => len.map(|_| 0.0).collect(),
            [_] => len.map(|_| 1.0).collect(),
            _ => len.map(|_| (random.normal() * 0.02) as f32).collect(),
        }
    }
}

/// The source of a tensor: the last one that has it, or else the base, whose error then names the missing tensor. `None` for a tensor of an
/// adapter that trains or of a head for labels, which can begin without a source.
pub(super) fn source_of<'a>(sources: &[&'a Weights], name: &str, adapters: &AdapterSetup) -> Option<&'a Weights> {
    let source = sources.iter().rev().find(|source| source.tensors.contains_key(name));
    source.or(sources.first().filter(|_| !adapters.trains(name) && !is_label_head(name))).copied()
}
