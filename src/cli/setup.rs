//! What training, evaluating and generating begin with: a base, what is put on it, and both on the device.

use std::path::{Path, PathBuf};

use graftling::gpu::{Device, Memory};
use graftling::model::{AdapterConfig, Base, BaseDropout, Config, Model, SavedAdapter, Trains, read_adapter};
use graftling::weights::Weights;
use graftling::{Error, Result};

use super::Common;

/// A base, and the adapter that was saved for it.
pub struct Setup {
    pub base: Base,
    pub adapter: Option<SavedAdapter>,
    /// What comes after the base's own weights.
    pub changes: Vec<Weights>,
    /// Whether activations may be f16.
    half: bool,
}

impl Setup {
    pub fn read(common: &Common, model: &Path, adapter: Option<&PathBuf>) -> Result<Setup> {
        let base = Base::open(model)?;
        let base = Base { weights: common.in_precision(base.weights), ..base };
        let adapter = adapter.map(|directory| read_adapter(directory)).transpose()?;
        let changes = adapter.as_ref().map_or(Ok(Vec::new()), |adapter| adapter.sources(&base.config))?;
        Ok(Setup { base, adapter, changes, half: common.half() })
    }

    /// Whether its head differs from the base's.
    pub fn has_head(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.head.is_some())
    }

    /// The model with those adapters, or with the saved one where there is none.
    pub fn model(&self, config: &Config, adapters: Option<&AdapterConfig>, trains: Trains) -> Result<Model> {
        let saved = self.adapter.as_ref().map(|adapter| &adapter.config);
        let model = Model::new(config, &self.sources(), adapters.or(saved), trains)?;
        Ok(model.with_half_activations(self.half))
    }

    /// The model's weights on a device.
    pub fn upload(&self, device: &Device, model: &Model, seed: u64, training: bool) -> Result<Memory> {
        model.upload(device, &self.sources(), seed, training)
    }

    /// All weights, of which later ones count.
    pub fn sources(&self) -> Vec<&Weights> {
        [&self.base.weights].into_iter().chain(&self.changes).collect()
    }
}

/// The config without dropout, or with one share everywhere.
pub fn with_dropout(config: &Config, share: Option<f32>) -> Config {
    let dropout = share.map_or(config.dropout, BaseDropout::all);
    Config { dropout, ..config.clone() }
}

/// The longest sequence: what was asked for, or 512, within the model's context.
pub fn max_length(config: &Config, wanted: Option<u32>) -> Result<u32> {
    let context = config.context;
    match wanted {
        None => Ok(context.min(512)),
        Some(length) if (2..=context).contains(&length) => Ok(length),
        Some(length) => Err(Error::Usage(format!("--max-length is {length}, but the model's context allows 2 to {context}"))),
    }
}

pub fn open_device(common: &Common) -> Result<Device> {
    let device = Device::open(common.device.as_deref())?;
    common.note(format!("device     {}", device.info()));
    if common.half() && !device.traits().half {
        common.warn("this device has no 16-bit floats: --precision f16 is for matrices only, activations are f32");
    }
    Ok(device)
}
