//! The parts of a model: the base in its files, and which of its weights train.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::heads::is_label_head;
use super::names::Names;
use super::{BaseIdentity, Config, HeadConfig, Model, is_adapter};
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text, replace_file};
use crate::text::Tokenizer;
use crate::weights::{Gguf, Weights, parse_json};

/// A pretrained model, read from its files.
pub struct Base {
    /// Its configuration.
    pub config: Config,
    /// Its tensors under Hugging Face's names. They stay in the files until they are requested.
    pub weights: Weights,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The head for labels that it was saved with, with its tensors under their names in memory.
    pub head: Option<(HeadConfig, Weights)>,
}

/// The name of the small GPT of `assets/base`, which is embedded in the program, wherever a model's path is expected.
pub const BUILTIN: &str = "builtin";

/// A file of `assets/base`.
macro_rules! asset {
    ($include:ident, $name:literal) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/base/", $name))
    };
}

impl Base {
    /// Opens a model: a directory with `config.json`, `model.safetensors` or its shards, and `tokenizer.json`; a `.gguf` file; or
    /// [`BUILTIN`].
    ///
    /// # Errors
    /// [`Error::File`] if a file is missing, malformed or unsupported.
    pub fn open(path: &Path) -> Result<Base> {
        let (config, weights, source) = read(path)?;
        let tokenizer = match source {
            Source::Gguf(gguf) => Tokenizer::from_gguf(&gguf)?,
            Source::Builtin => Tokenizer::from_json(asset!(include_str, "tokenizer.json"))?,
            Source::Directory => Tokenizer::read(&path.join("tokenizer.json"))?,
        };
        let tokenizer = if config.encoder.is_some() { tokenizer } else { tokenizer.of_decoder() };
        let mut base = Base { config, weights, tokenizer, head: None };
        if let Some(head) = label_head(path)? {
            let tensors = head.take(&mut base.weights, base.config.family.model_type());
            base.head = Some((head, tensors));
        }
        Ok(base)
    }

    /// Reads only the configuration and the tensors.
    ///
    /// # Errors
    /// As [`Base::open`].
    pub fn open_weights(path: &Path) -> Result<(Config, Weights)> {
        read(path).map(|(config, weights, _)| (config, weights))
    }

    /// The identity of this base; `model` is its name or path.
    pub fn identity(&self, model: &str) -> BaseIdentity {
        BaseIdentity::of(&self.config, &self.weights, model)
    }

    /// Writes a model directory of the Graftling family.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(directory: &Path, config: &Config, weights: &Weights, tokenizer_json: &str) -> Result<()> {
        replace_file(&directory.join("config.json"), config.to_json().as_bytes())?;
        replace_file(&directory.join("tokenizer.json"), tokenizer_json.as_bytes())?;
        weights.write(&directory.join("model.safetensors"))
    }
}

/// What a model was read from.
pub(super) enum Source {
    /// [`BUILTIN`].
    Builtin,
    /// A directory in Hugging Face's form.
    Directory,
    /// A GGUF file.
    Gguf(Arc<Gguf>),
}

/// The configuration, the tensors under Hugging Face's names and in the model's order, and what they are from.
pub(super) fn read(path: &Path) -> Result<(Config, Weights, Source)> {
    if is_builtin(path) {
        let config = Config::from_json(asset!(include_str, "config.json")).map_err(|problem| Error::file(path, problem))?;
        return Ok((config, Weights::from_bytes(path, asset!(include_bytes, "model.safetensors"))?, Source::Builtin));
    }
    if !path.exists() {
        return Err(Error::file(path, missing(path)));
    }
    if path.is_dir() {
        if let Some(file) = lone_gguf(path) {
            return Err(Error::file(path, format!("is a directory without config.json; give the GGUF file in it: {}", file.display())));
        }
        let mut config = Config::read(&path.join("config.json"))?;
        let mut weights = Weights::read_directory(path)?;
        let names = Names::of(config.family);
        // A file without a head omits the first part of all names.
        let prefix = names.layers.split('.').next().expect("a name has a part");
        let bare = !weights.tensors.keys().any(|name| name.starts_with(prefix));
        weights.tensors = std::mem::take(&mut weights.tensors)
            .into_iter()
            .map(|(name, weight)| {
                let name = if bare { format!("{prefix}.{name}") } else { name };
                let name = of_today(name);
                let weight = config.in_model_order(&name, &weight);
                (name, weight)
            })
            .collect();
        if let Some(encoder) = &mut config.encoder {
            // Whether an encoder has these parts depends on what it was saved for; its config does not say.
            let has = |stem: &str| weights.tensors.contains_key(&format!("{stem}.weight"));
            encoder.pooler = has(names.pooler);
            encoder.head = has(names.head_transform[0]);
        }
        return Ok((config, weights, Source::Directory));
    }
    let file = Arc::new(Gguf::open(path)?);
    let config = Config::from_gguf(&file)?;
    let (theirs, own) = (Names::of_gguf(config.family), Names::of(config.family));
    let mut weights = Weights::from_gguf(&file);
    let tensors = std::mem::take(&mut weights.tensors).into_iter();
    weights.tensors = tensors.filter_map(|(name, weight)| Some((theirs.translate(&name, own)?, weight))).collect();
    Ok((config, weights, Source::Gguf(file)))
}

