//! The initial values of adapters.

use super::{BottleneckConfig, Init};
use crate::graph::Shape;
use crate::random::Random;

/// The name suffixes of an adapter's matrices, which are initialised randomly.
const MATRICES: [&str; 3] = ["adapter_down.0.weight", "adapter_down.1.weight", "adapter_up.weight"];

impl BottleneckConfig {
    /// The random number generator for the tensor whose name ends with `end`. `stream` distinguishes the model's tensors. If the
    /// configuration has its own seed, all adapters start with the same values, as in the library.
    pub(crate) fn random(&self, seed: u64, stream: u64, end: &str) -> Random {
        let place = MATRICES.iter().position(|matrix| *matrix == end).unwrap_or(MATRICES.len());
        self.init_seed.map_or_else(|| Random::new(seed, stream), |own| Random::new(own, place as u64))
    }

    /// The initial values of the tensor whose name ends with `end`, one of those that [`BottleneckConfig::parameters`] lists.
    pub(crate) fn start(&self, end: &str, shape: &Shape, random: &mut Random) -> Vec<f32> {
        let len = shape.len() as usize;
        if end.starts_with("F.") || end.starts_with("G.") {
            // The invertible adapter starts like this whatever the configuration says.
            return (0..len).map(|_| if end.ends_with(".bias") { 0.0 } else { (0.02 * random.normal()) as f32 }).collect();
        }
        if shape.axes().len() == 2 {
            return (0..len).map(|_| self.element(end, shape, random) as f32).collect();
        }
        // LayerNorm weights and scaling factors start at 1, biases at 0.
        vec![if end.ends_with(".bias") { 0.0 } else { 1.0 }; len]
    }

    fn element(&self, end: &str, shape: &Shape, random: &mut Random) -> f64 {
        match self.init {
            Init::Bert => 0.02 * random.normal(),
            Init::MamAdapter if end.starts_with("adapter_up") => 0.0,
            Init::MamAdapter => (2.0 * random.uniform() - 1.0) / f64::from(shape.last()).sqrt(),
            Init::Houlsby => loop {
                let value = 0.01 * random.normal();
                if value.abs() <= 0.02 {
                    break value;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean, standard deviation and largest magnitude.
    fn moments(values: &[f32]) -> (f64, f64, f32) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt(), values.iter().fold(0.0, |most, v| most.max(v.abs())))
    }

    #[test]
    fn starts_have_their_moments() {
        let (hidden, width) = (256, 128);
        let houlsby = BottleneckConfig { init: Init::Houlsby, ..BottleneckConfig::seq_bn() };
        // A normal distribution truncated at two standard deviations has 0.8796 of the deviation; a uniform one within ±b has b / √3.
        let cases = [
            (BottleneckConfig::seq_bn(), "adapter_down.0.weight", 0.02, 0.12),
            (BottleneckConfig::seq_bn(), "adapter_up.weight", 0.02, 0.12),
            (BottleneckConfig::par_bn(), "adapter_down.0.weight", 0.0625 / 3f64.sqrt(), 0.0625),
            (BottleneckConfig::par_bn(), "adapter_down.1.weight", 0.0625 / 3f64.sqrt(), 0.0625),
            (BottleneckConfig::par_bn(), "adapter_up.weight", 0.0, 0.0),
            (houlsby.clone(), "adapter_down.0.weight", 0.008796, 0.02),
            (houlsby, "adapter_up.weight", 0.008796, 0.02),
        ];
        for (config, end, deviation, bound) in cases {
            let shape: Shape = if end.starts_with("adapter_up") { [hidden, width].into() } else { [width, hidden].into() };
            let values = config.start(end, &shape, &mut config.random(7, 3, end));
            let (mean, found, largest) = moments(&values);
            assert_eq!(values.len(), (hidden * width) as usize);
            assert!(mean.abs() < 5.0 * deviation / f64::from(hidden * width).sqrt() + 1e-12, "{end}: mean {mean}");
            assert!((found - deviation).abs() <= 0.02 * deviation, "{end}: deviation {found}, not {deviation}");
            assert!(largest <= bound && (bound == 0.0 || largest > 0.9 * bound || bound == 0.12), "{end}: {largest}, not {bound}");
        }
    }

    #[test]
    fn vectors_start_where_they_do_nothing() {
        let config = BottleneckConfig::adapter_plus();
        let start = |end| config.start(end, &[5].into(), &mut config.random(0, 0, end));
        for end in ["adapter_down.0.bias", "adapter_down.1.bias", "adapter_up.bias", "adapter_norm_after.bias"] {
            assert_eq!(start(end), [0.0; 5], "{end}");
        }
        for end in ["adapter_down.0.weight", "adapter_norm_after.weight", "scaling"] {
            assert_eq!(start(end), [1.0; 5], "{end}");
        }
    }

    #[test]
    fn a_seed_of_its_own_replaces_the_runs() {
        let values = |config: &BottleneckConfig, seed, stream| {
            config.start("adapter_up.weight", &[4, 4].into(), &mut config.random(seed, stream, "adapter_up.weight"))
        };
        let without = BottleneckConfig::seq_bn();
        assert_ne!(values(&without, 1, 0), values(&without, 2, 0));
        assert_ne!(values(&without, 1, 0), values(&without, 1, 1));
        let with = BottleneckConfig { init_seed: Some(5), ..BottleneckConfig::seq_bn() };
        assert_eq!(values(&with, 1, 0), values(&with, 2, 1));
        assert_ne!(values(&with, 1, 0), values(&BottleneckConfig { init_seed: Some(6), ..with.clone() }, 1, 0));
        let down = with.start("adapter_down.0.weight", &[4, 4].into(), &mut with.random(0, 0, "adapter_down.0.weight"));
        assert_ne!(down, values(&with, 0, 0));
    }
}
