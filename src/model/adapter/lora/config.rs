//! The configuration of a LoRA, with the fields of PEFT's `LoraConfig`.

use std::collections::BTreeMap;

/// The highest rank. Far above it, a LoRA has more weights than the matrix that it updates.
const HIGHEST: u32 = 1024;

/// The configuration of a model's low-rank updates: PEFT's `LoraConfig`, as far as it is supported.
///
/// A target with the frozen weight W computes x·Wᵀ + s·(dropout(x)·Aᵀ)·Bᵀ with A (r, inputs), B (outputs, r) and s = alpha / r, or alpha / √r
/// with `rslora` (Kalajdzievski 2023).
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// The rank (`r`).
    pub rank: u32,
    /// The numerator of s (`lora_alpha`).
    pub alpha: f32,
    /// The dropout rate of a target's input in training (`lora_dropout`).
    pub dropout: f32,
    /// Whether s is alpha / √r (`use_rslora`).
    pub rslora: bool,
    /// The targets (`target_modules`).
    pub targets: Targets,
    /// Modules that are not targets whatever `targets` says (`exclude_modules`).
    pub exclude: Vec<String>,
    /// The only layers with targets (`layers_to_transform`).
    pub layers: Option<Vec<u32>>,
    /// Other ranks, by patterns of module names (`rank_pattern`).
    pub rank_pattern: BTreeMap<String, u32>,
    /// Other values of alpha, likewise (`alpha_pattern`).
    pub alpha_pattern: BTreeMap<String, f32>,
}

/// Which linear layers get an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// PEFT's choice for the model: `q_proj` and `v_proj`, or GPT-2's `c_attn`.
    Usual,
    /// Every linear layer of the blocks.
    AllLinear,
    /// Modules whose names are listed or end with a dot and a listed name.
    Named(Vec<String>),
    /// Modules whose whole names match a regular expression.
    Matching(String),
}

impl Default for LoraConfig {
    /// PEFT's defaults.
    fn default() -> Self {
        LoraConfig {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            rslora: false,
            targets: Targets::Usual,
            exclude: Vec::new(),
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

impl LoraConfig {
    /// Checks everything that does not depend on the model.
    ///
    /// # Errors
    /// One sentence that names the field as PEFT does.
    pub fn check(&self) -> Result<(), String> {
        let ranks = [("r", self.rank)].into_iter().chain(self.rank_pattern.values().map(|&rank| ("rank_pattern", rank)));
        for (name, rank) in ranks {
            if !(1..=HIGHEST).contains(&rank) {
                return Err(format!("{name} has the rank {rank}; it must be from 1 to {HIGHEST}"));
            }
        }
        let alphas = [("lora_alpha", self.alpha)].into_iter().chain(self.alpha_pattern.values().map(|&alpha| ("alpha_pattern", alpha)));
        for (name, alpha) in alphas {
            if !alpha.is_finite() {
                return Err(format!("{name} is {alpha}; it must be a finite number"));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("lora_dropout is {}; it must be from 0 to below 1", self.dropout));
        }
        match &self.targets {
            Targets::Named(names) if names.is_empty() => {
                return Err("target_modules is empty; name at least one, or leave it out for the usual ones".into());
            }
            Targets::Matching(_) if self.layers.is_some() => {
                return Err("layers_to_transform needs target_modules as a list; put the layers into the regular expression instead".into());
            }
            _ => {}
        }
        match &self.layers {
            Some(layers) if layers.is_empty() => Err("layers_to_transform is empty; name at least one, or leave it out for all".into()),
            _ => Ok(()),
        }
    }
}
