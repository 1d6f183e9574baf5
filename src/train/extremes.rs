//! Extreme models and devices, for tests of everything that users can ask for.

use crate::graph::Traits;
use crate::model::{AdapterConfig, BaseDropout, Biases, Config, Family, LARGEST, Model, NormKind, Positions, Trains};
use crate::ops::{Activation, RopePairs, RopeScaling};

/// A one-layer Llama.
fn small() -> Config {
    Config {
        family: Family::Llama,
        vocab_size: 300,
        context: LARGEST,
        hidden_size: 8,
        layers: 1,
        heads: 2,
        key_value_heads: 1,
        head_size: 4,
        intermediate_size: 12,
        activation: Activation::Silu,
        gated: true,
        norm: NormKind::RmsNorm,
        norm_first: true,
        epsilon: 1e-5,
        positions: Positions::Rotary { theta: 1e4, scaling: RopeScaling::None, pairs: RopePairs::Halves },
        head_norm: true,
        biases: Biases::default(),
        tied: true,
        dropout: BaseDropout::all(0.1),
        encoder: None,
    }
}

/// A one-layer GPT with everything that a Llama lacks.
fn gpt() -> Config {
    let biases = Biases { qkv: true, attention_output: true, ffn: true, head: true };
    let config = Config { family: Family::Graftling, norm: NormKind::LayerNorm, norm_first: false, gated: false, biases, ..small() };
    Config { positions: Positions::Learned, head_norm: false, tied: false, activation: Activation::Gelu, ..config }
}

/// Models with the extremes that a file can ask for, each alone and all together; in half of them everything trains. The largest
/// vocabulary has a context of one, since a recording has a part for every 128 tokens of the vocabulary when batches are long.
pub fn models() -> Vec<Model> {
    let mut all = Vec::new();
    for config in [small(), gpt()] {
        let wide = Config { hidden_size: LARGEST, heads: 4096, key_value_heads: 2048, head_size: 128, ..config.clone() };
        all.extend([
            (config.clone(), 1),
            (Config { hidden_size: 1, intermediate_size: 1, ..config.clone() }, 1),
            (Config { hidden_size: LARGEST, ..config.clone() }, 512),
            (Config { hidden_size: LARGEST - 1, ..config.clone() }, 511),
            (Config { intermediate_size: LARGEST, ..config.clone() }, 8),
            (Config { heads: 4096, key_value_heads: 4096, head_size: 128, ..config.clone() }, 8),
            (Config { vocab_size: 1 << 16, ..config.clone() }, 512),
            (Config { vocab_size: LARGEST, context: 1, ..config }, 8),
            (Config { vocab_size: LARGEST, intermediate_size: LARGEST, ..wide }, 512),
        ]);
    }
    let model = |(n, (config, bottleneck)): (usize, (Config, u32))| {
        config.check().expect("a config that a file may have");
        let trains = if n % 2 == 0 { Trains::adapters() } else { Trains::everything() };
        Model::new(&config, &[], Some(&AdapterConfig::identity_bn(bottleneck)), trains).expect("a model")
    };
    all.into_iter().enumerate().map(model).collect()
}

/// The least that WebGPU guarantees, what desktops have, and more than any device has, for each class of devices; and very little.
pub fn devices() -> Vec<Traits> {
    let lavapipe = Traits { cpu: true, subgroup: Some(8), max_image_rows: 16_384, ..Traits::minimal() };
    let endless = Traits { max_binding: u64::MAX, max_buffer: 1 << 45, max_workgroups: u32::MAX, ..Traits::minimal() };
    let tiny = Traits { max_binding: 1 << 20, max_buffer: 1 << 20, max_workgroups: 16, ..Traits::minimal() };
    let plain = Traits { cpu: true, ..Traits::desktop() };
    let endless_cpu = Traits { cpu: true, subgroup: Some(8), max_image_rows: u32::MAX, ..endless.clone() };
    // Where millions of tokens fit, splitting each product by its duration makes recordings long, and says nothing about limits.
    let fast = |traits| Traits { dispatch_operations: u64::MAX, ..traits };
    let all = [Traits::minimal(), lavapipe, Traits::desktop(), plain, endless, endless_cpu];
    all.into_iter().map(fast).chain([tiny]).collect()
}
