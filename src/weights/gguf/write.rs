//! Writing files of version 3. Only the header is laid out in memory; the tensors follow one by one.

use std::borrow::Cow;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::replace_file_with;
use crate::graph::Shape;
use crate::weights::GgmlType;

/// Where tensors begin in most files: at multiples of this many bytes.
const ALIGNMENT: u64 = 32;

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// An unsigned integer of 32 bits.
    Whole(u32),
    /// An f32.
    Number(f32),
    /// A boolean.
    Flag(bool),
    /// A string.
    Text(String),
    /// An array of strings.
    Texts(Vec<String>),
    /// An array of i32.
    Wholes(Vec<i32>),
    /// An array of f32.
    Numbers(Vec<f32>),
    /// A value of another file, as its bytes there: the type, then the value.
    Copied(Vec<u8>),
}

/// A tensor to write. The name is ggml's; the contiguous axis is last, so that a matrix (rows, columns) becomes `ne = {columns, rows}`.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Its format, whose blocks divide a row.
    pub format: GgmlType,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufPlan {
    /// What the offset of each tensor is a multiple of. If it is not 32, `general.alignment` of the metadata has to say so.
    pub alignment: u64,
    /// The metadata, in order.
    pub metadata: Vec<(String, Entry)>,
    /// The tensors, in order.
    pub tensors: Vec<PlannedTensor>,
}

impl Default for GgufPlan {
    fn default() -> Self {
        GgufPlan { alignment: ALIGNMENT, metadata: Vec::new(), tensors: Vec::new() }
    }
}

impl PlannedTensor {
    /// The number of bytes of its blocks.
    fn bytes(&self) -> u64 {
        self.shape.len() / self.format.block_len() as u64 * self.format.block_bytes() as u64
    }
}

impl GgufPlan {
    /// Writes the file, completely or not at all. `bytes` returns the blocks of each tensor in turn, so that memory needs to hold only one of them.
    ///
    /// # Errors
    /// Those of `bytes`, or [`Error::Write`].
    ///
    /// # Panics
    /// If `bytes` returns another number of bytes than the format and the shape require.
    pub fn write<'a>(&self, path: &Path, mut bytes: impl FnMut(&PlannedTensor) -> Result<Cow<'a, [u8]>>) -> Result<()> {
        let failed = |e| Error::write(path, e);
        let padding = vec![0; self.alignment as usize];
        let padding = |len: u64| &padding[..(len.next_multiple_of(self.alignment) - len) as usize];
        replace_file_with(path, |file| {
            let header = self.header();
            file.write_all(&header).and_then(|()| file.write_all(padding(header.len() as u64))).map_err(failed)?;
            for tensor in &self.tensors {
                let blocks = bytes(tensor)?;
                assert_eq!(blocks.len() as u64, tensor.bytes(), "the bytes of '{}'", tensor.name);
                file.write_all(&blocks).and_then(|()| file.write_all(padding(tensor.bytes()))).map_err(failed)?;
            }
            Ok(())
        })
    }

    fn header(&self) -> Vec<u8> {
        let mut header = b"GGUF".to_vec();
        header.extend(3_u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, entry) in &self.metadata {
            text(&mut header, key);
            entry.write(&mut header);
        }
        let mut offset: u64 = 0;
        for tensor in &self.tensors {
            text(&mut header, &tensor.name);
            let axes = tensor.shape.axes();
            header.extend((axes.len() as u32).to_le_bytes());
            axes.iter().rev().for_each(|axis| header.extend(axis.to_le_bytes()));
            header.extend(tensor.format.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += tensor.bytes().next_multiple_of(self.alignment);
        }
        header
    }
}

impl Entry {
    fn write(&self, header: &mut Vec<u8>) {
        let kind = |header: &mut Vec<u8>, kind: u32| header.extend(kind.to_le_bytes());
        let array = |header: &mut Vec<u8>, of: u32, len: usize| {
            [9, of].into_iter().for_each(|id| kind(header, id));
            header.extend((len as u64).to_le_bytes());
        };
        match self {
            Entry::Whole(number) => {
                kind(header, 4);
                header.extend(number.to_le_bytes());
            }
            Entry::Number(number) => {
                kind(header, 6);
                header.extend(number.to_le_bytes());
            }
            Entry::Flag(flag) => {
                kind(header, 7);
                header.push((*flag).into());
            }
            Entry::Text(value) => {
                kind(header, 8);
                text(header, value);
            }
            Entry::Wholes(numbers) => {
                array(header, 5, numbers.len());
                numbers.iter().for_each(|number| header.extend(number.to_le_bytes()));
            }
            Entry::Numbers(numbers) => {
                array(header, 6, numbers.len());
                numbers.iter().for_each(|number| header.extend(number.to_le_bytes()));
            }
            Entry::Texts(texts) => {
                array(header, 8, texts.len());
                texts.iter().for_each(|value| text(header, value));
            }
            Entry::Copied(bytes) => header.extend_from_slice(bytes),
        }
    }
}

