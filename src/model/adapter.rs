//! What adapters are: their places, widths, activations and starts, in the terms of the `adapters` library.

use std::collections::BTreeMap;

use crate::ops::Activation;

/// The configuration of the bottleneck adapters of a model: the library's `BnConfig`, with its field names where they say enough.
///
/// With f what attention or the feed-forward layer gives and h the residual stream before it, an adapter takes x = f, x = f + h
/// (`original_ln_before`) or x = h (`parallel`), and its branch is [LN] → down → activation → up → stochastic depth → scaling → dropout.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Whether there is an adapter behind attention (`mh_adapter`).
    pub attention: bool,
    /// Whether there is an adapter behind the feed-forward layer (`output_adapter`).
    pub ffn: bool,
    /// The width inside.
    pub width: Width,
    /// The activation inside (`non_linearity`).
    pub activation: Activation,
    /// Whether the residual stream, and the base's LayerNorm in a post-norm model, come before the adapter.
    pub original_ln_before: bool,
    /// Whether they come behind it.
    pub original_ln_after: bool,
    /// A LayerNorm of its own before the down-projection.
    pub ln_before: bool,
    /// A LayerNorm of its own behind the branch.
    pub ln_after: bool,
    /// Whether what goes around the adapter is f, and not x.
    pub residual_before_ln: bool,
    /// Whether that is added before `ln_after`'s norm.
    pub adapter_residual_before_ln: bool,
    /// Whether the adapter stands beside the layer and takes the layer's input (`is_parallel`).
    pub parallel: bool,
    /// The factor of the branch.
    pub scaling: Scaling,
    /// How the weights start (`init_weights`).
    pub init: Init,
    /// The seed of that start, instead of the run's (`init_weights_seed`).
    pub init_seed: Option<u64>,
    /// Layers without adapters.
    pub leave_out: Vec<u32>,
    /// The share of the branch that dropout sets to zero in training.
    pub dropout: f32,
    /// The share of sequences whose branch is left out in training.
    pub stochastic_depth: f32,
}

/// The width inside adapters.
#[derive(Clone, Debug, PartialEq)]
pub enum Width {
    /// That many numbers, in every layer.
    Bottleneck(u32),
    /// ⌊hidden / factor⌋, at least 1 (`reduction_factor`).
    Reduction(f64),
    /// A factor for each layer, and one for the others (`{"1": 8, "default": 16}`).
    Reductions(BTreeMap<u32, f64>, Option<f64>),
}

/// The factor of an adapter's branch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// A constant.
    Fixed(f32),
    /// One number that trains, from 1 on.
    Learned,
    /// One for each of the hidden numbers, from 1 on.
    Channel,
}

/// How an adapter's weights start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Both matrices normal with deviation 0.02.
    Bert,
    /// Down uniform within 1/√hidden (He et al. 2015 with a = √5), up zero: the model starts as its base.
    MamAdapter,
    /// Both matrices normal with deviation 0.01, cut at ±0.02.
    Houlsby,
}

impl AdapterConfig {
    /// `identity_bn`: after attention and after the feed-forward layer of every block, GELU, dropout 0.1, and an up-projection of zeros, so
    /// that training starts from the base's exact outputs.
    pub fn identity_bn(bottleneck: u32) -> AdapterConfig {
        AdapterConfig {
            attention: true,
            ffn: true,
            width: Width::Bottleneck(bottleneck),
            activation: Activation::Gelu,
            original_ln_before: false,
            original_ln_after: true,
            ln_before: false,
            ln_after: false,
            residual_before_ln: true,
            adapter_residual_before_ln: false,
            parallel: false,
            scaling: Scaling::Fixed(1.0),
            init: Init::MamAdapter,
            init_seed: None,
            leave_out: Vec::new(),
            dropout: 0.1,
            stochastic_depth: 0.0,
        }
    }

    /// The width in one layer of a model.
    ///
    /// # Errors
    /// One sentence, where a map has no factor for the layer or the width is not from 1 to 512.
    pub fn bottleneck(&self, layer: u32, hidden: u32) -> Result<u32, String> {
        let width = match &self.width {
            Width::Bottleneck(width) => f64::from(*width),
            Width::Reduction(factor) => reduced(hidden, *factor),
            Width::Reductions(factors, default) => {
                let factor = factors.get(&layer).copied().or(*default);
                let missing = || format!("reduction_factor has no entry for layer {layer} and no \"default\"; add one of them");
                reduced(hidden, factor.ok_or_else(missing)?)
            }
        };
        if !(1.0..=512.0).contains(&width) {
            return Err(format!("the adapter's bottleneck in layer {layer} is {width}; it must be from 1 to 512"));
        }
        Ok(width as u32)
    }
}

/// The library's `int(hidden // factor)`, at least 1.
fn reduced(hidden: u32, factor: f64) -> f64 {
    (f64::from(hidden) / factor).floor().max(1.0)
}

impl Default for AdapterConfig {
    fn default() -> Self {
        AdapterConfig::identity_bn(64)
    }
}
