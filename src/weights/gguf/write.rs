//! Writing a small file, such as an adapter, of version 3. Everything is laid out in memory first.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::replace_file;
use crate::graph::DType;
use crate::weights::{GgmlType, Weight};

/// Tensors begin at multiples of this many bytes, as is usual.
const ALIGNMENT: usize = 32;

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// An unsigned integer of 32 bits.
    Whole(u32),
    /// An f32.
    Number(f32),
    /// A string.
    Text(String),
}

/// Writes a GGUF file with this metadata and these f32 tensors, completely or not at all. The names are ggml's; the order of axes is reversed on
/// the way, so that a matrix (rows, columns) becomes `ne = {columns, rows}`.
///
/// # Errors
/// [`Error::DivergedWeight`] if a value is not finite, or [`Error::Write`].
///
/// # Panics
/// If a tensor is not f32.
pub fn write_gguf(path: &Path, metadata: &[(&str, Entry)], tensors: &[(String, Weight)]) -> Result<()> {
    if let Some((name, _)) = tensors.iter().find(|(_, weight)| weight.first_non_finite().is_some()) {
        return Err(Error::DivergedWeight { name: name.clone() });
    }
    replace_file(path, &laid_out(metadata, tensors))
}

fn laid_out(metadata: &[(&str, Entry)], tensors: &[(String, Weight)]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, entry) in metadata {
        text(&mut file, key);
        match entry {
            Entry::Whole(number) => file.extend([4, *number].map(u32::to_le_bytes).concat()),
            Entry::Number(number) => file.extend([6_u32.to_le_bytes(), number.to_le_bytes()].concat()),
            Entry::Text(value) => {
                file.extend(8_u32.to_le_bytes());
                text(&mut file, value);
            }
        }
    }
    let mut offset = 0;
    for (name, weight) in tensors {
        assert_eq!(weight.dtype, DType::F32, "'{name}' is to be written as f32");
        text(&mut file, name);
        let axes = weight.shape.axes();
        file.extend((axes.len() as u32).to_le_bytes());
        axes.iter().rev().for_each(|axis| file.extend(axis.to_le_bytes()));
        file.extend(GgmlType::F32.id().to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        offset += (4 * weight.shape.len() as usize).next_multiple_of(ALIGNMENT);
    }
    for (_, weight) in tensors {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend_from_slice(&weight.bytes());
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file
}

/// A length and that many bytes.
fn text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::Gguf;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let values: Vec<f32> = (0..15).map(|i| i as f32 - 7.5).collect();
        let tensors = [
            ("blk.0.attn_q.weight.lora_a".to_string(), Weight::from_f32([3, 5].into(), &values)),
            ("output_norm.weight".to_string(), Weight::from_f32([9].into(), &values[..9])),
        ];
        let metadata = [
            ("general.type", Entry::Text("adapter".into())),
            ("adapter.lora.alpha", Entry::Number(0.1)),
            ("general.file_type", Entry::Whole(7)),
        ];
        let file = Gguf::from_bytes(Path::new("a.gguf"), laid_out(&metadata, &tensors)).expect("a good file");
        assert_eq!(file.value::<&str>("general.type").expect("a text"), Some("adapter"));
        assert_eq!(file.value::<f32>("adapter.lora.alpha").expect("a number"), Some(0.1));
        assert_eq!(file.value::<u32>("general.file_type").expect("a number"), Some(7));
        assert_eq!((file.metadata().len(), file.tensors().len()), (3, 2));
        for (name, weight) in &tensors {
            let tensor = file.tensor(name).expect("the tensor");
            assert_eq!((tensor.shape, tensor.to_f32()), (&weight.shape, weight.to_f32()), "{name}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_not_written() {
        let tensors = [("a".to_string(), Weight::from_f32([1].into(), &[f32::NAN]))];
        let path = std::env::temp_dir().join(format!("graftling-{}-nan.gguf", std::process::id()));
        assert!(matches!(write_gguf(&path, &[], &tensors), Err(Error::DivergedWeight { .. })) && !path.exists());
    }
}
