//! Files to named tensors and back. Nothing here knows a model or a device.

pub mod gguf;
mod quant;
mod repack;
mod safetensors;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use gguf::{Gguf, GgufTensor};
pub use quant::GgmlType;
pub use repack::repack;
pub use write::replace_file;

use crate::error::{Error, Result};
use crate::graph::{DType, Shape};

/// One tensor in the format that its file has it in.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The format of the bytes.
    pub dtype: DType,
    /// The extents, the contiguous axis last.
    pub shape: Shape,
    /// The bytes, little-endian; those of a block format as [`repack()`] lays them out.
    pub bytes: Vec<u8>,
}

impl Weight {
    /// A tensor of f32.
    pub fn from_f32(shape: Shape, values: &[f32]) -> Weight {
        assert_eq!(shape.len(), values.len() as u64, "a weight of shape {shape} takes other values");
        Weight { dtype: DType::F32, shape, bytes: bytemuck::cast_slice(values).to_vec() }
    }

    /// The values as f32, without loss.
    pub fn to_f32(&self) -> Vec<f32> {
        let Some(format) = GgmlType::ALL.into_iter().find(|format| format.dtype() == self.dtype) else {
            return bytemuck::pod_collect_to_vec(&self.bytes);
        };
        let mut values = vec![0.0; self.shape.len() as usize];
        format.decode(&repack::unpack(format, &self.bytes, values.len()), &mut values);
        values
    }

    /// The bytes in `dtype`, which is the tensor's own format, or f32, or a narrower one that the values are rounded to.
    ///
    /// # Panics
    /// If `dtype` is a block format and not the tensor's own.
    pub fn in_format(&self, dtype: DType) -> Cow<'_, [u8]> {
        if dtype == self.dtype {
            return Cow::Borrowed(&self.bytes);
        }
        let values = self.to_f32();
        Cow::Owned(match dtype {
            DType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            DType::F32 | DType::U32 => bytemuck::cast_slice(&values).to_vec(),
            _ => panic!("a weight in {} cannot be put into blocks of {}", self.dtype.word(), dtype.word()),
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
