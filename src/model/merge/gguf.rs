//! Into a GGUF file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::fold::Folded;
use super::{Merged, encoded};
use crate::error::{Error, Result};
use crate::model::names::Names;
use crate::model::{Config, Family, Positions};
use crate::ops::RopePairs;
use crate::text::Tokenizer;
use crate::weights::{Entry, GgmlType, Gguf, GgufPlan, PlannedTensor, Weight};

const FILE_TYPE: &str = "general.file_type";
const QUANTIZATION_VERSION: &str = "general.quantization_version";

/// The version of the block formats.
const VERSION: u32 = 2;

/// From a GGUF file, whose metadata stay as they are, but for the type of the file.
pub(super) fn from_gguf(folded: &Folded, file: &Gguf, out: &Path, wanted: Option<GgmlType>) -> Result<Merged> {
    let (own, theirs) = (Names::of(folded.config.family), Names::of_gguf(folded.config.family));
    let mut merged = Merged { modules: folded.modules(), ..Merged::default() };
    let (mut tensors, mut changed) = (Vec::new(), BTreeMap::new());
    let (mut before, mut after) = (Sizes::default(), Sizes::default());
    for tensor in file.tensors_in_order() {
        let name = theirs.translate(tensor.name, own).filter(|name| folded.changes(name));
        let format = format_of(folded, tensor.name, tensor.format, name.is_some(), tensor.shape.axes(), wanted);
        merged.add(tensor.format, format);
        before.add(tensor.format, tensor.shape.len());
        after.add(format, tensor.shape.len());
        if let Some(name) = name {
            changed.insert(tensor.name.to_string(), name);
        }
        tensors.push(PlannedTensor { name: tensor.name.into(), shape: tensor.shape.clone(), format });
    }
    let mut metadata = file.entries();
    if after.most() != before.most() {
        set(&mut metadata, FILE_TYPE, after.file_type());
    }
    if after.has_blocks() && file.metadata().get(QUANTIZATION_VERSION).is_none() {
        set(&mut metadata, QUANTIZATION_VERSION, VERSION);
    }
    let plan = GgufPlan { alignment: file.alignment(), metadata, tensors };
    plan.write(out, |planned| {
        let tensor = file.tensor(&planned.name).expect("a tensor of the file");
        match changed.get(&planned.name) {
            None if planned.format == tensor.format => Ok(Cow::Borrowed(tensor.bytes)),
            None => {
                let weight = Weight::from_f32(tensor.shape.clone(), &file.get(tensor.name, tensor.shape)?.to_f32());
                Ok(encoded(&weight, planned.format, tensor.name, file.path())?.into_owned().into())
            }
            Some(name) => Ok(encoded(&folded.get(name)?, planned.format, tensor.name, file.path())?.into_owned().into()),
        }
    })?;
    Ok(merged)
}

/// From a directory: the metadata come from the config and the tokenizer, and the tensors get the names and the order that llama.cpp expects.
pub(super) fn from_directory(folded: &Folded, model: &Path, out: &Path, wanted: Option<GgmlType>) -> Result<Merged> {
    let config = &folded.config;
    if config.family == Family::Graftling {
        let problem = "a Graftling model is not among those that llama.cpp runs, so it cannot be merged into a GGUF file; give a directory";
        return Err(Error::Usage(problem.into()));
    }
    let (own, theirs) = (Names::of(config.family), Names::of_gguf(config.family));
    let ordered = gguf_order(config);
    let mut merged = Merged { modules: folded.modules(), ..Merged::default() };
    let (mut tensors, mut names, mut sizes) = (Vec::new(), BTreeMap::new(), Sizes::default());
    for name in folded.names() {
        let weight = &folded.base.tensors[name];
        let theirs = own.translate(name, theirs).expect("a tensor of the model has a name in GGUF");
        let from = weight.ggml_type();
        // llama.cpp computes with vectors, and adds positions, in f32.
        let kept = if is_small(&theirs, weight.shape.axes()) { GgmlType::F32 } else { from };
        let format = format_of(folded, &theirs, kept, folded.changes(name), weight.shape.axes(), wanted);
        merged.add(from, format);
        sizes.add(format, weight.shape.len());
        names.insert(theirs.clone(), name.to_string());
        tensors.push(PlannedTensor { name: theirs, shape: weight.shape.clone(), format });
    }
    let factors = config.gguf_rope_factors().map(|factors| Weight::from_f32([factors.len() as u32].into(), &factors));
    if let Some(factors) = &factors {
        tensors.push(PlannedTensor { name: "rope_freqs.weight".into(), shape: factors.shape.clone(), format: GgmlType::F32 });
    }
    let tokenizer = Tokenizer::read(&model.join("tokenizer.json"))?;
    let name = out.file_stem().unwrap_or_default().to_string_lossy();
    let mut metadata = config.gguf_metadata(&name).map_err(Error::Usage)?;
    metadata.push((FILE_TYPE.into(), Entry::Whole(sizes.file_type())));
    if sizes.has_blocks() {
        metadata.push((QUANTIZATION_VERSION.into(), Entry::Whole(VERSION)));
    }
    metadata.extend(tokenizer.gguf_metadata(config.vocab_size)?);
    GgufPlan { metadata, tensors, ..GgufPlan::default() }.write(out, |planned| match (names.get(&planned.name), &factors) {
        (Some(name), _) => {
            let weight = ordered.as_ref().map_or_else(|| folded.get(name), |config| Ok(config.in_model_order(name, &folded.get(name)?)))?;
            Ok(encoded(&weight, planned.format, name, &folded.base.path)?.into_owned().into())
        }
        (None, Some(factors)) => Ok(factors.bytes().into_owned().into()),
        (None, None) => unreachable!("'{}' is a tensor of the model", planned.name),
    })?;
    Ok(merged)
}

