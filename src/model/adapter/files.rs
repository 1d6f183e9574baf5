//! Adapters on disk, as the `adapters` library (AdapterHub) writes and reads them: `adapter_config.json` and `adapter.safetensors` and, if
//! the head trained too, `head_config.json` and `model_head.safetensors`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::json::{AdapterJson, check_name};
use super::tensors::{to_disk, to_memory};
use super::{AdapterConfig, is_adapter};
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text, replace_file};
use crate::model::names::Names;
use crate::model::{BaseIdentity, Config, Likeness, Model};
use crate::weights::Weights;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter.safetensors";
const HEAD_CONFIG: &str = "head_config.json";
const HEAD: &str = "model_head.safetensors";
/// The file for other parts of the base that trained.
pub(crate) const BASE_FILE: &str = "base.safetensors";
/// The file that records which base an adapter was trained on; the `adapters` library ignores it.
pub const MADE_ON: &str = "base.json";

/// An adapter with everything in its directory.
#[derive(Clone, Debug)]
pub struct SavedAdapter {
    /// Its name, which is part of its tensors' names on disk.
    pub name: String,
    /// Its configuration.
    pub config: AdapterConfig,
    /// The hidden size of its model.
    pub hidden_size: u32,
    /// Its model's architecture, such as `gpt2`.
    pub model_type: String,
    /// Its model's name or path.
    pub model_name: String,
    /// The base that it was trained on; only directories that Graftling wrote have it.
    pub made_on: Option<BaseIdentity>,
    /// Its tensors, under their names on disk after [`read_adapter`], otherwise those in memory (with `default` for the adapter's name).
    pub weights: Weights,
    /// The head that was saved with it, under its names on disk.
    pub head: Option<Weights>,
    /// Other tensors of the base that trained with it, which the library does not support: under Hugging Face's names and in its order, or
    /// in the model's order if `made_on` is `None`.
    pub base: Option<Weights>,
}

impl SavedAdapter {
    /// Collects what to save of a model whose trained weights are `weights`; `name` is the adapter's, and `base` is what it was trained on.
    ///
    /// # Errors
    /// [`Error::Usage`] if the model has no adapters.
    pub fn of(model: &Model, weights: &Weights, name: &str, base: &BaseIdentity) -> Result<SavedAdapter> {
        let config = model.adapters.clone().ok_or_else(|| Error::Usage("the model has no adapter to write".into()))?;
        let mut saved = SavedAdapter {
            name: name.into(),
            config,
            hidden_size: model.config.hidden_size,
            model_type: model.config.family.model_type().into(),
            model_name: base.model.clone(),
            made_on: Some(base.clone()),
            weights: Weights::default(),
            head: None,
            base: None,
        };
        for (name, weight) in &weights.tensors {
            let (part, name, weight) = match model.config.head_on_disk(name) {
                _ if is_adapter(name) => (&mut saved.weights, name.clone(), weight.clone()),
                Some(name) => (saved.head.get_or_insert_default(), name, weight.clone()),
                None => (saved.base.get_or_insert_default(), name.clone(), model.config.in_file_order(name, weight)),
            };
            part.tensors.insert(name, weight);
        }
        Ok(saved)
    }

    /// Its tensors for a model with this configuration, under their names in memory, each checked against the adapter's configuration; and
    /// those of the head and of other parts of the base that trained with it.
    ///
    /// # Errors
    /// [`Error::File`], naming the file and the tensor or key.
    pub fn sources(&self, model: &Config) -> Result<Vec<Weights>> {
        let mut sources = vec![self.weights_for(Names::of(model.family).layers, model.layers, model.hidden_size)?];
        if let Some(head) = &self.head {
            let tensors = head.tensors.iter().map(|(name, weight)| (model.head_in_memory(name), weight.clone())).collect();
            sources.push(Weights { tensors, ..head.clone() });
        }
        if let Some(base) = &self.base {
            let ordered = |name: &str, weight| if self.made_on.is_some() { model.in_model_order(name, weight) } else { weight.clone() };
            let tensors = base.tensors.iter().map(|(name, weight)| (name.clone(), ordered(name, weight))).collect();
            sources.push(Weights { tensors, ..base.clone() });
        }
        Ok(sources)
    }

