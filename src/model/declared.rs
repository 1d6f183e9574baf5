//! Declaring a model's weights, each in the format of its file.

use super::adapter::FittedAdapters;
use super::{Config, NormKind, Trains};
use crate::graph::{DType, Parameters, Piece, Shape, Tensor};
use crate::ops::{Linear, Norm};
use crate::weights::Weights;

/// The names and widths of stacked matrices.
pub(super) fn stack(names: &[&str], widths: &[u32], at: impl Fn(&str) -> String) -> Vec<(String, u32)> {
    names.iter().zip(widths).map(|(name, &width)| (at(name), width)).collect()
}

/// The weights declared so far.
pub(super) struct Declared<'a> {
    pub parameters: Parameters,
    pub config: &'a Config,
    pub sources: &'a [&'a Weights],
    pub trains: Trains,
    pub adapters: &'a FittedAdapters<'a>,
}

impl Declared<'_> {
    /// The format of a matrix: that of its file. Vectors are small and are converted to f32.
    fn format(&self, name: &str) -> DType {
        self.sources.iter().rev().find_map(|s| s.tensors.get(name)).map_or(DType::F32, |w| w.dtype)
    }

    /// A matrix, which also trains with the whole base.
    pub fn matrix(&mut self, name: &str, outputs: u32, inputs: u32, trains: bool) -> Tensor {
        let name = format!("{name}.weight");
        let dtype = self.format(&name);
        self.parameters.add(name, [outputs, inputs], dtype, self.trains.base || trains)
    }

    /// A vector, likewise.
    pub fn vector(&mut self, name: String, len: u32, trains: bool) -> Tensor {
        self.parameters.add(name, [len], DType::F32, self.trains.base || trains)
    }

    pub fn norm(&mut self, name: &str) -> Norm {
        self.norm_of(name, self.trains.norms)
    }

    /// A norm that trains with another part than the norms.
    pub fn norm_of(&mut self, name: &str, trains: bool) -> Norm {
        let hidden = self.config.hidden_size;
        let weight = self.vector(format!("{name}.weight"), hidden, trains);
        let bias = (self.config.norm == NormKind::LayerNorm).then(|| self.vector(format!("{name}.bias"), hidden, trains));
        Norm { weight, bias, epsilon: self.config.epsilon }
    }

    /// A linear layer of the head, with a bias.
    pub fn part_of_head(&mut self, name: &str, [outputs, inputs]: [u32; 2]) -> Linear {
        let trains = self.trains.head;
        let weight = self.matrix(name, outputs, inputs, trains);
        Linear::new(weight, Some(self.vector(format!("{name}.bias"), outputs, trains)))
    }

    /// A linear layer of stacked matrices (name, outputs), with the updates of LoRA. Adjacent matrices of the same format are joined, as
    /// long as each starts at an addressable offset.
    pub fn linear(&mut self, stacked: &[(String, u32)], inputs: u32, bias: bool) -> Linear {
        let mut weights = Vec::new();
        let mut run: Vec<Piece> = Vec::new();
        let mut formats = stacked.iter().map(|(name, _)| self.format(&format!("{name}.weight"))).collect::<Vec<_>>().into_iter().peekable();
        for (name, outputs) in stacked {
            let dtype = formats.next().expect("a format for each");
            run.push(Piece { name: format!("{name}.weight"), shape: [*outputs, inputs].into() });
            let len = u64::from(*outputs) * u64::from(inputs);
            let addressable = len.is_multiple_of(dtype.group_len()) && dtype.bytes(len).is_multiple_of(4);
            if formats.peek() != Some(&dtype) || !addressable {
                weights.push(self.parameters.add_stack(std::mem::take(&mut run), dtype, self.trains.base));
            }
        }
        let pieces = stacked.iter().map(|(name, len)| Piece { name: format!("{name}.bias"), shape: Shape::from([*len]) });
        let bias = bias.then(|| self.parameters.add_stack(pieces.collect(), DType::F32, self.trains.base));
        let low_rank = self.adapters.updates(&mut self.parameters, stacked);
        Linear { weights, bias, low_rank }
    }
}
