//! What an adapter is: its width, activation, place and start.

use crate::ops::Activation;

/// The configuration of the bottleneck adapters of a model: after attention and after the feed-forward layer of every block.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The width inside, from 1 to 512.
    pub bottleneck: u32,
    /// The activation inside.
    pub activation: Activation,
    /// Whether both projections have biases.
    pub biases: bool,
    /// The share of the branch that dropout sets to zero in training.
    pub dropout: f32,
    /// The factor of the branch.
    pub scaling: f32,
}

impl AdapterConfig {
    /// `identity_bn`: GELU, biases, dropout 0.1, and an up-projection of zeros, so that training starts from the base's exact outputs.
    pub fn identity_bn(bottleneck: u32) -> AdapterConfig {
        AdapterConfig { bottleneck, activation: Activation::Gelu, biases: true, dropout: 0.1, scaling: 1.0 }
    }
}

impl Default for AdapterConfig {
    fn default() -> Self {
        AdapterConfig::identity_bn(64)
    }
}
