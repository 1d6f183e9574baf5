//! The configuration of adapters: places, widths, activations and initialisation, in the terms of the `adapters` library.

use std::collections::BTreeMap;

use super::name_in_memory;
use super::tensors::invertible_in_memory;
use crate::graph::Shape;
use crate::ops::Activation;

/// The place of adapters after attention, in tensor names.
pub const ATTENTION_PLACE: &str = "attention_adapters";

/// The place of adapters after the feed-forward layer, in tensor names.
pub const FFN_PLACE: &str = "output_adapters";

/// The widest adapter that the kernels support.
const WIDEST: u32 = 512;

/// The configuration of a model's bottleneck adapters: the library's `BnConfig`, with its field names where they are clear.
///
/// Let f be the output of attention or the feed-forward layer, and h the residual stream before it. An adapter's input is x = f, x = f + h
/// (`original_ln_before`) or x = h (`parallel`), and its branch is LN (`ln_before`) → down → activation → up → stochastic depth →
/// scaling → dropout.
#[derive(Clone, Debug, PartialEq)]
pub struct BottleneckConfig {
    /// Whether there is an adapter after attention (`mh_adapter`).
    pub attention: bool,
    /// Whether there is an adapter after the feed-forward layer (`output_adapter`).
    pub ffn: bool,
    /// The width of the bottleneck.
    pub width: Width,
    /// The activation in the bottleneck (`non_linearity`).
    pub activation: Activation,
    /// Whether the residual stream, and the base's LayerNorm in a post-norm model, come before the adapter.
    pub original_ln_before: bool,
    /// Whether they come after the adapter.
    pub original_ln_after: bool,
    /// Whether the adapter has its own LayerNorm before the down-projection.
    pub ln_before: bool,
    /// Whether the adapter has its own LayerNorm after the branch.
    pub ln_after: bool,
    /// Whether the residual around the adapter is f instead of x.
    pub residual_before_ln: bool,
    /// Whether that residual is added before `ln_after`'s norm.
    pub adapter_residual_before_ln: bool,
    /// Whether there is a coupling layer after the embedding too, the invertible adapter of MAD-X (`inv_adapter`).
    pub invertible: bool,
    /// What half the hidden size is divided by for the width inside it (`inv_adapter_reduction_factor`).
    pub invertible_reduction: Option<f64>,
    /// Whether its inverse comes before the head; if that is not known, as in the library for the model's own class.
    pub inverse: Option<bool>,
    /// Whether the adapter runs in parallel with the layer, on the layer's input (`is_parallel`).
    pub parallel: bool,
    /// The scaling factor of the branch.
    pub scaling: Scaling,
    /// How the weights are initialised (`init_weights`).
    pub init: Init,
    /// The seed of the initialisation, in place of the run's (`init_weights_seed`).
    pub init_seed: Option<u64>,
    /// Layers without adapters.
    pub leave_out: Vec<u32>,
    /// The dropout rate of the branch in training.
    pub dropout: f32,
    /// The share of sequences whose branch is skipped in training.
    pub stochastic_depth: f32,
}

/// The width of the bottleneck.
#[derive(Clone, Debug, PartialEq)]
pub enum Width {
    /// A fixed width in every layer.
    Bottleneck(u32),
    /// ⌊hidden / factor⌋, at least 1 (`reduction_factor`).
    Reduction(f64),
    /// A factor for each layer, and one for the others (`{"1": 8, "default": 16}`).
    Reductions(BTreeMap<u32, f64>, Option<f64>),
}

/// The scaling factor of an adapter's branch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// A constant.
    Fixed(f32),
    /// One learned factor, initially 1.
    Learned,
    /// One learned factor per hidden channel, initially 1.
    Channel,
}

/// How an adapter's weights are initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Both matrices normal with standard deviation 0.02.
    Bert,
    /// Down uniform within ±1/√hidden (He et al. 2015 with a = √5), up zero: the model starts identical to its base.
    MamAdapter,
    /// Both matrices normal with standard deviation 0.01, truncated at ±0.02.
    Houlsby,
}

