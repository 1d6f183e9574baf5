//! Into a directory in Hugging Face's form.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::fold::Folded;
use super::{Merged, encoded};
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text, replace_directory, replace_file, unreadable};
use crate::model::names::Names;
use crate::text::Tokenizer;
use crate::weights::{GgmlType, Gguf, StreamedTensor, Weights, parse_json, write_streamed};

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";

/// From a directory: its other files stay as they are, but for the format that the config names.
pub(super) fn from_directory(folded: &Folded, model: &Path, out: &Path, wanted: Option<GgmlType>) -> Result<Merged> {
    let wanted = plain(out, wanted)?;
    let raw = Weights::read_directory(model)?;
    let names = Names::of(folded.config.family);
    let mut merged = Merged { modules: folded.modules(), ..Merged::default() };
    let mut tensors = Vec::new();
    for (name, weight) in &raw.tensors {
        let format = wanted.unwrap_or(weight.ggml_type());
        merged.add(weight.ggml_type(), format, false);
        tensors.push(StreamedTensor { name: name.clone(), shape: weight.shape.clone(), dtype: format.dtype() });
    }
    let bytes = |tensor: &StreamedTensor| {
        let weight = &raw.tensors[&tensor.name];
        let format = wanted.unwrap_or(weight.ggml_type());
        let name = folded.name_in_memory(&tensor.name);
        // A file can have a second copy of a tied head.
        let head = format!("{}.weight", names.head);
        let name = if folded.config.tied && name == head { format!("{}.weight", names.token_embedding) } else { name };
        match folded.changes(&name) {
            false if weight.ggml_type() == format => Ok(weight.bytes()),
            false => encoded(raw.get(&tensor.name, &weight.shape)?, format, &tensor.name, &raw.path),
            true => {
                let changed = folded.config.in_file_order(&name, &folded.get(&name)?);
                Ok(encoded(&changed, format, &tensor.name, &raw.path)?.into_owned().into())
            }
        }
    };
    replace_directory(out, |directory| {
        copy_others(model, directory)?;
        if let Some(format) = wanted {
            let path = model.join(CONFIG);
            let mut config = parse_json(&read_text(&path, CONFIG_BYTES)?).map_err(|problem| Error::file(&path, problem))?;
            let known = ["dtype", "torch_dtype"].into_iter().find(|key| config.get(key).is_some());
            config[known.unwrap_or("torch_dtype")] = torch_name(format).into();
            write_json(&directory.join(CONFIG), &config)?;
        }
        write_streamed(&directory.join(WEIGHTS), &tensors, bytes)
    })?;
    Ok(merged)
}

/// From a GGUF file: the config and the tokenizer come from the metadata. Blocks become f32 unless another format is wanted.
pub(super) fn from_gguf(folded: &Folded, file: &Gguf, out: &Path, wanted: Option<GgmlType>) -> Result<Merged> {
    let wanted = plain(out, wanted)?;
    let (config, base) = (&folded.config, &folded.base.tensors);
    let tokenizer = Tokenizer::from_gguf(file)?;
    let format_of = |own: GgmlType| wanted.unwrap_or(if own.block_len() == 1 { own } else { GgmlType::F32 });
    let mut merged = Merged { modules: folded.modules(), ..Merged::default() };
    let mut tensors = Vec::new();
    for name in folded.names() {
        let (own, shape) = (base[name].ggml_type(), config.in_file_order(name, &base[name]).shape);
        merged.add(own, format_of(own), false);
        tensors.push(StreamedTensor { name: name.into(), shape, dtype: format_of(own).dtype() });
    }
    let bytes = |tensor: &StreamedTensor| {
        let weight = config.in_file_order(&tensor.name, &folded.get(&tensor.name)?);
        let format = format_of(base[&tensor.name].ggml_type());
        Ok(Cow::Owned(encoded(&weight, format, &tensor.name, file.path())?.into_owned()))
    };
    // Most weights are in matrices.
    let matrices = format_of(base[&format!("{}.weight", Names::of(config.family).token_embedding)].ggml_type());
    let json = config.to_hf(torch_name(matrices), tokenizer.bos(), tokenizer.end_tokens());
    let json = json.map_err(|problem| Error::file(file.path(), problem))?;
    replace_directory(out, |directory| {
        write_json(&directory.join(CONFIG), &json)?;
        tokenizer.write(directory, config.context)?;
        write_streamed(&directory.join(WEIGHTS), &tensors, bytes)
    })?;
    Ok(merged)
}

/// Copies the files of a model's directory that describe it and its tokenizer: not the weights, and not the card, which is about the base.
fn copy_others(model: &Path, directory: &Path) -> Result<()> {
    let failed = |e| Error::write(directory, e);
    let mut files: Vec<_> = fs::read_dir(model).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(|e| unreadable(model, e))?;
    files.sort_by_key(|file| file.file_name());
    for file in files {
        let (path, name) = (file.path(), file.file_name());
        let text = name.to_string_lossy().to_lowercase();
        let describes = [".json", ".jinja", ".txt", ".model"].iter().any(|end| text.ends_with(end)) && !text.ends_with(".index.json");
        let licence = ["licen", "notice"].iter().any(|start| text.starts_with(start));
        if path.is_file() && (describes || licence) {
            fs::copy(&path, directory.join(&name)).map_err(failed)?;
        }
    }
    Ok(())
}

/// The format, if safetensors has it.
fn plain(out: &Path, wanted: Option<GgmlType>) -> Result<Option<GgmlType>> {
    match wanted {
        Some(format) if format.block_len() > 1 => {
            let word = format.dtype().word();
            let advice = "give a file that ends with .gguf, or --type f32, f16 or bf16";
            Err(Error::Usage(format!("{} would be a directory of safetensors, which has no {word}; {advice}", out.display())))
        }
        wanted => Ok(wanted),
    }
}

fn torch_name(format: GgmlType) -> &'static str {
    match format {
        GgmlType::F16 => "float16",
        GgmlType::Bf16 => "bfloat16",
        _ => "float32",
    }
}

fn write_json(path: &Path, json: &Value) -> Result<()> {
    replace_file(path, (serde_json::to_string_pretty(json).expect("a JSON value prints") + "\n").as_bytes())
}
