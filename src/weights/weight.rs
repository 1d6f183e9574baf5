//! One tensor, whose bytes may still lie in its file.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::map::MappedFile;
use super::repack::{repack, unpack};
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
    /// Another matrix, columns as rows.
    Transposed(Arc<Weight>),
    /// Another tensor, rounded to f16.
    Halved(Arc<Weight>),
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

    /// A tensor that lies in a GGUF file.
    pub(super) fn of_gguf(file: &Arc<Gguf>, tensor: GgufTensor<'_>) -> Weight {
        let bytes = Bytes::Gguf(file.clone(), tensor.name.into());
        Weight { dtype: tensor.format.dtype(), shape: tensor.shape.clone(), bytes }
    }

    /// The matrix with its columns as rows. Nothing is copied before the bytes are asked for.
    ///
    /// # Panics
    /// If this is no matrix of plain numbers.
    pub fn transposed(&self) -> Weight {
        let &[rows, columns] = self.shape.axes() else { panic!("{self:?} is no matrix") };
        assert_eq!(self.dtype.group_len(), 1, "{self:?} is in blocks, which follow the rows");
        Weight { dtype: self.dtype, shape: [columns as u32, rows as u32].into(), bytes: Bytes::Transposed(Arc::new(self.clone())) }
    }

    /// The tensor rounded to f16. Nothing is read before the bytes are asked for; those of the tensor itself still are where f32 is.
    pub fn halved(&self) -> Weight {
        Weight { dtype: DType::F16, shape: self.shape.clone(), bytes: Bytes::Halved(Arc::new(self.clone())) }
    }

    /// The bytes, little-endian and laid out as on the device, for which some block formats are copied at each call; see [`repack()`].
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.bytes {
            Bytes::Owned(bytes) => Cow::Borrowed(bytes),
            Bytes::Mapped(file, range) => Cow::Borrowed(&file.bytes()[range.clone()]),
            Bytes::Gguf(file, name) => {
                let tensor = tensor(file, name);
                repack(tensor.format, tensor.bytes)
            }
            Bytes::Transposed(matrix) => {
                let (rows, columns) = (matrix.shape.rows() as usize, matrix.shape.last() as usize);
                let (bytes, size) = (matrix.bytes(), self.dtype.bytes(1) as usize);
                let mut across = Vec::with_capacity(bytes.len());
                for column in 0..columns {
                    (0..rows).for_each(|row| across.extend_from_slice(&bytes[(row * columns + column) * size..][..size]));
                }
                Cow::Owned(across)
            }
            Bytes::Halved(weight) => weight.in_format(DType::F16),
        }
    }

    /// The values as f32, without loss.
    pub fn to_f32(&self) -> Vec<f32> {
        let Some(format) = self.format() else { return bytemuck::pod_collect_to_vec(&self.bytes()) };
        let mut values = vec![0.0; self.shape.len() as usize];
        format.decode(&self.blocks(format), &mut values);
        values
    }

    /// The bytes in `dtype`, which is the tensor's own format, or f32, or a narrower one that the values are rounded to.
    ///
    /// # Panics
    /// If `dtype` is a block format and not the tensor's own.
    pub fn in_format(&self, dtype: DType) -> Cow<'_, [u8]> {
        if dtype == self.dtype {
            return self.bytes();
        }
        if let Bytes::Halved(weight) = &self.bytes {
            return weight.in_format(dtype);
        }
        let values = self.to_f32();
        Cow::Owned(match dtype {
            DType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            DType::F32 | DType::U32 => bytemuck::cast_slice(&values).to_vec(),
            _ => panic!("a weight in {} cannot be put into blocks of {}", self.dtype.word(), dtype.word()),
        })
    }

    /// The first element that is not a finite number, or the first of its block. Reads the tensor once; integers are all finite.
    pub fn first_non_finite(&self) -> Option<usize> {
        let format = self.format()?;
        format.first_non_finite(&self.blocks(format))
    }

    /// The format of [`Weight::blocks`]; none for integers.
    fn format(&self) -> Option<GgmlType> {
        GgmlType::ALL.into_iter().find(|format| format.dtype() == self.dtype)
    }

    /// The bytes as a GGUF file has them.
    fn blocks(&self, format: GgmlType) -> Cow<'_, [u8]> {
        match &self.bytes {
            Bytes::Owned(bytes) => unpack(format, bytes, self.shape.len() as usize),
            Bytes::Mapped(file, range) => Cow::Borrowed(&file.bytes()[range.clone()]),
            Bytes::Gguf(file, name) => Cow::Borrowed(tensor(file, name).bytes),
            Bytes::Transposed(_) | Bytes::Halved(_) => self.bytes(),
        }
    }

    /// The tensor that this one is the rounded form of.
    pub(super) fn unrounded(&self) -> Option<&Weight> {
        if let Bytes::Halved(weight) = &self.bytes { Some(weight) } else { None }
    }

    /// The file that the bytes lie in.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.bytes {
            Bytes::Owned(_) => None,
            Bytes::Mapped(file, _) => Some(&file.path),
            Bytes::Gguf(file, _) => Some(file.path()),
            Bytes::Transposed(weight) | Bytes::Halved(weight) => weight.file(),
        }
    }
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