impl BottleneckConfig {
    /// The width of the bottleneck in one layer of a model.
    ///
    /// # Errors
    /// One sentence, if a map has no factor for the layer or the width is not from 1 to 512.
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
        if !(1.0..=f64::from(WIDEST)).contains(&width) {
            return Err(format!("the adapter's bottleneck in layer {layer} is {width}; it must be from 1 to {WIDEST}"));
        }
        Ok(width as u32)
    }

    /// Checks everything that does not depend on the model.
    ///
    /// # Errors
    /// One sentence that names the field as the library does.
    pub fn check(&self) -> Result<(), String> {
        if !self.attention && !self.ffn {
            return Err("mh_adapter and output_adapter are both False, so there is no adapter; set one of them to True".into());
        }
        let factor = |factor: f64| match factor {
            f if f.is_finite() && f > 0.0 => Ok(()),
            f => Err(format!("reduction_factor is {f}; it must be a number above 0")),
        };
        match &self.width {
            Width::Bottleneck(width) if !(1..=WIDEST).contains(width) => {
                return Err(format!("bottleneck is {width}; it must be from 1 to {WIDEST}"));
            }
            Width::Bottleneck(_) => {}
            Width::Reduction(f) => factor(*f)?,
            Width::Reductions(factors, None) if factors.is_empty() => {
                return Err("reduction_factor is an empty map; give it a factor for each layer or a \"default\"".into());
            }
            Width::Reductions(factors, default) => factors.values().chain(default).copied().try_for_each(factor)?,
        }
        if self.invertible {
            let missing = "inv_adapter='nice' has no inv_adapter_reduction_factor; set it, for example to 2";
            factor(self.invertible_reduction.ok_or(missing)?).map_err(|problem| format!("inv_adapter_{problem}"))?;
        }
        for (name, share) in [("dropout", self.dropout), ("stochastic_depth", self.stochastic_depth)] {
            if !(0.0..1.0).contains(&share) {
                return Err(format!("{name} is {share}; it must be from 0 to below 1"));
            }
        }
        if let Scaling::Fixed(factor) = self.scaling
            && !factor.is_finite()
        {
            return Err(format!("scaling is {factor}; it must be a finite number, 'learned' or 'channel'"));
        }
        if self.original_ln_after {
            return Ok(());
        }
        // The combinations below would drop the residual stream.
        if self.parallel {
            return Err("original_ln_after=False with is_parallel=True loses the residual stream; leave original_ln_after at True".into());
        }
        if !self.original_ln_before || self.residual_before_ln {
            return Err("original_ln_after=False loses the residual stream unless original_ln_before=True and residual_before_ln=False; \
                        set both, or leave original_ln_after at True"
                .into());
        }
        Ok(())
    }

    /// [`BottleneckConfig::check`] for a model with `layers` layers and the hidden size `hidden`.
    ///
    /// # Errors
    /// One sentence that names the field and the layer.
    pub fn check_for(&self, layers: u32, hidden: u32) -> Result<(), String> {
        self.check()?;
        let beyond = |field: &str, layer: u32| {
            Err(format!("{field} names layer {layer}, but the model has {layers} layers, counted from 0; name another layer"))
        };
        if let Some(&layer) = self.leave_out.iter().find(|&&layer| layer >= layers) {
            return beyond("leave_out", layer);
        }
        if let Width::Reductions(factors, _) = &self.width
            && let Some(&layer) = factors.keys().find(|&&layer| layer >= layers)
        {
            return beyond("reduction_factor", layer);
        }
        if (0..layers).all(|layer| self.leaves_out(layer)) {
            return Err(format!("leave_out names all {layers} layers, so there is no adapter; keep at least one layer"));
        }
        for layer in (0..layers).filter(|&layer| !self.leaves_out(layer)) {
            self.bottleneck(layer, hidden)?;
        }
        self.invertible_parameters(hidden).map(drop)
    }

    /// Whether a layer has no adapters.
    pub fn leaves_out(&self, layer: u32) -> bool {
        self.leave_out.contains(&layer)
    }

    /// The places of a layer's adapters: [`ATTENTION_PLACE`], [`FFN_PLACE`], both or, for a layer that is left out, none.
    pub fn places(&self, layer: u32) -> impl Iterator<Item = &'static str> {
        let places = [(self.attention, ATTENTION_PLACE), (self.ffn, FFN_PLACE)];
        let left_out = self.leaves_out(layer);
        places.into_iter().filter(move |&(there, _)| there && !left_out).map(|(_, place)| place)
    }

    /// The weights of one adapter of a layer: the ends of their names, and their shapes. With a LayerNorm before the down-projection, the
    /// norm is `adapter_down.0` and the projection `adapter_down.1`.
    ///
    /// # Errors
    /// As [`BottleneckConfig::bottleneck`].
    pub fn parameters(&self, layer: u32, hidden: u32) -> Result<Vec<(&'static str, Shape)>, String> {
        let width = self.bottleneck(layer, hidden)?;
        let mut parameters: Vec<(_, Shape)> = Vec::new();
        if self.ln_before {
            parameters.extend([("adapter_down.0.weight", [hidden].into()), ("adapter_down.0.bias", [hidden].into())]);
            parameters.extend([("adapter_down.1.weight", [width, hidden].into()), ("adapter_down.1.bias", [width].into())]);
        } else {
            parameters.extend([("adapter_down.0.weight", [width, hidden].into()), ("adapter_down.0.bias", [width].into())]);
        }
        parameters.extend([("adapter_up.weight", [hidden, width].into()), ("adapter_up.bias", [hidden].into())]);
        match self.scaling {
            Scaling::Fixed(_) => {}
            Scaling::Learned => parameters.push(("scaling", [1].into())),
            Scaling::Channel => parameters.push(("scaling", [hidden].into())),
        }
        if self.ln_after {
            parameters.extend([("adapter_norm_after.weight", [hidden].into()), ("adapter_norm_after.bias", [hidden].into())]);
        }
        Ok(parameters)
    }

    /// The weights of the invertible adapter, as [`BottleneckConfig::parameters`]; none if there is none.
    ///
    /// # Errors
    /// One sentence, if the hidden size is odd or nothing is left of it.
    pub fn invertible_parameters(&self, hidden: u32) -> Result<Vec<(&'static str, Shape)>, String> {
        let Some(factor) = self.invertible_reduction.filter(|_| self.invertible) else { return Ok(Vec::new()) };
        if !hidden.is_multiple_of(2) {
            return Err(format!("inv_adapter needs an even hidden size, but the model's is {hidden}; train without it"));
        }
        let (half, width) = (hidden / 2, floor_divide(f64::from(hidden / 2), factor));
        if !(1.0..=f64::from(hidden)).contains(&width) {
            return Err(format!("inv_adapter_reduction_factor is {factor}, which leaves a width of {width}; use one from 0.5 to {half}"));
        }
        let width = width as u32;
        let layers = |[inner, inner_bias, outer, outer_bias]: [&'static str; 4]| {
            [(inner, [width, half].into()), (inner_bias, [width].into()), (outer, [half, width].into()), (outer_bias, [half].into())]
        };
        Ok([["F.0.weight", "F.0.bias", "F.2.weight", "F.2.bias"], ["G.0.weight", "G.0.bias", "G.2.weight", "G.2.bias"]]
            .into_iter()
            .flat_map(layers)
            .collect())
    }

    /// The shapes of all tensors of a model's adapters by their names in memory, such as
    /// `transformer.h.0.output_adapters.adapters.default.adapter_up.bias` for the `prefix` `transformer.h`.
    ///
    /// # Errors
    /// As [`BottleneckConfig::check_for`].
    pub fn tensors(&self, prefix: &str, layers: u32, hidden: u32) -> Result<BTreeMap<String, Shape>, String> {
        self.check_for(layers, hidden)?;
        let outer = prefix.split('.').next().expect("a prefix has a part");
        let invertible = self.invertible_parameters(hidden)?.into_iter();
        let mut tensors: BTreeMap<_, _> = invertible.map(|(end, shape)| (invertible_in_memory(outer, end), shape)).collect();
        for layer in 0..layers {
            for place in self.places(layer) {
                for (end, shape) in self.parameters(layer, hidden)? {
                    tensors.insert(name_in_memory(&format!("{prefix}.{layer}"), place, end), shape);
                }
            }
        }
        Ok(tensors)
    }
}

