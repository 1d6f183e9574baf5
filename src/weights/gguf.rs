//! GGUF files, versions 2 and 3: metadata and tensors as in the public ggml specification.
//!
//! Files are not trusted. Every count and length is checked against the remaining bytes before use, all arithmetic is checked, and tensors
//! must follow each other without gaps or overlaps. A bad file results in an [`Error::File`], never in a panic or an allocation larger
//! than the file.

#[cfg(test)]
pub(crate) mod build;
mod metadata;
mod parse;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use metadata::{Array, FromValue, Kind, Strings, Value};
pub use write::{Entry, GgufPlan, PlannedTensor};

use super::map;
use super::quant::GgmlType;
use crate::error::{Error, Result};
use crate::graph::Shape;
use parse::Header;

/// An open GGUF file. Metadata are in memory; tensors stay in the mapped file, which must not change while it is open.
pub struct Gguf {
    path: PathBuf,
    file: Box<dyn AsRef<[u8]> + Send + Sync>,
    header: Header,
}

/// One tensor of a GGUF file.
#[derive(Clone, Copy, Debug)]
pub struct GgufTensor<'a> {
    /// ggml's name, such as `blk.0.attn_q.weight`.
    pub name: &'a str,
    /// The shape, with the contiguous axis last: the reverse of the file's order. One to four axes, none of extent 0. A row is a whole
    /// number of blocks, and both the last axis and the product of the others fit a u32.
    pub shape: &'a Shape,
    /// The format of the bytes.
    pub format: GgmlType,
    /// The blocks of all rows, little-endian.
    pub bytes: &'a [u8],
}

impl Gguf {
    /// Opens and checks a GGUF file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read, is not a complete and valid GGUF file, is one of several parts, or contains a tensor in an
    /// unsupported format.
    pub fn open(path: &Path) -> Result<Gguf> {
        let map = map::map(path, "give the path of a .gguf file")?;
        Gguf::from_bytes(path, map)
    }

    /// Checks a GGUF file that is already in memory; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::File`], as [`Gguf::open`].
    pub fn from_bytes(path: &Path, file: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Gguf> {
        let header = parse::parse(file.as_ref()).map_err(|problem| Error::file(path, problem))?;
        let gguf = Gguf { path: path.into(), file: Box::new(file), header };
        match gguf.value::<u32>("split.count")? {
            Some(parts @ 2..) => {
                let advice = "merge them with 'llama-gguf-split --merge'";
                Err(Error::file(path, format!("is one of {parts} parts of a model; {advice}")))
            }
            _ => Ok(gguf),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.header.metadata
    }

    /// The value of a key, if the file has it. `T` is `u32`, `f32`, `bool`, `&str`, [`Strings`], `Vec<f32>` or `Vec<i32>`.
    ///
    /// # Errors
    /// [`Error::File`] if the value has another type or is out of range for `T`.
    pub fn value<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.header.metadata.get(key) else { return Ok(None) };
        T::from_value(value).map(Some).ok_or_else(|| {
            let problem = format!("key '{key}' is {value}, expected {}; convert the model again", T::EXPECTED);
            Error::file(&self.path, problem)
        })
    }

    /// The value of a required key.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing, or as [`Gguf::value`].
    pub fn required<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        let missing = || Error::file(&self.path, format!("has no key '{key}'; convert the model again with a current converter"));
        self.value(key)?.ok_or_else(missing)
    }

    /// The tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = GgufTensor<'_>> {
        self.header.tensors.iter().map(|(name, info)| self.view(name, info))
    }

    /// The tensors in the order in which the file has them.
    pub(crate) fn tensors_in_order(&self) -> Vec<GgufTensor<'_>> {
        let mut tensors: Vec<_> = self.header.tensors.iter().collect();
        tensors.sort_by_key(|(_, info)| info.bytes.start);
        tensors.into_iter().map(|(name, info)| self.view(name, info)).collect()
    }

    /// The metadata to write them again: the keys in the file's order, with their values to the byte.
    pub(crate) fn entries(&self) -> Vec<(String, Entry)> {
        let bytes = (*self.file).as_ref();
        self.header.entries.iter().map(|(key, range)| (key.clone(), Entry::Copied(bytes[range.clone()].to_vec()))).collect()
    }

    /// What the offset of each tensor in the data is a multiple of, in bytes.
    pub(crate) fn alignment(&self) -> u64 {
        self.header.alignment
    }

    /// The tensor called `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<GgufTensor<'_>> {
        self.header.tensors.get_key_value(name).map(|(name, info)| self.view(name, info))
    }

    /// The tensor called `name`, after checking its shape and that all its values are finite. Reads the tensor once.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing, has another shape, or has a value that is not finite.
    pub fn get(&self, name: &str, shape: &Shape) -> Result<GgufTensor<'_>> {
        let fail = |problem| Err(Error::file(&self.path, problem));
        let Some(tensor) = self.tensor(name) else {
            return fail(format!("has no tensor '{name}'; is it a model of another architecture?"));
        };
        if tensor.shape != shape {
            let has = tensor.shape;
            return fail(format!(
                "tensor '{name}' has the shape {has}, but the metadata require {shape}; the file is damaged, fetch or convert it again"
            ));
        }
        if let Some(at) = tensor.format.first_non_finite(tensor.bytes) {
            return fail(format!("tensor '{name}' has a number that is not finite at element {at} or soon after; the file is damaged"));
        }
        Ok(tensor)
    }

    fn view<'a>(&'a self, name: &'a str, info: &'a parse::TensorInfo) -> GgufTensor<'a> {
        let bytes = &(*self.file).as_ref()[info.bytes.clone()];
        GgufTensor { name, shape: &info.shape, format: info.format, bytes }
    }
}

impl GgufTensor<'_> {
    /// The size in bytes of one row along the last axis.
    pub fn row_bytes(&self) -> usize {
        self.shape.last() as usize / self.format.block_len() * self.format.block_bytes()
    }

    /// The values of all rows.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.len() as usize];
        self.format.decode(self.bytes, &mut values);
        values
    }
}
