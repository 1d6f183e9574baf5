//! Reading and writing named tensors. Nothing here depends on a model or a device.

mod directory;
mod fingerprint;
pub mod gguf;
mod json;
mod map;
mod quant;
mod repack;
mod safetensors;
#[cfg(test)]
mod tests;
mod weight;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use fingerprint::{Fingerprint, fingerprint};
pub use gguf::{Entry, FromValue, Gguf, GgufPlan, GgufTensor, PlannedTensor, Strings, Value};
pub(crate) use json::parse_json;
pub use quant::GgmlType;
pub use repack::repack;
pub(crate) use safetensors::{StreamedTensor, write_streamed};
pub use weight::Weight;

use crate::error::{Error, Result};
use crate::graph::{DType, Shape};
use crate::words::shown;

/// Named tensors, and for messages, the file they came from. Tensors of a file stay in it until they are requested.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Weight>,
    /// Tensors in formats that are not supported for weights, such as masks, with the format's name.
    pub unsupported: BTreeMap<String, String>,
    /// The file or directory index they were read from.
    pub path: PathBuf,
}

impl Weights {
    /// Opens a safetensors file. No tensor is read yet: [`Weights::get`] and [`Weights::check`] read the values.
    ///
    /// # Errors
    /// [`Error::File`], naming the file, if it is missing, truncated or malformed.
    pub fn read(path: &Path) -> Result<Weights> {
        safetensors::read(path)
    }

    /// The tensors of a safetensors file that is already in memory; `path` is for messages.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn from_bytes(path: &Path, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Weights> {
        safetensors::from_bytes(path, bytes)
    }

    /// Opens `model.safetensors` of a directory, or the files that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// [`Error::File`] as [`Weights::read`], or if the files do not match the index or there are none.
    pub fn read_directory(directory: &Path) -> Result<Weights> {
        directory::read(directory)
    }

    /// The tensors of a GGUF file.
    pub fn from_gguf(file: &Arc<Gguf>) -> Weights {
        let mut weights = Weights { path: file.path().into(), ..Weights::default() };
        weights.tensors = file.tensors().map(|tensor| (tensor.name.to_string(), Weight::of_gguf(file, tensor))).collect();
        weights
    }

    /// Writes a safetensors file, completely or not at all. Everything that training saves is written here, so it is always finite.
    ///
    /// # Errors
    /// [`Error::DivergedWeight`] if a value is not finite, or [`Error::Write`].
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some((name, _)) = self.tensors.iter().find(|(_, weight)| weight.first_non_finite().is_some()) {
            return Err(Error::DivergedWeight { name: name.clone() });
        }
        safetensors::write(&self.tensors, path)
    }

    /// The same tensors, with f32 and bf16 matrices rounded to f16.
    pub fn halved(mut self) -> Weights {
        for weight in self.tensors.values_mut() {
            if weight.shape.axes().len() == 2 && matches!(weight.dtype, DType::F32 | DType::Bf16) {
                *weight = weight.halved();
            }
        }
        self
    }

    /// The tensor with this name and shape. It is not read yet.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing, or has another shape or an unsupported format.
    pub fn find(&self, name: &str, shape: &Shape) -> Result<&Weight> {
        let Some(weight) = self.tensors.get(name) else {
            return Err(Error::file(
                &self.path,
                match self.unsupported.get(name) {
                    Some(format) => unsupported(name, format),
                    None => format!("has no tensor '{}'; is it a model of another architecture?", shown(name)),
                },
            ));
        };
        if weight.shape != *shape {
            let (name, has) = (shown(name), &weight.shape);
            let problem =
                format!("tensor '{name}' has the shape {has}, but the config requires {shape}; the file does not match the config");
            return Err(Error::file(self.path_of(weight), problem));
        }
        Ok(weight)
    }

    /// The tensor with this name and shape, after checking that all its values are finite. Reads the tensor once.
    ///
    /// # Errors
    /// As [`Weights::find`], or if it has a value that is not finite.
    pub fn get(&self, name: &str, shape: &Shape) -> Result<&Weight> {
        let weight = self.find(name, shape)?;
        self.check_finite(name, weight)?;
        Ok(weight)
    }

    /// Checks every tensor, for small files whose tensors are not requested one by one.
    ///
    /// # Errors
    /// [`Error::File`] if one has an unsupported format or a value that is not finite.
    pub fn check(&self) -> Result<()> {
        if let Some((name, format)) = self.unsupported.first_key_value() {
            return Err(Error::file(&self.path, unsupported(name, format)));
        }
        self.tensors.iter().try_for_each(|(name, weight)| self.check_finite(name, weight))
    }

    fn check_finite(&self, name: &str, weight: &Weight) -> Result<()> {
        if let Some(unrounded) = weight.unrounded() {
            self.check_finite(name, unrounded)?;
        }
        let Some(at) = weight.first_non_finite() else { return Ok(()) };
        let (name, block) = (shown(name), if weight.dtype.group_len() > 1 { " or soon after" } else { "" });
        let (what, advice) = match weight.unrounded() {
            Some(_) => ("too large for f16", "use --precision f32"),
            None => ("that is not finite", "the file is damaged, fetch it again"),
        };
        let problem = format!("tensor '{name}' has a number {what} at element {at}{block}; {advice}");
        Err(Error::file(self.path_of(weight), problem))
    }

    /// The file that a tensor is in, which can be one of several.
    fn path_of<'a>(&'a self, weight: &'a Weight) -> &'a Path {
        weight.file().unwrap_or(&self.path)
    }
}

fn unsupported(name: &str, format: &str) -> String {
    format!("tensor '{}' has the format {format}, which is not supported; F32, F16 and BF16 are", shown(name))
}