/// The head for labels of a model directory.
fn label_head(path: &Path) -> Result<Option<HeadConfig>> {
    let path = path.join("config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let json = parse_json(&read_text(&path, CONFIG_BYTES)?);
    json.and_then(|json| HeadConfig::of_model(&json)).map_err(|problem| Error::file(&path, problem))
}

/// The current name of a tensor. BERT's oldest files have TensorFlow's names for the weights of a norm.
fn of_today(name: String) -> String {
    match name.rsplit_once('.') {
        Some((norm, "gamma")) => format!("{norm}.weight"),
        Some((norm, "beta")) => format!("{norm}.bias"),
        _ => name,
    }
}

/// The message about a model that does not exist, which may be a name on the Hugging Face Hub.
fn missing(path: &Path) -> String {
    let part =
        |part: &str| part.starts_with(|c: char| c.is_alphanumeric()) && part.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
    let name = path.to_str().and_then(|text| text.split_once('/')).filter(|(owner, name)| part(owner) && part(name));
    match name.filter(|(owner, name)| !Path::new(owner).exists() && !name.ends_with(".gguf")) {
        Some((owner, name)) => format!(
            "does not exist, and Graftling does not download models; run `hf download {owner}/{name} --local-dir {name}` and give the \
             directory {name}"
        ),
        None => "does not exist; give a model's directory or a .gguf file".into(),
    }
}

/// The first GGUF file of a directory without a `config.json`.
fn lone_gguf(directory: &Path) -> Option<PathBuf> {
    if directory.join("config.json").exists() {
        return None;
    }
    let entries = directory.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter(|file| file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))).min()
}

fn is_builtin(path: &Path) -> bool {
    path == Path::new(BUILTIN) && !path.exists()
}

/// Which weights train. The adapters always do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trains {
    /// All of the base.
    pub base: bool,
    /// The head. A tied head is the token embedding, which then trains in both roles.
    pub head: bool,
    /// The embeddings of tokens, positions and token types.
    pub embeddings: bool,
    /// The norms, as in Houlsby's paper.
    pub norms: bool,
}

impl Trains {
    /// The adapters only.
    pub fn adapters() -> Trains {
        Trains::default()
    }

    /// Everything.
    pub fn everything() -> Trains {
        Trains { base: true, head: true, embeddings: true, norms: true }
    }

    /// The number of weights of a model that train, by part: `adapters`, `head`, `norms`, `embeddings`, and `base` for the rest. A tied
    /// head that trains only as the head counts as the head.
    pub fn parts(self, model: &Model) -> BTreeMap<&'static str, u64> {
        let names = Names::of(model.config.family);
        let tied = model.config.tied && self.head && !self.embeddings;
        let mut parts = BTreeMap::new();
        for piece in model.parameters.iter().filter(|(_, p)| p.arena_offset.is_some()).flat_map(|(_, p)| &p.pieces) {
            let stem = piece.name.rsplit_once('.').map_or(&piece.name[..], |(stem, _)| stem);
            let part = match stem {
                _ if is_adapter(&piece.name) => "adapters",
                _ if is_label_head(&piece.name) => "head",
                _ if names.is_head(stem) || tied && stem == names.token_embedding => "head",
                _ if names.is_embedding(stem) => "embeddings",
                _ if names.is_norm(stem) => "norms",
                _ => "base",
            };
            *parts.entry(part).or_default() += piece.shape.len();
        }
        parts
    }

    /// Whether any weight of the base trains.
    pub fn any_of_base(self) -> bool {
        self != Trains::adapters()
    }
}
