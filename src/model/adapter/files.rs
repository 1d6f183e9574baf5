//! Adapters on disk. Bottleneck adapters as the `adapters` library (AdapterHub) writes and reads them: `adapter_config.json` and
//! `adapter.safetensors` and, if the head trained too, `head_config.json` and `model_head.safetensors`. A LoRA as PEFT does:
//! `adapter_config.json` and `adapter_model.safetensors`, which also has the head.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::json::{AdapterJson, about, check_name};
use super::lora::{self, LoraConfig, PeftJson, is_lora};
use super::tensors::{renamed, to_disk, to_memory};
use super::{AdapterConfig, BottleneckConfig, FusionConfig, fusion, is_adapter};
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text, replace_file};
use crate::model::heads::{is_label_head, read_head, write_head};
use crate::model::names::Names;
use crate::model::{BaseIdentity, Config, Family, HeadConfig, HeadForm, Likeness, Model};
use crate::text::TaskKind;
use crate::weights::Weights;
use crate::words::shown;

const CONFIG: &str = "adapter_config.json";
const FUSION_CONFIG: &str = "adapter_fusion_config.json";
const FUSION: &str = "model_adapter_fusion.safetensors";
const WEIGHTS: &str = "adapter.safetensors";
const HEAD_CONFIG: &str = "head_config.json";
const HEAD: &str = "model_head.safetensors";
/// PEFT's file for the tensors of a LoRA.
const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
/// mlx-lm's.
const MLX_WEIGHTS: &str = "adapters.safetensors";
/// The file for other parts of the base that trained.
pub(crate) const BASE_FILE: &str = "base.safetensors";
/// The file that records which base an adapter was trained on; the `adapters` library ignores it.
pub const MADE_ON: &str = "base.json";

