//! One tensor, whose bytes may still be in its file.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::map::MappedFile;
use super::repack::{repack, unpack};
use super::{GgmlType, Gguf, GgufTensor};
use crate::graph::{DType, Shape};

/// One tensor in the format of its file. Cloning a tensor that is still in its file copies no bytes.
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
    /// Another matrix, transposed.
    Transposed(Arc<Weight>),
    /// Another tensor, rounded to f16.
    Halved(Arc<Weight>),
}

impl Weight {
    /// Creates a tensor from bytes, little-endian and laid out as on the device.
    ///
    /// # Panics
    /// If the number of bytes does not match the shape.
    pub fn new(dtype: DType, shape: Shape, bytes: Vec<u8>) -> Weight {
        assert_eq!(dtype.bytes(shape.len()), bytes.len() as u64, "the bytes of a weight of shape {shape}");
        Weight { dtype, shape, bytes: Bytes::Owned(bytes) }
    }

    /// Creates an f32 tensor.
    ///
    /// # Panics
    /// If the number of values does not match the shape.
    pub fn from_f32(shape: Shape, values: &[f32]) -> Weight {
        Weight::new(DType::F32, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// A tensor in a mapped file; the range has been checked.
    pub(super) fn mapped(dtype: DType, shape: Shape, file: &Arc<MappedFile>, range: Range<usize>) -> Weight {
        assert_eq!(dtype.bytes(shape.len()), range.len() as u64, "the bytes of a weight of shape {shape}");
        Weight { dtype, shape, bytes: Bytes::Mapped(file.clone(), range) }
    }

    /// A tensor in a GGUF file.
    pub(super) fn of_gguf(file: &Arc<Gguf>, tensor: GgufTensor<'_>) -> Weight {
        let bytes = Bytes::Gguf(file.clone(), tensor.name.into());
        Weight { dtype: tensor.format.dtype(), shape: tensor.shape.clone(), bytes }
    }

    /// The transposed matrix. Nothing is copied until the bytes are requested.
    ///
    /// # Panics
    /// If this is not a matrix of plain numbers.
    pub fn transposed(&self) -> Weight {
        let &[rows, columns] = self.shape.axes() else { panic!("{self:?} is not a matrix") };
        assert_eq!(self.dtype.group_len(), 1, "{self:?} is in blocks, which cannot be transposed");
        Weight { dtype: self.dtype, shape: [columns as u32, rows as u32].into(), bytes: Bytes::Transposed(Arc::new(self.clone())) }
    }

    /// The tensor rounded to f16. Nothing is read until the bytes are requested. [`Weight::in_format`] with f32 still returns the unrounded
    /// values.
    pub fn halved(&self) -> Weight {
        Weight { dtype: DType::F16, shape: self.shape.clone(), bytes: Bytes::Halved(Arc::new(self.clone())) }
    }

    /// The bytes, little-endian and laid out as on the device. Each call copies block formats whose layout differs; see [`repack()`].
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

    /// The first `most` values of the first row, or all of a shorter one, without rounding to f16. Reads little more than these.
    pub(crate) fn first(&self, most: usize) -> Vec<f32> {
        let len = most.min(self.shape.last() as usize).min(self.shape.len() as usize);
        match &self.bytes {
            Bytes::Halved(weight) => return weight.first(most),
            Bytes::Transposed(matrix) => {
                // A column of the other matrix.
                let (bytes, size, columns) = (matrix.bytes(), self.dtype.bytes(1) as usize, matrix.shape.last() as usize);
                let across = (0..len).flat_map(|row| &bytes[row * columns * size..][..size]).copied().collect();
                return Weight::new(self.dtype, [len as u32].into(), across).to_f32();
            }
            _ => {}
        }
        let Some(format) = self.format() else { return Vec::new() };
        let blocks = len.div_ceil(format.block_len());
        let mut values = vec![0.0; blocks * format.block_len()];
        format.decode(&self.blocks(format)[..blocks * format.block_bytes()], &mut values);
        values.truncate(len);
        values
    }

    /// The same rows in another order: row `i` of the result is row `order[i]`. Block formats are decoded to f32.
    ///
    /// # Panics
    /// If `order` does not have as many entries as the tensor has rows (elements, for a vector), or one is out of range.
    pub(crate) fn with_rows(&self, order: &[usize]) -> Weight {
        let dtype = if self.dtype.group_len() == 1 { self.dtype } else { DType::F32 };
        let bytes = self.in_format(dtype);
        assert_eq!(self.shape.axes()[0], order.len() as u64, "{self:?} has other rows");
        let row = bytes.len() / order.len();
        let rows = order.iter().flat_map(|&from| &bytes[from * row..][..row]).copied().collect();
        Weight::new(dtype, self.shape.clone(), rows)
    }

    /// The bytes converted to `dtype`: the tensor's own format, f32, or a narrower format to which the values are rounded.
    ///
    /// # Panics
    /// If `dtype` is a block format other than the tensor's own.
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
            _ => panic!("a weight in {} cannot be converted to blocks of {}", self.dtype.word(), dtype.word()),
        })
    }

    /// The blocks in a format, as a GGUF file has them: the tensor's own if it is in that format, otherwise its values, rounded.
    ///
    /// # Panics
    /// If the values would have to be rounded to a format that is not among [`GgmlType::WRITABLE`].
    pub(crate) fn in_blocks(&self, format: GgmlType) -> Cow<'_, [u8]> {
        if self.dtype == format.dtype() { self.blocks(format) } else { Cow::Owned(format.encode(&self.to_f32())) }
    }

    /// The format in a GGUF file.
    ///
    /// # Panics
    /// If these are integers.
    pub(crate) fn ggml_type(&self) -> GgmlType {
        self.format().expect("a tensor of numbers")
    }

    /// The first element that is not finite, or the first of its block. Reads the tensor once; integers are always finite.
    pub fn first_non_finite(&self) -> Option<usize> {
        let format = self.format()?;
        format.first_non_finite(&self.blocks(format))
    }

    /// The format of [`Weight::blocks`]; `None` for integers.
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

    /// The unrounded tensor, if this one is rounded to f16.
    pub(super) fn unrounded(&self) -> Option<&Weight> {
        if let Bytes::Halved(weight) = &self.bytes { Some(weight) } else { None }
    }

    /// The file that contains the bytes, if any.
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
    file.tensor(name).expect("the tensor that the weight was made from")
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
