//! The parts that a model is put together from: the base in its directory, and which of its weights train.

use std::path::Path;

use super::GptConfig;
use crate::error::Result;
use crate::text::Tokenizer;
use crate::weights::{Weights, replace_file};

/// A pretrained model as its directory has it.
pub struct Base {
    /// `config.json`.
    pub config: GptConfig,
    /// `model.safetensors`.
    pub weights: Weights,
    /// `tokenizer.json`.
    pub tokenizer: Tokenizer,
}

impl Base {
    /// Reads a directory with `config.json`, `model.safetensors` and `tokenizer.json`.
    ///
    /// # Errors
    /// [`crate::Error::File`], naming the file.
    pub fn read(directory: &Path) -> Result<Base> {
        let config = GptConfig::read(&directory.join("config.json"))?;
        let weights = Weights::read(&directory.join("model.safetensors"))?;
        let tokenizer = Tokenizer::read(&directory.join("tokenizer.json"))?;
        Ok(Base { config, weights, tokenizer })
    }

    /// Writes such a directory.
    ///
    /// # Errors
    /// [`crate::Error::Write`].
    pub fn write(directory: &Path, config: &GptConfig, weights: &Weights, tokenizer_json: &str) -> Result<()> {
        let config = serde_json::to_string_pretty(config).expect("a config is plain data") + "\n";
        replace_file(&directory.join("config.json"), config.as_bytes())?;
        replace_file(&directory.join("tokenizer.json"), tokenizer_json.as_bytes())?;
        weights.write(&directory.join("model.safetensors"))
    }
}

/// Which weights train. The adapters always do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trains {
    /// All of the base.
    pub base: bool,
    /// The head.
    pub head: bool,
    /// Token and position embeddings.
    pub embeddings: bool,
    /// The LayerNorms, as in Houlsby's paper.
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

    /// Whether a change of the base is asked for.
    pub fn any_of_base(self) -> bool {
        self != Trains::adapters()
    }
}
