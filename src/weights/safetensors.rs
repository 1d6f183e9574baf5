//! safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Weight, Weights, replace_file};
use crate::error::{Error, Result};
use crate::graph::{DType, Shape};

pub(super) fn read(path: &Path) -> Result<Weights> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read ({e}); check the path")))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::file(path, format!("is not a whole safetensors file ({e}); fetch or copy it again")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => return Err(Error::file(path, format!("tensor '{name}' is {other:?}; f32, f16 and bf16 are supported"))),
        };
        let weight = Weight { dtype, shape: Shape::from(view.shape()), bytes: view.data().to_vec() };
        if let Some(at) = weight.to_f32().iter().position(|v| !v.is_finite()) {
            return Err(Error::file(path, format!("tensor '{name}' has a number that is not finite at element {at}; the file is damaged")));
        }
        tensors.insert(name, weight);
    }
    Ok(Weights { tensors, path: path.into() })
}

pub(super) fn write(tensors: &BTreeMap<String, Weight>, path: &Path) -> Result<()> {
    // These files know no block formats: such a tensor is written as what it stands for.
    let formats = tensors.values().map(|weight| match weight.dtype {
        DType::F16 => (Dtype::F16, weight.in_format(DType::F16)),
        DType::Bf16 => (Dtype::BF16, weight.in_format(DType::Bf16)),
        DType::U32 => (Dtype::U32, weight.in_format(DType::U32)),
        _ => (Dtype::F32, weight.in_format(DType::F32)),
    });
    let formats: Vec<_> = formats.collect();
    let views = tensors.iter().zip(&formats).map(|((name, weight), (dtype, bytes))| {
        let shape = weight.shape.axes().iter().map(|&a| a as usize).collect();
        (name.as_str(), TensorView::new(*dtype, shape, bytes).expect("a weight has as many bytes as its shape says"))
    });
    let bytes = safetensors::serialize(views, None).map_err(|e| Error::write(path, std::io::Error::other(e)))?;
    replace_file(path, &bytes)
}