/// The config whose model has the order of a GGUF file, if that of this config has another: llama.cpp's converter interleaves the halves of a llama's
/// heads.
fn gguf_order(config: &Config) -> Option<Config> {
    match &config.positions {
        Positions::Rotary { theta, scaling, pairs: RopePairs::Halves } if config.family == Family::Llama => {
            let positions = Positions::Rotary { theta: *theta, scaling: scaling.clone(), pairs: RopePairs::Adjacent };
            Some(Config { positions, ..config.clone() })
        }
        _ => None,
    }
}

/// Whether a tensor is a vector or the table of positions, which keep their format.
fn is_small(name: &str, axes: &[u64]) -> bool {
    axes.len() < 2 || name.starts_with("position_embd.")
}

/// The format of a tensor in the new file, by its name in GGUF. As llama.cpp's own programs do, the head (or the embedding that is also the head) has at
/// least 8 bits, and rows that are not whole blocks become F16.
fn format_of(folded: &Folded, name: &str, own: GgmlType, changed: bool, axes: &[u64], wanted: Option<GgmlType>) -> GgmlType {
    let Some(wanted) = wanted.filter(|_| !is_small(name, axes)) else { return if changed { own.writable() } else { own } };
    let head = if folded.config.tied { "token_embd.weight" } else { "output.weight" };
    let wanted = if name == head && wanted.block_len() > 1 { GgmlType::Q8_0 } else { wanted };
    let whole = axes.last().is_some_and(|row| row.is_multiple_of(wanted.block_len() as u64));
    if whole { wanted } else { GgmlType::F16 }
}

/// Sets a number of the metadata, in its place if it has one.
fn set(metadata: &mut Vec<(String, Entry)>, key: &str, value: u32) {
    match metadata.iter_mut().find(|(own, _)| own == key) {
        Some((_, entry)) => *entry = Entry::Whole(value),
        None => metadata.push((key.into(), Entry::Whole(value))),
    }
}

/// How many elements of a file are in each format.
#[derive(Default)]
struct Sizes(Vec<(GgmlType, u64)>);

impl Sizes {
    fn add(&mut self, format: GgmlType, len: u64) {
        match self.0.iter_mut().find(|(own, _)| *own == format) {
            Some((_, sum)) => *sum += len,
            None => self.0.push((format, len)),
        }
    }

    fn has_blocks(&self) -> bool {
        self.0.iter().any(|(format, _)| format.block_len() > 1)
    }

    /// The most frequent format.
    fn most(&self) -> GgmlType {
        self.0.iter().max_by_key(|(_, len)| len).map_or(GgmlType::F32, |&(format, _)| format)
    }

    /// llama.cpp's number (`llama_ftype`) for files mostly in that format; of the mixtures of a format, the medium one.
    fn file_type(&self) -> u32 {
        match self.most() {
            GgmlType::F32 => 0,
            GgmlType::F16 => 1,
            GgmlType::Q4_0 => 2,
            GgmlType::Q4_1 => 3,
            GgmlType::Q8_0 => 7,
            GgmlType::Q5_0 => 8,
            GgmlType::Q5_1 => 9,
            GgmlType::Q2K => 10,
            GgmlType::Q3K => 12,
            GgmlType::Q4K => 15,
            GgmlType::Q5K => 17,
            GgmlType::Q6K => 18,
            GgmlType::Iq4Nl => 25,
            GgmlType::Iq4Xs => 30,
            GgmlType::Bf16 => 32,
            GgmlType::Mxfp4 => 38,
        }
    }
}
