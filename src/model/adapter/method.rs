//! The methods, and what the rest of the program asks of any of them.

use std::fmt;

use super::{BottleneckConfig, FusionConfig, LoraConfig, end_of};
use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::model::Config;
use crate::random::Random;
use crate::words::shown;

/// The configuration of a model's adapters.
#[derive(Clone, Debug, PartialEq)]
pub enum AdapterConfig {
    /// Bottleneck adapters, the method of Houlsby et al. 2019.
    Bottleneck(BottleneckConfig),
    /// Low-rank updates of linear layers (LoRA: Hu et al. 2021).
    Lora(LoraConfig),
    /// A fusion of the bottleneck adapters right below it in a setup (Pfeiffer et al. 2021).
    Fusion(FusionConfig),
}

impl AdapterConfig {
    /// [`BottleneckConfig::identity_bn`].
    pub fn identity_bn(bottleneck: u32) -> AdapterConfig {
        BottleneckConfig::identity_bn(bottleneck).into()
    }

    /// Parses a string such as `double_seq_bn`, `par_bn[reduction_factor=8,scaling='learned']` or `lora[r=8,target_modules=[q_proj,v_proj]]`.
    /// The keys are those of the `adapters` library, plus `bottleneck`; those of a LoRA are PEFT's, or shorter ones.
    ///
    /// # Errors
    /// [`Error::Usage`], in one sentence that names the problem.
    pub fn parse(spec: &str) -> Result<AdapterConfig> {
        let spec = spec.trim();
        let method = spec.split('[').next().map(str::trim);
        let parsed = match method {
            Some("lora") => LoraConfig::parse(spec).map(AdapterConfig::Lora),
            _ => BottleneckConfig::parse(spec).map(AdapterConfig::Bottleneck),
        };
        parsed.map_err(|problem| Error::Usage(format!("adapter '{}': {problem}", shown(spec))))
    }

    /// Checks the configuration by itself, without a model.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn check(&self) -> std::result::Result<(), String> {
        match self {
            AdapterConfig::Bottleneck(config) => config.check(),
            AdapterConfig::Lora(config) => config.check(),
            AdapterConfig::Fusion(config) => config.check(),
        }
    }

    /// Checks that the adapters fit a model.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn check_for(&self, model: &Config) -> std::result::Result<(), String> {
        match self {
            AdapterConfig::Bottleneck(config) => config.check_for(model.layers, model.hidden_size),
            AdapterConfig::Lora(config) => config.targets(model).map(drop),
            AdapterConfig::Fusion(config) => config.check(),
        }
    }

    /// The same adapters with another dropout rate.
    pub fn with_dropout(mut self, share: f32) -> AdapterConfig {
        match &mut self {
            AdapterConfig::Bottleneck(config) => config.dropout = share,
            AdapterConfig::Lora(config) => config.dropout = share,
            AdapterConfig::Fusion(config) => config.dropout = share,
        }
        self
    }

    /// The initial values of the tensor called `name` in memory; `None` if it is not an adapter's. `stream` distinguishes the model's tensors.
    pub(in crate::model) fn start(&self, name: &str, shape: &Shape, seed: u64, stream: u64) -> Option<Vec<f32>> {
        match self {
            AdapterConfig::Bottleneck(config) => {
                let end = end_of(name)?;
                Some(config.start(end, shape, &mut config.random(seed, stream, end)))
            }
            AdapterConfig::Lora(_) => LoraConfig::start(name, shape, seed, stream),
            AdapterConfig::Fusion(config) => config.start(name, shape, &mut Random::new(seed, stream)),
        }
    }

    /// The bottleneck adapters, if that is the method.
    pub(in crate::model) fn bottleneck(&self) -> Option<&BottleneckConfig> {
        if let AdapterConfig::Bottleneck(config) = self { Some(config) } else { None }
    }

    /// The fusion, if that is the method.
    pub fn fusion(&self) -> Option<&FusionConfig> {
        if let AdapterConfig::Fusion(config) = self { Some(config) } else { None }
    }

    /// The LoRA, if that is the method.
    pub(in crate::model) fn lora(&self) -> Option<&LoraConfig> {
        if let AdapterConfig::Lora(config) = self { Some(config) } else { None }
    }
}

impl Default for AdapterConfig {
    fn default() -> Self {
        BottleneckConfig::default().into()
    }
}

impl From<BottleneckConfig> for AdapterConfig {
    fn from(config: BottleneckConfig) -> Self {
        AdapterConfig::Bottleneck(config)
    }
}

impl From<LoraConfig> for AdapterConfig {
    fn from(config: LoraConfig) -> Self {
        AdapterConfig::Lora(config)
    }
}

impl From<FusionConfig> for AdapterConfig {
    fn from(config: FusionConfig) -> Self {
        AdapterConfig::Fusion(config)
    }
}

impl fmt::Display for AdapterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdapterConfig::Bottleneck(config) => config.fmt(f),
            AdapterConfig::Lora(config) => config.fmt(f),
            AdapterConfig::Fusion(config) => config.fmt(f),
        }
    }
}
