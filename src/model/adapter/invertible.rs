//! The invertible adapter of MAD-X (Pfeiffer et al. 2020): a coupling layer (NICE, Dinh et al. 2015) after the embedding, whose inverse comes
//! before the head.

use super::BottleneckConfig;
use super::setup::Declaring;
use super::tensors::invertible_in_memory;
use crate::graph::{Graph, Piece, Tensor};
use crate::ops::{self, Activation, Half, Linear};

/// The weights of a coupling layer: y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁) for the halves of a row, where F and G are two linear layers each with an
/// activation between them.
pub(in crate::model) struct Coupling {
    f: [Linear; 2],
    g: [Linear; 2],
    activation: Activation,
    /// Whether the inverse comes before the head.
    inverts: bool,
}

impl Coupling {
    /// Adds the weights to those of a model whose tensors' names begin with `outer`.
    ///
    /// # Panics
    /// If the configuration has not been checked for the model.
    pub(super) fn new(p: &mut Declaring, config: &BottleneckConfig, outer: &str, hidden: u32, inverts: bool) -> Coupling {
        let ends = config.invertible_parameters(hidden).expect("a checked configuration has a width");
        let mut added = ends.into_iter().map(|(end, shape)| p.add(vec![Piece { name: invertible_in_memory(outer, end), shape }]));
        let mut layer = || {
            let mut next = || added.next().expect("eight tensors");
            Linear::new(next(), Some(next()))
        };
        Coupling { f: [layer(), layer()], g: [layer(), layer()], activation: config.activation, inverts }
    }

    /// What comes after the embedding.
    pub fn forward(&self, g: &mut Graph, x: Tensor) -> Tensor {
        let y = self.add(g, x, &self.f, Half::First, 1.0);
        self.add(g, y, &self.g, Half::Second, 1.0)
    }

    /// What comes before the head.
    pub fn inverse(&self, g: &mut Graph, y: Tensor) -> Tensor {
        if !self.inverts {
            return y;
        }
        let x = self.add(g, y, &self.g, Half::Second, -1.0);
        self.add(g, x, &self.f, Half::First, -1.0)
    }

    /// Adds what `layers` make of the other half to one half.
    fn add(&self, g: &mut Graph, x: Tensor, layers: &[Linear; 2], half: Half, sign: f32) -> Tensor {
        let other = ops::half_of(g, x, if half == Half::First { Half::Second } else { Half::First });
        let narrow = ops::linear_activated(g, other, &layers[0], self.activation);
        let addend = ops::linear(g, narrow, &layers[1]);
        ops::add_to_half(g, x, addend, half, sign)
    }
}