/// An adapter with everything in its directory.
#[derive(Clone, Debug)]
pub struct SavedAdapter {
    /// Its name, which is part of a bottleneck adapter's tensors' names on disk.
    pub name: String,
    /// Its configuration.
    pub config: AdapterConfig,
    /// The hidden size of its model; 0 if that is not in its files, as with a LoRA.
    pub hidden_size: u32,
    /// Its model's architecture, such as `gpt2`.
    pub model_type: String,
    /// Its model's name or path.
    pub model_name: String,
    /// The base that it was trained on; only directories that Graftling wrote have it.
    pub made_on: Option<BaseIdentity>,
    /// Its tensors, under their names on disk after [`read_adapter`], otherwise those in memory (with `default` for a bottleneck adapter's
    /// name). Those of a LoRA are in Hugging Face's order; after [`read_adapter`], the parts of the base that PEFT saved are among them.
    pub weights: Weights,
    /// The adapters that it is a fusion of, in its order; each is saved in a directory of its own, inside that of the fusion.
    pub parts: Vec<SavedAdapter>,
    /// The head that is saved with it, under its names on disk.
    pub head: Option<Weights>,
    /// The head for labels that was trained with it, with its tensors under their names in memory.
    pub label_head: Option<(HeadConfig, Weights)>,
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
        let config = model.adapters.trained().cloned().ok_or_else(|| Error::Usage("the model has no adapter to write".into()))?;
        let lora = config.lora().is_some();
        let config = match config {
            AdapterConfig::Lora(config) => config.resolved(&model.config).into(),
            config => config,
        };
        let mut saved = SavedAdapter {
            name: name.into(),
            config,
            hidden_size: model.config.hidden_size,
            model_type: model.config.family.model_type().into(),
            model_name: base.model.clone(),
            made_on: Some(base.clone()),
            weights: Weights::default(),
            parts: Vec::new(),
            head: None,
            label_head: model.label_head().map(|head| (head.clone(), Weights::default())),
            base: None,
        };
        // What PEFT can save whole in a LoRA's file. It would untie a tied head from the embedding.
        let whole = |name: &str| {
            let names = Names::of(model.config.family);
            let norm = name.rsplit_once('.').is_some_and(|(stem, _)| names.is_norm(stem));
            let untied = !model.config.tied && model.config.head_on_disk(name).is_some();
            (norm || untied).then(|| name.to_string())
        };
        let head_on_disk = |name: &str| if lora { whole(name) } else { model.config.head_on_disk(name) };
        let frozen = |name: &str| is_adapter(name) && !model.adapters.trains(name);
        for (name, weight) in weights.tensors.iter().filter(|(name, _)| !frozen(name)) {
            if let Some((_, tensors)) = saved.label_head.as_mut().filter(|_| is_label_head(name)) {
                tensors.tensors.insert(name.clone(), weight.clone());
                continue;
            }
            let (part, name, weight) = match head_on_disk(name) {
                _ if is_lora(name) => (&mut saved.weights, name.clone(), model.config.outputs_in_file_order(name, weight)),
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
        let weights = match &self.config {
            AdapterConfig::Bottleneck(config) => self.weights_for(config, Names::of(model.family), model.layers, model.hidden_size)?,
            AdapterConfig::Lora(config) => lora::to_memory(&self.weights, config, model)?,
            AdapterConfig::Fusion(config) => {
                self.check_hidden(model.hidden_size, FUSION_CONFIG)?;
                fusion::to_memory(&self.weights, config, (Names::of(model.family).layers, model.layers, model.hidden_size))?
            }
        };
        let mut sources = vec![weights];
        sources.extend(self.label_head.iter().map(|(_, tensors)| tensors.clone()));
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

    /// The adapter's own tensors for a model of `layers` layers with these names.
    fn weights_for(&self, config: &BottleneckConfig, names: &Names, layers: u32, hidden: u32) -> Result<Weights> {
        self.check_hidden(hidden, CONFIG)?;
        to_memory(&self.weights, &self.name, config, (names, layers, hidden))
    }

    fn check_hidden(&self, hidden: u32, file: &str) -> Result<()> {
        if self.hidden_size == hidden {
            return Ok(());
        }
        let problem = format!("hidden_size is {}, but the model's is {hidden}; use the adapter's own base", self.hidden_size);
        Err(Error::file(self.weights.path.with_file_name(file), problem))
    }

    /// The same adapter under another name.
    pub(super) fn called(mut self, name: &str) -> SavedAdapter {
        let tensors = std::mem::take(&mut self.weights.tensors).into_iter();
        self.weights.tensors = tensors.map(|(own, weight)| (renamed(&own, &self.name, name), weight)).collect();
        SavedAdapter { name: name.into(), ..self }
    }

    /// Writes the files of a bottleneck adapter except its config, which is returned, and those of its head.
    fn write_bottleneck(&self, directory: &Path, config: &BottleneckConfig) -> Result<String> {
        let names = Names::of(Family::of_model_type(&self.model_type).unwrap_or(Family::Graftling));
        to_disk(&self.weights, &self.name, config, names).write(&directory.join(WEIGHTS))?;
        self.write_word_head(directory, config)?;
        Ok(self.json(config).write())
    }

    /// Writes the files of a fusion except its config, which is returned, those of its head, and the directories of the adapters that it is of.
    fn write_fusion(&self, directory: &Path, config: &FusionConfig) -> Result<String> {
        fusion::to_disk(&self.weights, config).write(&directory.join(FUSION))?;
        self.write_word_head(directory, &BottleneckConfig::default())?;
        for part in &self.parts {
            let own = directory.join(&part.name);
            fs::create_dir_all(&own).map_err(|e| Error::write(&own, e))?;
            write_adapter(&own, part)?;
        }
        Ok(config.write(self.hidden_size, &self.model_type, &self.model_name))
    }

    /// Writes the files of a head that predicts words, if one is saved.
    fn write_word_head(&self, directory: &Path, config: &BottleneckConfig) -> Result<()> {
        let Some(head) = &self.head else { return Ok(()) };
        head.write(&directory.join(HEAD))?;
        replace_file(&directory.join(HEAD_CONFIG), self.json(config).write_head().as_bytes())
    }

    /// Writes the tensors of a LoRA and of a head; returns the config.
    fn write_lora(&self, directory: &Path, config: &LoraConfig) -> Result<String> {
        let words = self.head.iter().flat_map(|head| &head.tensors);
        // The head of a model class, which PEFT saves as a whole.
        let class = self.label_head.as_ref().filter(|(head, _)| head.form == HeadForm::Class);
        let of_class = class.map_or_else(Weights::default, |(head, tensors)| head.to_disk(tensors, &self.model_type, &self.name));
        let mut tensors = lora::to_disk(self.weights.tensors.iter().chain(words));
        let whole = tensors.tensors.keys().filter(|name| !is_lora(name));
        let modules = whole.filter_map(|name| Some(lora::module(name)?.to_string())).collect::<Vec<_>>();
        let classes = of_class.tensors.keys().filter_map(|name| Some(name.split_once('.')?.0.to_string()));
        let modules: BTreeSet<_> = modules.into_iter().chain(classes).collect();
        tensors.tensors.extend(lora::to_disk(&of_class.tensors).tensors);
        tensors.write(&directory.join(PEFT_WEIGHTS))?;
        let transposed = self.model_type == Family::Gpt2.model_type();
        let (config, model_name) = (config.clone(), self.model_name.clone());
        let task_type = match self.label_head.as_ref().map(|(head, _)| head.task.kind()) {
            // PEFT has none for masked words.
            None => Family::of_model_type(&self.model_type).filter(|family| !family.is_encoder()).map(|_| "CAUSAL_LM"),
            Some(TaskKind::Tagging) => Some("TOKEN_CLS"),
            Some(_) => Some("SEQ_CLS"),
        };
        Ok(PeftJson { config, model_name, modules_to_save: modules.into_iter().collect(), transposed }.write(task_type))
    }

    fn json(&self, config: &BottleneckConfig) -> AdapterJson {
        AdapterJson {
            name: self.name.clone(),
            config: config.clone(),
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
    remove(&directory.join(HEAD))?;
    remove(&directory.join(HEAD_CONFIG))?;
    if let Some((head, tensors)) = &adapter.label_head {
        let json = about(adapter.hidden_size, &adapter.model_type, &adapter.model_name);
        write_head(directory, head, tensors, (&adapter.model_type, &adapter.name), json)?;
    }
    let json = match &adapter.config {
        AdapterConfig::Bottleneck(config) => adapter.write_bottleneck(directory, config)?,
        AdapterConfig::Lora(config) => adapter.write_lora(directory, config)?,
        AdapterConfig::Fusion(config) => adapter.write_fusion(directory, config)?,
    };
    match &adapter.made_on {
        Some(base) => base.write(&directory.join(MADE_ON))?,
        None => remove(&directory.join(MADE_ON))?,
    }
    match &adapter.base {
        Some(base) => base.write(&directory.join(BASE_FILE))?,
        None => remove(&directory.join(BASE_FILE))?,
    }
    let file = if adapter.config.fusion().is_some() { FUSION_CONFIG } else { CONFIG };
    replace_file(&directory.join(file), json.as_bytes())
}

fn remove(file: &Path) -> Result<()> {
    fs::remove_file(file).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(Error::write(file, e)) })
}

/// Reads what [`write_adapter`], the library, PEFT or mlx-lm wrote. [`SavedAdapter::sources`], which knows the model, checks the tensors.
///
/// # Errors
/// [`Error::File`], naming the file and the key.
pub fn read_adapter(directory: &Path) -> Result<SavedAdapter> {
    let path = directory.join(CONFIG);
    if !path.exists() && directory.join(FUSION_CONFIG).exists() {
        return read_fusion(directory);
    }
    let of_run = directory.join("adapter");
    if !path.exists() && (of_run.join(CONFIG).exists() || of_run.join(FUSION_CONFIG).exists()) {
        return Err(Error::file(directory, format!("is a run, not an adapter; did you mean {}?", of_run.display())));
    }
    let json = read_json(&path)?;
    let problem = |problem: String| Error::file(&path, problem);
    let (base, made_on) = (read_optional(directory, BASE_FILE)?, BaseIdentity::read(&directory.join(MADE_ON))?);
    let label_head = read_head(directory)?;
    let has_label_head = label_head.is_some();
    // Only the library's own bottleneck adapters say more of themselves.
    let with = |config: AdapterConfig, weights: Weights| SavedAdapter {
        name: "default".into(),
        config,
        hidden_size: 0,
        model_type: String::new(),
        model_name: String::new(),
        made_on,
        weights,
        parts: Vec::new(),
        head: None,
        label_head,
        base,
    };
    if json.get("peft_type").is_some() {
        let PeftJson { config, model_name, modules_to_save, transposed } = PeftJson::read(&json).map_err(problem)?;
        let advice = "load it with PEFT and save it with safe_serialization=True";
        let mut weights = read_weights(directory, [PEFT_WEIGHTS, "adapter_model.bin"], advice)?;
        if has_label_head {
            // PEFT's copy of the head, which has all that its own file has.
            let copy = lora::to_disk(&Weights::read(&directory.join(HEAD))?.tensors);
            weights.tensors.retain(|name, _| !copy.tensors.contains_key(name));
        }
        let stray = |name: &&String| !is_lora(name) && !modules_to_save.iter().any(|module| is_of(name, module));
        if let Some(name) = weights.tensors.keys().find(stray) {
            let problem =
                format!("tensor '{}' is not part of a LoRA on linear layers, nor of modules_to_save; train it without", shown(name));
            return Err(Error::file(&weights.path, problem));
        }
        // No other family has matrices that PEFT calls transposed.
        let model_type = if transposed { Family::Gpt2.model_type().into() } else { String::new() };
        return Ok(SavedAdapter { model_type, model_name, ..with(config.into(), weights) });
    }
    if lora::is_mlx(&json) {
        let weights = Weights::read(&directory.join(MLX_WEIGHTS))?;
        let (config, weights) = lora::from_mlx(&json, &weights).map_err(problem)?;
        return Ok(with(config.into(), weights));
    }
    let weights = |json: &Value| -> Result<Weights> {
        let advice = "save the adapter again with use_safetensors=True";
        AdapterJson::check_version(json).map_err(problem)?;
        read_weights(directory, [WEIGHTS, "pytorch_adapter.bin"], advice)
    };
    if lora::is_hub(&json) {
        let (config, weights) = lora::from_hub(&json, &weights(&json)?).map_err(problem)?;
        let (model_type, model_name) = (text_of(&json, "model_type"), text_of(&json, "model_name"));
        return Ok(SavedAdapter { model_type, model_name, ..with(config.into(), weights) });
    }
    let AdapterJson { name, config, hidden_size, model_type, model_name } = AdapterJson::read(&json).map_err(problem)?;
    let weights = weights(&json)?;
    let head = if has_label_head { None } else { read_optional(directory, HEAD)? };
    Ok(SavedAdapter { name, hidden_size, model_type, model_name, head, ..with(config.into(), weights) })
}

/// Reads a fusion and the adapters that it is of. They are in directories of their names: inside that of the fusion, or beside it, as the
/// library's `save_adapter_setup` has them.
fn read_fusion(directory: &Path) -> Result<SavedAdapter> {
    let path = directory.join(FUSION_CONFIG);
    let problem = |problem: String| Error::file(&path, problem);
    let json = read_json(&path)?;
    let config = FusionConfig::read(&json).map_err(problem)?;
    let hidden = json.get("hidden_size").and_then(Value::as_u64).and_then(|hidden| u32::try_from(hidden).ok());
    let hidden_size = hidden.ok_or_else(|| problem("has no 'hidden_size' of a model; save it again".into()))?;
    let weights = read_weights(directory, [FUSION, "pytorch_model_adapter_fusion.bin"], "save the fusion again with use_safetensors=True")?;
    let part = |name: &String| {
        let beside = directory.parent().map(|parent| parent.join(name));
        let own = [Some(directory.join(name)), beside].into_iter().flatten().find(|own| own.join(CONFIG).exists());
        let missing =
            || problem(format!("is a fusion of '{}', which is neither in its directory nor beside it; put it there", shown(name)));
        Ok(read_adapter(&own.ok_or_else(missing)?)?.called(name))
    };
    let parts = config.adapters.iter().map(part).collect::<Result<_>>()?;
    let label_head = read_head(directory)?;
    let head = if label_head.is_none() { read_optional(directory, HEAD)? } else { None };
    let (base, made_on) = (read_optional(directory, BASE_FILE)?, BaseIdentity::read(&directory.join(MADE_ON))?);
    let (name, model_type, model_name) = ("default".to_string(), text_of(&json, "model_type"), text_of(&json, "model_name"));
    Ok(SavedAdapter { name, config: config.into(), hidden_size, model_type, model_name, made_on, weights, parts, head, label_head, base })
}

fn read_json(path: &Path) -> Result<Value> {
    let text = read_text(path, CONFIG_BYTES)?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, format!("is not JSON ({e}); copy or save it again")))
}

/// A string of a JSON object, or an empty one.
fn text_of(json: &Value, key: &str) -> String {
    json.get(key).and_then(Value::as_str).unwrap_or_default().into()
}

fn read_optional(directory: &Path, file: &str) -> Result<Option<Weights>> {
    Some(directory.join(file)).filter(|path| path.exists()).map(|path| read_checked(&path)).transpose()
}

/// Opens the file of an adapter's tensors; `pickled` is what the library calls it in the format that Graftling does not read.
fn read_weights(directory: &Path, [file, pickled]: [&str; 2], advice: &str) -> Result<Weights> {
    let path = directory.join(file);
    if !path.exists() && directory.join(pickled).exists() {
        return Err(Error::file(&path, format!("is missing beside {pickled}; {advice}")));
    }
    Weights::read(&path)
}

/// Whether a tensor on disk belongs to a module that PEFT saves whole; PEFT compares the ends of the modules' names.
fn is_of(tensor: &str, module: &str) -> bool {
    tensor.rsplit_once('.').is_some_and(|(name, _)| name.ends_with(module))
}

fn read_checked(path: &Path) -> Result<Weights> {
    let weights = Weights::read(path)?;
    weights.check()?;
    Ok(weights)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