    /// Checks that the adapter fits a base; returns a warning if its weights are not those of the base that the adapter was trained on.
    ///
    /// # Errors
    /// [`Error::File`] if the base has another architecture or size.
    pub fn check_base(&self, base: &BaseIdentity) -> Result<Option<String>> {
        let Some(made_on) = &self.made_on else { return Ok(None) };
        let directory = self.weights.path.parent().unwrap_or(&self.weights.path);
        // If the directory has a whole base, none of the given base's weights are used.
        let brought: usize = [&self.head, &self.base].into_iter().flatten().map(|part| part.tensors.len()).sum();
        match made_on.likeness(base) {
            Likeness::OtherForm(difference) => {
                let problem = format!("was trained on another base: {difference}; use the model that it was trained on");
                Err(Error::file(directory, problem))
            }
            Likeness::OtherWeights if brought < base.tensors => Ok(Some(format!(
                "{} was trained on '{}', but '{}' has other weights (another quantisation or fine-tune?); results will differ",
                directory.display(),
                made_on.model,
                base.model
            ))),
            Likeness::OtherWeights | Likeness::Same => Ok(None),
        }
    }

    /// The adapter's own tensors for a model of `layers` layers. `prefix` precedes a layer's number in tensor names: `transformer.h` or
    /// `model.layers`.
    fn weights_for(&self, prefix: &str, layers: u32, hidden: u32) -> Result<Weights> {
        if self.hidden_size != hidden {
            let problem = format!("hidden_size is {}, but the model's is {hidden}; use the adapter's own base", self.hidden_size);
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

/// Writes the adapter's files into `directory`, each completely or not at all, and removes the optional files of an earlier adapter.
///
/// # Errors
/// [`Error::DivergedWeight`] if a value is not finite; [`Error::Write`]; [`Error::Usage`] if the name or configuration is invalid.
pub fn write_adapter(directory: &Path, adapter: &SavedAdapter) -> Result<()> {
    check_name(&adapter.name).and_then(|()| adapter.config.check()).map_err(Error::Usage)?;
    let json = adapter.json();
    to_disk(&adapter.weights, &adapter.name, &adapter.config).write(&directory.join(WEIGHTS))?;
    if let Some(head) = &adapter.head {
        head.write(&directory.join(HEAD))?;
        replace_file(&directory.join(HEAD_CONFIG), json.write_head().as_bytes())?;
    } else {
        remove(&directory.join(HEAD))?;
        remove(&directory.join(HEAD_CONFIG))?;
    }
    match &adapter.made_on {
        Some(base) => base.write(&directory.join(MADE_ON))?,
        None => remove(&directory.join(MADE_ON))?,
    }
    match &adapter.base {
        Some(base) => base.write(&directory.join(BASE_FILE))?,
        None => remove(&directory.join(BASE_FILE))?,
    }
    replace_file(&directory.join(CONFIG), json.write().as_bytes())
}

fn remove(file: &Path) -> Result<()> {
    fs::remove_file(file).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(Error::write(file, e)) })
}

/// Reads what [`write_adapter`] or the library wrote. [`SavedAdapter::sources`], which knows the model, checks the tensors.
///
/// # Errors
/// [`Error::File`], naming the file and the key.
pub fn read_adapter(directory: &Path) -> Result<SavedAdapter> {
    let path = directory.join(CONFIG);
    let of_run = directory.join("adapter");
    if !path.exists() && of_run.join(CONFIG).exists() {
        return Err(Error::file(directory, format!("is a run, not an adapter; did you mean {}?", of_run.display())));
    }
    let json = AdapterJson::read(&read_text(&path, CONFIG_BYTES)?).map_err(|problem| Error::file(&path, problem))?;
    let path = directory.join(WEIGHTS);
    if !path.exists() && directory.join("pytorch_adapter.bin").exists() {
        return Err(Error::file(&path, "is missing beside pytorch_adapter.bin; save the adapter again with use_safetensors=True"));
    }
    let weights = Weights::read(&path)?;
    let [head, base] =
        [HEAD, BASE_FILE].map(|file| directory.join(file)).map(|path| path.exists().then(|| read_checked(&path)).transpose());
    let (head, base) = (head?, base?);
    let made_on = BaseIdentity::read(&directory.join(MADE_ON))?;
    let AdapterJson { name, config, hidden_size, model_type, model_name } = json;
    Ok(SavedAdapter { name, config, hidden_size, model_type, model_name, made_on, weights, head, base })
}

fn read_checked(path: &Path) -> Result<Weights> {
    let weights = Weights::read(path)?;
    weights.check()?;
    Ok(weights)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
