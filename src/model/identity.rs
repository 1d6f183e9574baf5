//! Which base an adapter was made on: enough to refuse a model of another form, and to notice one with other weights.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Config;
use super::names::Names;
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text_if_any, replace_file};
use crate::weights::{Fingerprint, Weights};

/// Of the file's form.
const VERSION: u32 = 1;

/// So many numbers of each tensor are looked at, all in its first row: the same row in every format and order of rows.
const LOOKED_AT: usize = 64;

/// What can be said of a base in a small file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseIdentity {
    version: u32,
    /// What the model is called or where it lies.
    pub model: String,
    form: Form,
    /// A fingerprint of the first numbers of every tensor.
    fingerprint: String,
    /// How many tensors these are.
    #[serde(skip)]
    pub(super) tensors: usize,
}

/// The architecture and the extents of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    architecture: String,
    vocab_size: u32,
    hidden_size: u32,
    layers: u32,
    heads: u32,
    key_value_heads: u32,
    head_size: u32,
    intermediate_size: u32,
}

impl Form {
    fn of(config: &Config) -> Form {
        Form {
            architecture: config.family.model_type().into(),
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            layers: config.layers,
            heads: config.heads,
            key_value_heads: config.key_value_heads,
            head_size: config.head_size,
            intermediate_size: config.intermediate_size,
        }
    }

    /// The first thing in which another differs: what it is, and the two values.
    fn difference(&self, other: &Form) -> Option<(&'static str, String, String)> {
        if self.architecture != other.architecture {
            return Some(("architecture", self.architecture.clone(), other.architecture.clone()));
        }
        let extents = [
            ("layers", self.layers, other.layers),
            ("hidden size", self.hidden_size, other.hidden_size),
            ("heads", self.heads, other.heads),
            ("key and value heads", self.key_value_heads, other.key_value_heads),
            ("head size", self.head_size, other.head_size),
            ("feed-forward size", self.intermediate_size, other.intermediate_size),
            ("vocabulary size", self.vocab_size, other.vocab_size),
        ];
        let (what, own, others) = extents.into_iter().find(|(_, own, others)| own != others)?;
        Some((what, own.to_string(), others.to_string()))
    }
}

/// How a base relates to the one that something was made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// It is the same.
    Same,
    /// It has the same form and other weights: another quantisation or another fine-tune.
    OtherWeights,
    /// It has another form, which the rest of a sentence says.
    OtherForm(String),
}

impl BaseIdentity {
    /// The identity of a base with these weights; `model` is what it is called. Reads a few numbers of each tensor, whose values count and
    /// not their format, so that a model keeps its identity when it is converted without loss.
    pub fn of(config: &Config, weights: &Weights, model: &str) -> BaseIdentity {
        let names = Names::of(config.family);
        let tied_head = format!("{}.weight", names.head);
        let mut fingerprint = Fingerprint::default();
        let mut tensors = 0;
        for (name, weight) in &weights.tensors {
            // Files may have tensors that no model asks for, such as masks, or a tied head of its own.
            if names.translate(name, names).is_none() || config.tied && *name == tied_head {
                continue;
            }
            fingerprint.add(name.as_bytes());
            fingerprint.add(bytemuck::cast_slice(&weight.first(LOOKED_AT)));
            tensors += 1;
        }
        BaseIdentity { version: VERSION, model: model.into(), form: Form::of(config), fingerprint: fingerprint.finish(), tensors }
    }

    /// How another base relates to this one.
    pub fn likeness(&self, other: &BaseIdentity) -> Likeness {
        match self.form.difference(&other.form) {
            Some((what, own, others)) => {
                Likeness::OtherForm(format!("the {what} of '{}' is {own}, and that of '{}' is {others}", self.model, other.model))
            }
            None if self.fingerprint != other.fingerprint => Likeness::OtherWeights,
            None => Likeness::Same,
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        replace_file(path, serde_json::to_string_pretty(self).expect("it prints as JSON").as_bytes())
    }

    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn read(path: &Path) -> Result<Option<BaseIdentity>> {
        let Some(text) = read_text_if_any(path, CONFIG_BYTES)? else { return Ok(None) };
        let identity: BaseIdentity = serde_json::from_str(&text)
            .map_err(|e| Error::file(path, format!("does not say which base the adapter was made on ({e}); copy or save it again")))?;
        if identity.version != VERSION {
            let problem =
                format!("is of version {}, but this program reads version {VERSION}; use the one that wrote it", identity.version);
            return Err(Error::file(path, problem));
        }
        Ok(Some(identity))
    }
}
