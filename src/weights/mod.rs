//! Files to named tensors and back. Nothing here knows a model or a device.

pub mod gguf;
mod quant;
mod safetensors;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use gguf::{Gguf, GgufTensor, Strings};
pub use quant::GgmlType;
pub use write::replace_file;

use crate::error::{Error, Result};
use crate::graph::{DType, Shape};

/// One tensor as its file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The format of the bytes.
    pub dtype: DType,
    /// The extents, the contiguous axis last.
    pub shape: Shape,
    /// The bytes, little-endian.
    pub bytes: Vec<u8>,
}

impl Weight {
    /// A tensor of f32.
    pub fn from_f32(shape: Shape, values: &[f32]) -> Weight {
        assert_eq!(shape.len(), values.len() as u64, "a weight of shape {shape} takes other values");
        Weight { dtype: DType::F32, shape, bytes: bytemuck::cast_slice(values).to_vec() }
    }

    /// The values widened to f32, without loss.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F16 => self.bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            DType::Bf16 => self.bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            DType::F32 | DType::U32 => bytemuck::pod_collect_to_vec(&self.bytes),
        }
    }

    /// The bytes in `dtype`, which is the tensor's own format, or f32, or a narrower one that the values are rounded to.
    pub fn in_format(&self, dtype: DType) -> Cow<'_, [u8]> {
        if dtype == self.dtype {
            return Cow::Borrowed(&self.bytes);
        }
        let values = self.to_f32();
        Cow::Owned(match dtype {
            DType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            DType::F32 | DType::U32 => bytemuck::cast_slice(&values).to_vec(),
        })
    }
}

/// Named tensors, and the file that they came from for messages.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Weight>,
    /// Where they were read.
    pub path: PathBuf,
}

impl Weights {
    /// Reads a safetensors file of f32, f16 and bf16 tensors.
    ///
    /// # Errors
    /// [`Error::File`], naming the file and where it applies the tensor: it is missing, cut short, malformed, of another format, or holds a
    /// number that is not finite.
    pub fn read(path: &Path) -> Result<Weights> {
        safetensors::read(path)
    }

    /// Writes a safetensors file, complete or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, path: &Path) -> Result<()> {
        safetensors::write(&self.tensors, path)
    }

    /// The tensor of that name and shape.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing or has another shape.
    pub fn get(&self, name: &str, shape: &Shape) -> Result<&Weight> {
        let Some(weight) = self.tensors.get(name) else {
            return Err(Error::file(&self.path, format!("has no tensor '{name}'; is it a model of another architecture?")));
        };
        if weight.shape != *shape {
            return Err(Error::file(
                &self.path,
                format!(
                    "tensor '{name}' has the shape {} where the config asks for {shape}; file and config do not belong together",
                    weight.shape
                ),
            ));
        }
        Ok(weight)
    }
}
