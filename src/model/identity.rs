//! The identity of the base that an adapter was trained on: enough to reject a model of another shape, and to notice other weights.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::names::Names;
use super::{AdapterExpression, Config};
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text_if_any, replace_file};
use crate::weights::{Fingerprint, Weights};

/// The version of the file format.
const VERSION: u32 = 1;

/// The fingerprint covers up to this many values of each tensor, all from its first row, which is the same in every format and row order.
const LOOKED_AT: usize = 64;

/// The identity of a base, small enough to save with every adapter.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseIdentity {
    version: u32,
    /// The model's name or path.
    pub model: String,
    form: Form,
    /// A fingerprint of the first values of every tensor.
    fingerprint: String,
    /// The adapters below the one that was trained, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    below: Option<Below>,
    /// The number of these tensors.
    #[serde(skip)]
    pub(super) tensors: usize,
}

/// Frozen adapters on a base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Below {
    /// Their expression.
    adapters: String,
    /// A fingerprint of their tensors.
    fingerprint: String,
}

/// The architecture and the sizes of a model.
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

    /// The first difference from another model: its name and the two values.
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

/// How a base compares with the one that something was trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// The same model.
    Same,
    /// The same architecture and sizes with other weights: another quantisation or fine-tune.
    OtherWeights,
    /// Another architecture or size; the text, a clause of an error message, says which.
    OtherForm(String),
}

impl BaseIdentity {
    /// The identity of a base with these weights; `model` is its name or path. Reads a few values of each tensor. Their format does not
    /// count, so a model keeps its identity when it is converted losslessly.
    pub fn of(config: &Config, weights: &Weights, model: &str) -> BaseIdentity {
        let names = Names::of(config.family);
        let tied_head = format!("{}.weight", names.head);
        let mut fingerprint = Fingerprint::default();
        let mut tensors = 0;
        for (name, weight) in &weights.tensors {
            // Files may have tensors that no model uses, such as masks or a separate copy of a tied head.
            if names.translate(name, names).is_none() || config.tied && *name == tied_head {
                continue;
            }
            fingerprint.add(name.as_bytes());
            fingerprint.add(bytemuck::cast_slice(&weight.first(LOOKED_AT)));
            tensors += 1;
        }
        let (form, fingerprint) = (Form::of(config), fingerprint.finish());
        BaseIdentity { version: VERSION, model: model.into(), form, fingerprint, below: None, tensors }
    }

    /// The identity of the base with frozen adapters on it, given as an expression and as their tensors.
    pub fn with_below(self, adapters: &AdapterExpression, tensors: &[Weights]) -> BaseIdentity {
        let mut fingerprint = Fingerprint::default();
        for (name, weight) in tensors.iter().flat_map(|weights| &weights.tensors) {
            fingerprint.add(name.as_bytes());
            fingerprint.add(&weight.bytes());
        }
        let below = Below { adapters: adapters.to_string(), fingerprint: fingerprint.finish() };
        BaseIdentity { below: Some(below), ..self }
    }

    /// The expression of the adapters below the one that was trained.
    pub fn below(&self) -> Option<&str> {
        self.below.as_ref().map(|below| &below.adapters[..])
    }

    /// Whether the adapters below are the same as those of another base.
    pub fn has_the_same_below(&self, other: &BaseIdentity) -> bool {
        let fingerprint = |identity: &BaseIdentity| identity.below.as_ref().map(|below| below.fingerprint.clone());
        fingerprint(self) == fingerprint(other)
    }

    /// Compares another base with this one.
    pub fn likeness(&self, other: &BaseIdentity) -> Likeness {
        match self.form.difference(&other.form) {
            Some((what, own, others)) => {
                Likeness::OtherForm(format!("the {what} of '{}' is {own}, but that of '{}' is {others}", self.model, other.model))
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
        replace_file(path, serde_json::to_string_pretty(self).expect("an identity serialises").as_bytes())
    }

    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn read(path: &Path) -> Result<Option<BaseIdentity>> {
        let Some(text) = read_text_if_any(path, CONFIG_BYTES)? else { return Ok(None) };
        let identity: BaseIdentity = serde_json::from_str(&text)
            .map_err(|e| Error::file(path, format!("does not say which base the adapter was trained on ({e}); copy or save it again")))?;
        if identity.version != VERSION {
            let problem = format!("is version {}, but this Graftling reads version {VERSION}; use the one that wrote it", identity.version);
            return Err(Error::file(path, problem));
        }
        Ok(Some(identity))
    }
}