/// A length and that many bytes.
fn text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::{Gguf, Strings};
    use super::*;

    fn plan() -> GgufPlan {
        let tensor = |name: &str, shape: &[usize], format| PlannedTensor { name: name.into(), shape: Shape::from(shape), format };
        let entries = [
            ("general.type", Entry::Text("adapter".into())),
            ("adapter.lora.alpha", Entry::Number(0.1)),
            ("general.file_type", Entry::Whole(7)),
            ("general.alignment", Entry::Whole(64)),
            ("tokenizer.ggml.add_bos_token", Entry::Flag(true)),
            ("tokenizer.ggml.tokens", Entry::Texts(vec!["a".into(), String::new(), "Ġb".into()])),
            ("tokenizer.ggml.token_type", Entry::Wholes(vec![1, -3])),
            ("tokenizer.ggml.scores", Entry::Numbers(vec![0.5])),
        ];
        GgufPlan {
            alignment: 64,
            metadata: entries.map(|(key, entry)| (key.to_string(), entry)).to_vec(),
            tensors: vec![
                tensor("z", &[3, 5], GgmlType::F32),
                tensor("blk.0.attn_q.weight", &[2, 3, 64], GgmlType::Q4_1),
                tensor("a", &[9], GgmlType::F16),
            ],
        }
    }

    /// A different byte at every place.
    fn bytes(tensor: &PlannedTensor) -> Vec<u8> {
        (0..tensor.bytes()).map(|i| (i * 7 + tensor.name.len() as u64) as u8 & 0x3f).collect()
    }

    fn place(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("graftling-{}-{name}.gguf", std::process::id()))
    }

    #[test]
    fn what_is_written_is_read() {
        let (plan, path) = (plan(), place("written"));
        plan.write(&path, |tensor| Ok(bytes(tensor).into())).expect("a file");
        let file = Gguf::open(&path).expect("a good file");
        assert_eq!(file.value::<&str>("general.type").expect("a text"), Some("adapter"));
        assert_eq!(file.value::<f32>("adapter.lora.alpha").expect("a number"), Some(0.1));
        assert_eq!(file.value::<u32>("general.file_type").expect("a number"), Some(7));
        assert_eq!(file.value::<bool>("tokenizer.ggml.add_bos_token").expect("a flag"), Some(true));
        let tokens = file.value::<Strings>("tokenizer.ggml.tokens").expect("strings").expect("the key");
        assert_eq!(tokens.collect::<Vec<_>>(), ["a", "", "Ġb"]);
        assert_eq!(file.value::<Vec<i32>>("tokenizer.ggml.token_type").expect("integers"), Some(vec![1, -3]));
        assert_eq!(file.value::<Vec<f32>>("tokenizer.ggml.scores").expect("numbers"), Some(vec![0.5]));
        assert_eq!((file.metadata().len(), file.tensors().len(), file.alignment()), (8, 3, 64));
        for tensor in &plan.tensors {
            let read = file.tensor(&tensor.name).expect("the tensor");
            assert_eq!((read.shape, read.format, read.bytes), (&tensor.shape, tensor.format, &bytes(tensor)[..]), "{}", tensor.name);
        }

        // Once more, from what was read: the same bytes.
        let copy = GgufPlan {
            alignment: file.alignment(),
            metadata: file.entries(),
            tensors: file
                .tensors_in_order()
                .into_iter()
                .map(|t| PlannedTensor { name: t.name.into(), shape: t.shape.clone(), format: t.format })
                .collect(),
        };
        let again = place("again");
        copy.write(&again, |tensor| Ok(file.tensor(&tensor.name).expect("the tensor").bytes.into())).expect("a file");
        let [first, second] = [&path, &again].map(|path| std::fs::read(path).expect("the file"));
        assert_eq!(first, second);
        [path, again].iter().for_each(|path| std::fs::remove_file(path).expect("the file"));
    }

    #[test]
    fn nothing_is_left_of_a_file_that_failed() {
        let path = place("failed");
        let fails = |tensor: &PlannedTensor| match &tensor.name[..] {
            "a" => Err(Error::DivergedWeight { name: "a".into() }),
            _ => Ok(bytes(tensor).into()),
        };
        assert!(matches!(plan().write(&path, fails), Err(Error::DivergedWeight { .. })));
        assert!(!path.exists() && !path.with_added_extension("partial").exists());
    }
}
