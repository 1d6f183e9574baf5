//! Reading and writing safetensors files.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};

use super::map::{self, MappedFile};
use super::{Weight, Weights};
use crate::error::{Error, Result};
use crate::files::replace_file;
use crate::graph::{DType, Shape};
use crate::words::cut;

/// Opens a file. The tensors stay in it.
pub(super) fn read(path: &Path) -> Result<Weights> {
    from_bytes(path, map::map(path, "give the path of a .safetensors file")?)
}

/// The tensors of a file that is already in memory; `path` is for messages.
pub(super) fn from_bytes(path: &Path, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Weights> {
    let file = Arc::new(MappedFile::new(path, bytes));
    let damaged = |what: &dyn std::fmt::Display| {
        let what = cut(&what.to_string(), 200);
        Error::file(path, format!("is not a valid safetensors file ({what}); fetch or copy it again"))
    };
    // Checks that the header is consistent and matches the length of the file.
    let (header, metadata) = SafeTensors::read_metadata(file.bytes()).map_err(|e| damaged(&e))?;
    let header = 8..8 + header;
    // The crate keeps the last of two entries with the same name; other programs may keep the first.
    let text = str::from_utf8(&file.bytes()[header.clone()]).map_err(|e| damaged(&e))?;
    super::json::parse(text).map_err(|e| damaged(&e))?;

    let mut weights = Weights { path: path.into(), ..Weights::default() };
    for (name, info) in metadata.tensors() {
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => {
                weights.unsupported.insert(name, format!("{other:?}"));
                continue;
            }
        };
        let (start, end) = info.data_offsets;
        let shape = Shape::from(&info.shape[..]);
        // As everywhere else, extents and row counts must fit a u32.
        let (row, outer) = info.shape.split_last().unwrap_or((&1, &[]));
        let rows = outer.iter().try_fold(1_u32, |rows, &extent| rows.checked_mul(u32::try_from(extent).ok()?));
        if rows.is_none() || u32::try_from(*row).is_err() {
            return Err(damaged(&format_args!("tensor '{name}' has the impossible shape {shape}")));
        }
        weights.tensors.insert(name, Weight::mapped(dtype, shape, &file, header.end + start..header.end + end));
    }
    Ok(weights)
}

/// A tensor of a file that is written tensor by tensor.
pub(crate) struct StreamedTensor {
    pub name: String,
    pub shape: Shape,
    /// F32, F16 or BF16.
    pub dtype: DType,
}

/// A tensor whose bytes are made when they are written; the first error is kept, and zeros are written from then on.
struct Lazy<'a> {
    tensor: &'a StreamedTensor,
    shape: Vec<usize>,
    bytes: Box<dyn Fn() -> Result<Cow<'a, [u8]>> + 'a>,
    failed: &'a RefCell<Option<Error>>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.tensor.dtype {
            DType::F16 => Dtype::F16,
            DType::Bf16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.failed.borrow().is_none() {
            match (self.bytes)() {
                Ok(bytes) => return bytes,
                Err(e) => drop(self.failed.borrow_mut().replace(e)),
            }
        }
        vec![0; self.data_len()].into()
    }

    fn data_len(&self) -> usize {
        self.tensor.dtype.bytes(self.tensor.shape.len()) as usize
    }
}

/// Writes a file, in a directory that is not in its place yet. `bytes` returns those of each tensor, so that memory holds only one of them.
pub(crate) fn write_streamed<'a>(
    path: &Path,
    tensors: &[StreamedTensor],
    bytes: &impl Fn(&StreamedTensor) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    let failed = RefCell::new(None);
    let views = tensors.iter().map(|tensor| {
        let shape = tensor.shape.axes().iter().map(|&a| a as usize).collect();
        (&tensor.name, Lazy { tensor, shape, bytes: Box::new(move || bytes(tensor)), failed: &failed })
    });
    // transformers looks for this entry.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let written = safetensors::serialize_to_file(views, Some(metadata), path);
    if let Some(e) = failed.take() {
        return Err(e);
    }
    let written = written.map_err(|e| match e {
        SafeTensorError::IoError(e) => e,
        e => io::Error::other(e),
    });
    written.and_then(|()| OpenOptions::new().write(true).open(path)?.sync_all()).map_err(|e| Error::write(path, e))
}

pub(super) fn write(tensors: &BTreeMap<String, Weight>, path: &Path) -> Result<()> {
    // safetensors has no block formats: such a tensor is written as its decoded values.
    let formats = tensors.values().map(|weight| match weight.dtype {
        DType::F16 => (Dtype::F16, weight.in_format(DType::F16)),
        DType::Bf16 => (Dtype::BF16, weight.in_format(DType::Bf16)),
        DType::U32 => (Dtype::U32, weight.in_format(DType::U32)),
        _ => (Dtype::F32, weight.in_format(DType::F32)),
    });
    let formats: Vec<_> = formats.collect();
    let views = tensors.iter().zip(&formats).map(|((name, weight), (dtype, bytes))| {
        let shape = weight.shape.axes().iter().map(|&a| a as usize).collect();
        (name.as_str(), TensorView::new(*dtype, shape, bytes).expect("a weight's bytes match its shape"))
    });
    let bytes = safetensors::serialize(views, None).map_err(|e| Error::write(path, std::io::Error::other(e)))?;
    replace_file(path, &bytes)
}