/// The library's `int(hidden // factor)`, at least 1.
fn reduced(hidden: u32, factor: f64) -> f64 {
    floor_divide(f64::from(hidden), factor).max(1.0)
}

/// Python's `//` for positive floats: the floor of the exact quotient. Rounding the quotient first can be off by one.
fn floor_divide(a: f64, b: f64) -> f64 {
    let quotient = (a - a % b) / b;
    if quotient - quotient.floor() > 0.5 { quotient.floor() + 1.0 } else { quotient.floor() }
}

/// A factor f such that the library's `int(hidden // f)` is the bottleneck.
pub(super) fn reduction_factor(hidden: u32, bottleneck: u32) -> f64 {
    let (hidden, bottleneck) = (f64::from(hidden), f64::from(bottleneck));
    let exact = hidden / bottleneck;
    if floor_divide(hidden, exact) == bottleneck { exact } else { hidden / (bottleneck + 0.5) }
}

impl Default for BottleneckConfig {
    fn default() -> Self {
        BottleneckConfig::identity_bn(64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bottleneck_survives_the_factor() {
        for hidden in [32, 100, 128, 192, 576, 768, 896, 4096, 8192] {
            for bottleneck in 1..=512 {
                let factor = reduction_factor(hidden, bottleneck);
                assert_eq!(reduced(hidden, factor), f64::from(bottleneck), "{hidden} / {factor}");
            }
        }
    }

    #[test]
    fn division_is_pythons() {
        // The results of Python 3.11.
        for (a, b, quotient) in [(1.0, 0.1, 9.0), (768.0, 7.7, 99.0), (32.0, 16.0, 2.0), (100.0, 14.285714285714286, 6.0), (6.0, 0.3, 20.0)]
        {
            assert_eq!(floor_divide(a, b), quotient, "{a} // {b}");
        }
        assert_eq!(reduced(32, 96.0), 1.0);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let good = BottleneckConfig::seq_bn;
        let reductions = |pairs: &[(u32, f64)], default| Width::Reductions(pairs.iter().copied().collect(), default);
        let cases = [
            (BottleneckConfig { attention: false, ffn: false, ..good() }, "mh_adapter and output_adapter"),
            (BottleneckConfig { dropout: 1.0, ..good() }, "dropout is 1;"),
            (BottleneckConfig { dropout: f32::NAN, ..good() }, "dropout is NaN"),
            (BottleneckConfig { stochastic_depth: -0.5, ..good() }, "stochastic_depth is -0.5"),
            (BottleneckConfig { scaling: Scaling::Fixed(f32::INFINITY), ..good() }, "scaling is inf"),
            (BottleneckConfig { width: Width::Bottleneck(0), ..good() }, "bottleneck is 0"),
            (BottleneckConfig { width: Width::Bottleneck(513), ..good() }, "bottleneck is 513"),
            (BottleneckConfig { width: Width::Reduction(0.0), ..good() }, "reduction_factor is 0"),
            (BottleneckConfig { width: Width::Reduction(f64::NAN), ..good() }, "reduction_factor is NaN"),
            (BottleneckConfig { width: Width::Reduction(1e-3), ..good() }, "bottleneck in layer 0 is 31999"),
            (BottleneckConfig { width: reductions(&[], None), ..good() }, "empty map"),
            (BottleneckConfig { width: reductions(&[(0, 8.0)], None), ..good() }, "no entry for layer 1"),
            (BottleneckConfig { width: reductions(&[(0, 8.0)], Some(-1.0)), ..good() }, "reduction_factor is -1"),
            (BottleneckConfig { width: reductions(&[(4, 8.0)], Some(8.0)), ..good() }, "reduction_factor names layer 4"),
            (BottleneckConfig { leave_out: vec![1, 4], ..good() }, "leave_out names layer 4"),
            (BottleneckConfig { leave_out: vec![3, 1, 2, 0], ..good() }, "all 4 layers"),
            (BottleneckConfig { original_ln_after: false, ..good() }, "loses the residual stream unless"),
            (BottleneckConfig { original_ln_after: false, ..BottleneckConfig::double_seq_bn() }, "loses the residual stream unless"),
            (BottleneckConfig { original_ln_after: false, ..BottleneckConfig::par_bn() }, "is_parallel=True loses"),
        ];
        for (config, words) in cases {
            let problem = config.check_for(4, 32).expect_err(words);
            assert!(problem.contains(words), "'{problem}' does not say '{words}'");
        }
        let rest = BottleneckConfig { width: reductions(&[(0, 8.0), (2, 4.0)], None), leave_out: vec![1, 3], ..good() };
        assert_eq!(rest.check_for(4, 32), Ok(()));
        assert_eq!(BottleneckConfig::adapter_plus().check_for(4, 32), Ok(()));
    }

    #[test]
    fn tensors_have_the_librarys_names() {
        let all =
            BottleneckConfig { attention: true, ln_before: true, ln_after: true, scaling: Scaling::Channel, ..BottleneckConfig::seq_bn() };
        let config = BottleneckConfig { leave_out: vec![0], ..all };
        let tensors = config.tensors("model.layers", 2, 32).expect("a good config");
        assert_eq!(tensors.len(), 2 * 9);
        assert_eq!(tensors["model.layers.1.output_adapters.adapters.default.adapter_down.1.weight"], [2, 32].into());
        assert_eq!(tensors["model.layers.1.attention_adapters.adapters.default.adapter_norm_after.bias"], [32].into());
        let tensors = BottleneckConfig::seq_bn().tensors("transformer.h", 2, 32).expect("a good config");
        let names: Vec<_> =
            tensors.keys().filter_map(|name| name.strip_prefix("transformer.h.1.output_adapters.adapters.default.")).collect();
        assert_eq!(names, ["adapter_down.0.bias", "adapter_down.0.weight", "adapter_up.bias", "adapter_up.weight"]);
        assert_eq!(tensors.len(), 8);
    }
}
