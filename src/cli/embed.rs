//! `graftling embed`: sentence vectors.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use graftling::embed::{Embedder, check_pooling, recordings};
use graftling::files::replace_file;
use graftling::model::{AdapterExpression, Trains};
use graftling::text::{DataOptions, Dataset, Task};
use graftling::words::count;
use graftling::{Error, Result};
use serde_json::json;

use super::setup::{Setup, adapters, check_kernels, max_length, open_device};
use super::{Common, print};

/// Turns texts into sentence vectors with an encoder
#[derive(Args)]
#[command(after_help = "Examples:
  graftling embed --model all-MiniLM-L6-v2 --data texts.txt --out vectors.npy
  echo 'What a day.' | graftling embed --model all-MiniLM-L6-v2 --data -

A vector is the mean of the last hidden states over all tokens of the text, divided by its length: the dot product of two is their cosine.")]
pub struct Embed {
    /// A directory in Hugging Face format with an encoder: BERT, RoBERTa or DistilBERT
    #[arg(long)]
    model: PathBuf,
    /// The directory of a saved adapter
    #[arg(long, value_name = "DIR", value_parser = adapters(), value_hint = ValueHint::DirPath)]
    adapter: Option<AdapterExpression>,
    /// A .jsonl, .csv or .tsv file of rows with text; or texts, one on each line of a .txt file or of standard input (-)
    #[arg(long)]
    data: PathBuf,
    /// Where to write the vectors: .npy for an array of f32, (texts, hidden), or .jsonl [default: JSON lines on standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Texts per batch
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Maximum tokens per text; what is longer is cut [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<u32>,
}

/// A row of JSON.
#[derive(serde::Serialize)]
struct Row<'a> {
    vector: &'a [f32],
}

impl Embed {
    pub fn run(&self, common: &Common) -> Result<()> {
        let form = self.out.as_deref().map(Form::of).transpose()?;
        let setup = Setup::read(common, &self.model, self.adapter.as_ref())?;
        let config = &setup.base.config;
        if config.encoder.is_none() {
            let problem = format!("{} is a decoder, but sentence vectors come from an encoder", self.model.display());
            return Err(Error::Usage(format!("{problem}; give a BERT, RoBERTa or DistilBERT")));
        }
        check_pooling(&self.model)?;
        let max_length = max_length(config, self.max_length)? as usize;
        let options = DataOptions { max_length, train_on_prompt: false, task: Task::Regression };
        let data = Dataset::read_unlabelled(&self.data, &setup.base.tokenizer, &options)?;
        let mut device = open_device(common)?;
        common.note(format!("data       {} of {}", count(data.sequences.len(), "text"), data.path.display()));
        if data.cut > 0 {
            common.warn(format!("{} longer than {} were cut", count(data.cut, "text"), count(max_length, "token")));
        }
        let (order, batches) = (data.by_length(), data.batches(self.batch_size as usize).collect::<Vec<_>>());
        let length = batches.iter().map(|batch| batch.length).max().unwrap_or(1);
        let rows = batches.iter().map(|batch| batch.rows).max().unwrap_or(1);
        let model = setup.model(config, None, Trains::adapters())?;
        let warnings = check_kernels(common, &mut device, |traits| recordings(&model, traits, [rows, length]))?;
        let memory = setup.upload(&device, &model, 0, false)?;
        let mut embedder = Embedder::new(&device, &model, &memory);

        let mut vectors = vec![Vec::new(); order.len()];
        // The longest texts first, so that the others find memory for their activations.
        for (places, batch) in order.chunks(self.batch_size as usize).zip(&batches).rev() {
            for (&at, vector) in places.iter().zip(embedder.vectors(batch)?) {
                vectors[at] = vector;
            }
        }
        let dimension = model.config.hidden_size;
        let lines = || vectors.iter().map(|vector| serde_json::to_string(&Row { vector }).expect("a vector serialises"));
        let json = json!({ "vectors": vectors.len(), "dimension": dimension, "out": self.out, "warnings": warnings });
        match self.out.as_deref().zip(form) {
            None => {
                lines().for_each(print);
                if common.json {
                    print(json);
                }
                Ok(())
            }
            Some((out, form)) => {
                let bytes = match form {
                    Form::Npy => npy(&vectors, dimension),
                    Form::Lines => lines().flat_map(|line| (line + "\n").into_bytes()).collect(),
                };
                replace_file(out, &bytes)?;
                common.result(format!("saved {} of {dimension} in {}", count(vectors.len(), "vector"), out.display()), json);
                Ok(())
            }
        }
    }
}

/// The form of an output file.
#[derive(Clone, Copy)]
enum Form {
    Npy,
    Lines,
}

impl Form {
    fn of(path: &Path) -> Result<Form> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Ok(Form::Npy),
            Some("jsonl") => Ok(Form::Lines),
            _ => Err(Error::Usage(format!("--out is {}; name a .npy or a .jsonl file", path.display()))),
        }
    }
}

/// An array of f32, (vectors, dimension), in NumPy's format 1.0.
fn npy(vectors: &[Vec<f32>], dimension: u32) -> Vec<u8> {
    let shape = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {dimension}), }}", vectors.len());
    // The data begin at a multiple of 64 bytes; the header ends with a line break.
    let prefix = 10;
    let header = format!("{shape:<width$}\n", width = (prefix + shape.len() + 1).next_multiple_of(64) - prefix - 1);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.into_bytes());
    bytes.extend(vectors.iter().flatten().flat_map(|v| v.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `numpy.save` writes for `numpy.array([[1, 2], [3, 4], [5, 6]], dtype=numpy.float32)`.
    #[test]
    fn arrays_are_numpys() {
        let bytes = npy(&[vec![1.0, 2.0], vec![3.0, 4.0], vec![5.0, 6.0]], 2);
        let header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }";
        assert_eq!(&bytes[..header.len()], header);
        assert!(bytes[header.len()..127].iter().all(|&byte| byte == b' ') && bytes[127] == b'\n');
        assert_eq!(bytes.len(), 128 + 6 * 4);
        assert_eq!(bytes[128..132], 1f32.to_le_bytes());
    }
}
