//! Adapters on disk, as the `adapters` library (AdapterHub) writes and reads them: `adapter_config.json` and `adapter.safetensors`, and
//! where the head trained too, `head_config.json` and `model_head.safetensors`.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::adapter_json::{AdapterJson, check_name};
use super::adapter_tensors::{to_disk, to_memory};
use super::{AdapterConfig, Model, is_adapter};
use crate::error::{Error, Result};
use crate::weights::{Weights, replace_file};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter.safetensors";
const HEAD_CONFIG: &str = "head_config.json";
const HEAD: &str = "model_head.safetensors";

/// Bytes that a config may have: many times what it needs.
const LONGEST_CONFIG: u64 = 1 << 20;

/// An adapter with all that its directory says.
#[derive(Clone, Debug)]
pub struct SavedAdapter {
    /// Its name, which stands in the names of its tensors on disk.
    pub name: String,
    /// Its form.
    pub config: AdapterConfig,
    /// The hidden size of its model.
    pub hidden_size: u32,
    /// Its model's architecture, such as `gpt2`.
    pub model_type: String,
    /// What its model is called or where it lies.
    pub model_name: String,
    /// Its tensors, as they are called on disk after [`read_adapter`], or in memory (with `default` for the adapter's name).
    pub weights: Weights,
    /// The head that trained beside it, as it is called on disk.
    pub head: Option<Weights>,
}

impl SavedAdapter {
    /// What there is to save of a model whose trained weights are `weights`; `name` is the adapter's, and `base` says which base it is.
    ///
    /// # Errors
    /// [`Error::Usage`] if the model has no adapters.
    pub fn of(model: &Model, weights: &Weights, name: &str, base: &str) -> Result<SavedAdapter> {
        let config = model.adapters.clone().ok_or_else(|| Error::Usage("the model has no adapter to write".into()))?;
        let part = |belongs: &dyn Fn(&str) -> Option<String>| {
            let tensors = weights.tensors.iter().filter_map(|(name, weight)| Some((belongs(name)?, weight.clone())));
            Weights { tensors: tensors.collect(), ..Weights::default() }
        };
        let head = part(&|name| model.head_on_disk(name));
        Ok(SavedAdapter {
            name: name.into(),
            config,
            hidden_size: model.config.hidden_size,
            model_type: model.config.family.model_type().into(),
            model_name: base.into(),
            weights: part(&|name| is_adapter(name).then(|| name.into())),
            head: (!head.tensors.is_empty()).then_some(head),
        })
    }

    /// Its tensors for a model of that many layers, under their names in memory, each checked against the configuration. `prefix` is what
    /// stands before a layer's number in tensors' names: `transformer.h` or `model.layers`.
    ///
    /// # Errors
    /// [`Error::File`], naming file and tensor or key.
    pub fn weights_for(&self, prefix: &str, layers: u32, hidden: u32) -> Result<Weights> {
        if self.hidden_size != hidden {
            let problem = format!("hidden_size is {}, but the model's is {hidden}; take the adapter's own base", self.hidden_size);
            return Err(Error::file(self.weights.path.with_file_name(CONFIG), problem));
        }
        to_memory(&self.weights, &self.name, &self.config, (prefix, layers, hidden))
    }

    fn json(&self) -> AdapterJson {
        AdapterJson {
            name: self.name.clone(),
            config: self.config.clone(),
            hidden_size: self.hidden_size,
            model_type: self.model_type.clone(),
            model_name: self.model_name.clone(),
        }
    }
}

/// Writes the adapter's files into `directory`, each complete or not at all; a head that an earlier adapter left there goes.
///
/// # Errors
/// [`Error::Write`]; [`Error::Usage`] if its name or configuration cannot be.
pub fn write_adapter(directory: &Path, adapter: &SavedAdapter) -> Result<()> {
    check_name(&adapter.name).and_then(|()| adapter.config.check()).map_err(Error::Usage)?;
    let json = adapter.json();
    to_disk(&adapter.weights, &adapter.name, &adapter.config).write(&directory.join(WEIGHTS))?;
    if let Some(head) = &adapter.head {
        head.write(&directory.join(HEAD))?;
        replace_file(&directory.join(HEAD_CONFIG), json.write_head().as_bytes())?;
    } else {
        for file in [HEAD, HEAD_CONFIG].map(|file| directory.join(file)) {
            fs::remove_file(&file).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(Error::write(&file, e)) })?;
        }
    }
    replace_file(&directory.join(CONFIG), json.write().as_bytes())
}

/// Reads what [`write_adapter`] or the library wrote. Which tensors there are is checked by [`SavedAdapter::weights_for`], which knows the
/// model.
///
/// # Errors
/// [`Error::File`], naming file and key.
pub fn read_adapter(directory: &Path) -> Result<SavedAdapter> {
    let path = directory.join(CONFIG);
    let json = AdapterJson::read(&read_text(&path)?).map_err(|problem| Error::file(&path, problem))?;
    let path = directory.join(WEIGHTS);
    if !path.exists() && directory.join("pytorch_adapter.bin").exists() {
        return Err(Error::file(&path, "is missing beside pytorch_adapter.bin; save the adapter again with use_safetensors=True"));
    }
    let weights = Weights::read(&path)?;
    let path = directory.join(HEAD);
    let head = if path.exists() { Some(read_head(&path)?) } else { None };
    let AdapterJson { name, config, hidden_size, model_type, model_name } = json;
    Ok(SavedAdapter { name, config, hidden_size, model_type, model_name, weights, head })
}

fn read_head(path: &Path) -> Result<Weights> {
    let head = Weights::read(path)?;
    for (name, weight) in &head.tensors {
        if let Some(at) = weight.to_f32().iter().position(|value| !value.is_finite()) {
            let damaged = format!("tensor '{name}' has a number that is not finite at element {at}; the file is damaged");
            return Err(Error::file(path, damaged));
        }
    }
    Ok(head)
}

/// A config's text, which is not read further than any config goes.
fn read_text(path: &Path) -> Result<String> {
    let unreadable = |e: std::io::Error| Error::file(path, format!("cannot be read ({e}); check the path"));
    let mut text = String::new();
    File::open(path).map_err(unreadable)?.take(LONGEST_CONFIG + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LONGEST_CONFIG {
        return Err(Error::file(path, "is longer than 1 MiB, so it is not an adapter's config; check the path"));
    }
    Ok(text)
}

#[cfg(test)]
#[path = "adapter_file_tests.rs"]
mod tests;
