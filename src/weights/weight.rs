//! One tensor, whose bytes may still lie in its file.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::map::MappedFile;
use super::{GgmlType, Gguf, GgufTensor};
use crate::graph::{DType, Shape};

/// One tensor in the format that its file has it in. Cloning one that lies in a file copies no bytes.
#[derive(Clone)]
pub struct Weight {
    /// The format of the bytes.
    pub dtype: DType,
    /// The extents, the contiguous axis last.
    pub shape: Shape,
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Owned(Vec<u8>),
    /// A range of a mapped safetensors file.
    Mapped(Arc<MappedFile>, Range<usize>),
    /// A tensor of a GGUF file, by name.
    Gguf(Arc<Gguf>, String),
}

impl Weight {
    /// A tensor of these bytes, which are little-endian and laid out as on the device.
    ///
    /// # Panics
    /// If there are not as many as the shape says.
    pub fn new(dtype: DType, shape: Shape, bytes: Vec<u8>) -> Weight {
        assert_eq!(dtype.bytes(shape.len()), bytes.len() as u64, "a weight of shape {shape} takes other bytes");
        Weight { dtype, shape, bytes: Bytes::Owned(bytes) }
    }

    /// A tensor of f32.
    ///
    /// # Panics
    /// If there are not as many values as the shape says.
    pub fn from_f32(shape: Shape, values: &[f32]) -> Weight {
        Weight::new(DType::F32, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// A tensor that lies in a mapped file; the range was checked.
    pub(super) fn mapped(dtype: DType, shape: Shape, file: &Arc<MappedFile>, range: Range<usize>) -> Weight {
        assert_eq!(dtype.bytes(shape.len()), range.len() as u64, "a weight of shape {shape} takes other bytes");
        Weight { dtype, shape, bytes: Bytes::Mapped(file.clone(), range) }
    }

    /// A tensor that lies in a GGUF file, unless the device has no such format.
    pub(super) fn of_gguf(file: &Arc<Gguf>, tensor: GgufTensor<'_>) -> Option<Weight> {
        let bytes = Bytes::Gguf(file.clone(), tensor.name.into());
        Some(Weight { dtype: device_format(tensor.format)?, shape: tensor.shape.clone(), bytes })
    }

    /// The bytes, little-endian and laid out as on the device. What has another layout in its file is copied at each call.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.bytes {
            Bytes::Owned(bytes) => Cow::Borrowed(bytes),
            Bytes::Mapped(file, range) => Cow::Borrowed(&file.map[range.clone()]),
            Bytes::Gguf(file, name) => Cow::Borrowed(tensor(file, name).bytes),
        }
    }

    /// The values as f32, without loss.
    pub fn to_f32(&self) -> Vec<f32> {
        if let Bytes::Gguf(file, name) = &self.bytes {
            return tensor(file, name).to_f32();
        }
        let bytes = self.bytes();
        match file_format(self.dtype) {
            Some(format) => {
                let mut values = vec![0.0; self.shape.len() as usize];
                format.decode(&bytes, &mut values);
                values
            }
            None => bytemuck::pod_collect_to_vec(&bytes),
        }
    }

    /// The bytes in `dtype`, which is the tensor's own format, or f32, or a narrower one that the values are rounded to.
    pub fn in_format(&self, dtype: DType) -> Cow<'_, [u8]> {
        if dtype == self.dtype {
            return self.bytes();
        }
        let values = self.to_f32();
        Cow::Owned(match dtype {
            DType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            DType::F32 | DType::U32 => bytemuck::cast_slice(&values).to_vec(),
        })
    }

    /// The first element that is not a finite number, or the first of its block. Reads the tensor once and copies nothing.
    pub fn first_non_finite(&self) -> Option<usize> {
        if let Bytes::Gguf(file, name) = &self.bytes {
            let tensor = tensor(file, name);
            return tensor.format.first_non_finite(tensor.bytes);
        }
        file_format(self.dtype)?.first_non_finite(&self.bytes())
    }

    /// The file that the bytes lie in.
    pub(super) fn file(&self) -> Option<&std::path::Path> {
        match &self.bytes {
            Bytes::Owned(_) => None,
            Bytes::Mapped(file, _) => Some(&file.path),
            Bytes::Gguf(file, _) => Some(file.path()),
        }
    }
}

/// The format that tensors of a GGUF format have on the device.
fn device_format(format: GgmlType) -> Option<DType> {
    match format {
        GgmlType::F32 => Some(DType::F32),
        GgmlType::F16 => Some(DType::F16),
        GgmlType::Bf16 => Some(DType::Bf16),
        _ => None,
    }
}

/// The reverse of [`device_format`]; none for integers.
fn file_format(dtype: DType) -> Option<GgmlType> {
    GgmlType::ALL.into_iter().find(|&format| device_format(format) == Some(dtype))
}

fn tensor<'a>(file: &'a Gguf, name: &str) -> GgufTensor<'a> {
    file.tensor(name).expect("a weight is made from a tensor that is there")
}

impl PartialEq for Weight {
    fn eq(&self, other: &Weight) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.dtype, self.shape)
    }
}
