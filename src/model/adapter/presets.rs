//! The named adapter configurations: the `adapters` library's, and `identity_bn`.

use super::{BottleneckConfig, Init, Scaling, Width};
use crate::ops::Activation;
use crate::words::{did_you_mean, shown};

impl BottleneckConfig {
    /// The library's `BnConfig` with the defaults that every preset starts from; the arguments are what each preset must choose.
    pub(super) fn bn(attention: bool, ffn: bool, activation: Activation, reduction_factor: f64) -> BottleneckConfig {
        BottleneckConfig {
            attention,
            ffn,
            width: Width::Reduction(reduction_factor),
            activation,
            original_ln_before: false,
            original_ln_after: true,
            ln_before: false,
            ln_after: false,
            residual_before_ln: true,
            adapter_residual_before_ln: false,
            invertible: false,
            invertible_reduction: None,
            inverse: None,
            parallel: false,
            scaling: Scaling::Fixed(1.0),
            init: Init::Bert,
            init_seed: None,
            leave_out: Vec::new(),
            dropout: 0.0,
            stochastic_depth: 0.0,
        }
    }

    /// `identity_bn`: after attention and after the feed-forward layer of every block, GELU, dropout 0.1, and an up-projection of zeros, so
    /// that training starts from the base's exact outputs.
    pub fn identity_bn(bottleneck: u32) -> BottleneckConfig {
        let width = Width::Bottleneck(bottleneck);
        BottleneckConfig { width, init: Init::MamAdapter, dropout: 0.1, ..BottleneckConfig::bn(true, true, Activation::Gelu, 1.0) }
    }

    /// `double_seq_bn` (Houlsby et al. 2019): after attention and after the feed-forward layer, swish, a sixteenth of the width.
    pub fn double_seq_bn() -> BottleneckConfig {
        BottleneckConfig::bn(true, true, Activation::Silu, 16.0)
    }

    /// `seq_bn` (Pfeiffer et al. 2020): after the feed-forward layer and its residual sum, ReLU, a sixteenth of the width.
    pub fn seq_bn() -> BottleneckConfig {
        BottleneckConfig { original_ln_before: true, ..BottleneckConfig::bn(false, true, Activation::Relu, 16.0) }
    }

    /// `par_bn` (He et al. 2021): parallel to the feed-forward layer, ReLU, half the width, scaled by 4.
    pub fn par_bn() -> BottleneckConfig {
        let scaling = Scaling::Fixed(4.0);
        BottleneckConfig { parallel: true, scaling, init: Init::MamAdapter, ..BottleneckConfig::bn(false, true, Activation::Relu, 2.0) }
    }

    /// `scaled_par_bn`: `par_bn` with a trained factor.
    pub fn scaled_par_bn() -> BottleneckConfig {
        BottleneckConfig { scaling: Scaling::Learned, ..BottleneckConfig::par_bn() }
    }

    /// `adapter_plus` (Steitz and Roth 2024), the library's `AdapterPlusConfig`: after the residual sum, GELU, a trained factor for each
    /// channel, stochastic depth.
    pub fn adapter_plus() -> BottleneckConfig {
        BottleneckConfig {
            original_ln_before: true,
            original_ln_after: false,
            residual_before_ln: false,
            scaling: Scaling::Channel,
            init: Init::Houlsby,
            stochastic_depth: 0.1,
            ..BottleneckConfig::bn(false, true, Activation::Gelu, 96.0)
        }
    }

    /// The same adapters with an invertible one after the embedding, as in `seq_bn_inv` (MAD-X).
    pub fn with_invertible(self) -> BottleneckConfig {
        BottleneckConfig { invertible: true, invertible_reduction: Some(2.0), ..self }
    }

    /// The presets by the names that config strings print.
    pub(super) fn presets() -> [(&'static str, BottleneckConfig); 8] {
        [
            ("identity_bn", BottleneckConfig::default()),
            ("double_seq_bn", BottleneckConfig::double_seq_bn()),
            ("double_seq_bn_inv", BottleneckConfig::double_seq_bn().with_invertible()),
            ("seq_bn", BottleneckConfig::seq_bn()),
            ("seq_bn_inv", BottleneckConfig::seq_bn().with_invertible()),
            ("par_bn", BottleneckConfig::par_bn()),
            ("scaled_par_bn", BottleneckConfig::scaled_par_bn()),
            ("adapter_plus", BottleneckConfig::adapter_plus()),
        ]
    }

    /// The preset called `name`, which can also be one of the library's older names.
    ///
    /// # Errors
    /// One sentence that says what to use instead.
    pub fn preset(name: &str) -> Result<BottleneckConfig, String> {
        let current = match name {
            "houlsby" => "double_seq_bn",
            "pfeiffer" => "seq_bn",
            "houlsby+inv" => "double_seq_bn_inv",
            "pfeiffer+inv" => "seq_bn_inv",
            "parallel" => "par_bn",
            "scaled_parallel" => "scaled_par_bn",
            name => name,
        };
        let presets = BottleneckConfig::presets();
        if let Some((_, config)) = presets.iter().find(|(known, _)| *known == current) {
            return Ok(config.clone());
        }
        Err(match name {
            "compacter" => format!("{name} has a phm_layer, which is not supported; use double_seq_bn"),
            "compacter++" => format!("{name} has a phm_layer, which is not supported; use seq_bn"),
            name if OTHER_METHODS.contains(&name) => {
                format!("{name} is another method, but Graftling trains bottleneck adapters and LoRA; use seq_bn or lora")
            }
            name => {
                let known: Vec<_> = presets.iter().map(|(known, _)| *known).collect();
                let advice = did_you_mean(name, known.iter().copied()).map_or(String::new(), |advice| format!("; {advice}"));
                format!("there is no preset '{}'; the presets are {}{advice}", shown(name), known.join(", "))
            }
        })
    }
}

/// The library's other methods, by their names in its strings and in the `architecture` of its files.
pub(super) const OTHER_METHODS: [&str; 16] = [
    "prefix_tuning",
    "prefix_tuning_flat",
    "prompt_tuning",
    "lora",
    "mtl_lora",
    "vera",
    "dora",
    "dvora",
    "ia3",
    "reft",
    "loreft",
    "noreft",
    "direft",
    "mam",
    "unipelt",
    "union",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_pass_their_own_check() {
        for (name, config) in BottleneckConfig::presets() {
            assert_eq!(config.check(), Ok(()), "{name}");
            assert_eq!(BottleneckConfig::preset(name), Ok(config));
        }
        for (old, name) in
            [("houlsby", "double_seq_bn"), ("pfeiffer", "seq_bn"), ("parallel", "par_bn"), ("scaled_parallel", "scaled_par_bn")]
        {
            assert_eq!(BottleneckConfig::preset(old), BottleneckConfig::preset(name));
        }
    }
}
