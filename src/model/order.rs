//! The element order of tensors. Files with Hugging Face's names have Hugging Face's order; the model's can differ: GPT-2's matrices are
//! transposed, and the queries and keys of a GGUF llama have the two halves of each head interleaved, since its RoPE rotates adjacent
//! elements. Every tensor of the base passes through here on its way between such a file and the model.

use super::adapter::LORA_B;
use super::names::Names;
use super::{Config, Positions};
use crate::ops::RopePairs;
use crate::weights::Weight;

impl Config {
    /// Converts a tensor of a file with Hugging Face's names to the model's order. A tensor of unexpected shape is left unchanged, for the
    /// model to reject.
    pub(super) fn in_model_order(&self, name: &str, weight: &Weight) -> Weight {
        self.reordered(name, weight, |head, half, pair| (head + 2 * pair + half, head + half * (self.head_size as usize / 2) + pair))
    }

    /// Converts a tensor of the model to the order of a file with Hugging Face's names.
    pub(super) fn in_file_order(&self, name: &str, weight: &Weight) -> Weight {
        self.reordered(name, weight, |head, half, pair| (head + half * (self.head_size as usize / 2) + pair, head + 2 * pair + half))
    }

    /// Converts the B of a LoRA, whose rows are outputs of the module before the dot, from Hugging Face's order to the model's. Other tensors
    /// of a LoRA are the same in both, also those of matrices that the file stores transposed.
    pub(super) fn outputs_in_model_order(&self, name: &str, weight: &Weight) -> Weight {
        let Some(module) = name.strip_suffix(LORA_B) else { return weight.clone() };
        let half = self.head_size as usize / 2;
        self.reordered_rows(&format!("{module}.weight"), weight, |head, i, pair| (head + 2 * pair + i, head + half * i + pair))
    }

    /// The reverse of [`Config::outputs_in_model_order`].
    pub(super) fn outputs_in_file_order(&self, name: &str, weight: &Weight) -> Weight {
        let Some(module) = name.strip_suffix(LORA_B) else { return weight.clone() };
        let half = self.head_size as usize / 2;
        self.reordered_rows(&format!("{module}.weight"), weight, |head, i, pair| (head + half * i + pair, head + 2 * pair + i))
    }

    /// Transposes a matrix that the file stores transposed, and reorders the rows of interleaved heads. From the first row of a head, the
    /// half and the pair, `rows` computes a row of the result and the row that it comes from.
    fn reordered(&self, name: &str, weight: &Weight, rows: impl Fn(usize, usize, usize) -> (usize, usize)) -> Weight {
        if Names::of(self.family).is_transposed(name) && weight.shape.axes().len() == 2 {
            return weight.transposed();
        }
        self.reordered_rows(name, weight, rows)
    }

    /// Reorders the rows of interleaved heads.
    fn reordered_rows(&self, name: &str, weight: &Weight, rows: impl Fn(usize, usize, usize) -> (usize, usize)) -> Weight {
        let head_size = self.head_size as usize;
        match self.interleaved_heads(name) {
            Some(heads) if weight.shape.axes()[0] == u64::from(heads) * u64::from(self.head_size) => {
                let mut order = vec![0; heads as usize * head_size];
                for head in (0..order.len()).step_by(head_size) {
                    for pair in 0..head_size / 2 {
                        for half in 0..2 {
                            let (to, from) = rows(head, half, pair);
                            order[to] = from;
                        }
                    }
                }
                weight.with_rows(&order)
            }
            _ => weight.clone(),
        }
    }

    /// The number of heads of a tensor whose heads have their halves interleaved.
    fn interleaved_heads(&self, name: &str) -> Option<u32> {
        let Positions::Rotary { pairs: RopePairs::Adjacent, .. } = self.positions else { return None };
        let (stem, _) = name.rsplit_once('.')?;
        let [queries, keys, _] = Names::of(self.family).qkv else { return None };
        let is = |own: &str| stem.strip_suffix(own).is_some_and(|layer| layer.ends_with('.'));
        if is(queries) { Some(self.heads) } else { is(keys).then_some(self.key_value_heads) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{DType, Shape};
    use crate::model::{Biases, Family, NormKind};
    use crate::ops::{Activation, RopeScaling};

    fn llama(pairs: RopePairs) -> Config {
        let positions = Positions::Rotary { theta: 10000.0, scaling: RopeScaling::None, pairs };
        let gpt = Config::gpt(16, 8, 24, 1);
        let form = Config { family: Family::Llama, positions, norm: NormKind::RmsNorm, biases: Biases::default(), ..gpt };
        Config { heads: 3, key_value_heads: 1, head_size: 8, activation: Activation::Silu, gated: true, ..form }
    }

    fn numbered(shape: impl Into<Shape>) -> Weight {
        let shape = shape.into();
        Weight::from_f32(shape.clone(), &(0..shape.len()).map(|i| i as f32).collect::<Vec<_>>())
    }

    /// As in llama.cpp's converter: `reshape(heads, 2, head_size / 2, inputs).swapaxes(1, 2)`.
    #[test]
    fn interleaved_heads_come_from_halves_and_go_back() {
        let config = llama(RopePairs::Adjacent);
        let [q, k, v] = ["q", "k", "v"].map(|name| format!("model.layers.0.self_attn.{name}_proj.weight"));
        let bias = numbered([24]);
        let name = q.replace("weight", "bias");
        let moved = config.in_model_order(&name, &bias);
        let first = [0, 4, 1, 5, 2, 6, 3, 7].map(|row| row as f32);
        assert_eq!(moved.to_f32()[..8], first);
        assert_eq!(moved.to_f32()[8..16], first.map(|row| row + 8.0));
        assert_eq!(config.in_file_order(&name, &moved), bias);
        for (name, weight) in [(&q, numbered([24, 24])), (&k, numbered([8, 24]))] {
            let moved = config.in_model_order(name, &weight);
            assert_eq!((moved.to_f32()[24], moved.shape.clone()), (4.0 * 24.0, weight.shape.clone()), "{name}");
            assert_eq!(config.in_file_order(name, &moved), weight, "{name}");
            let half = Weight::new(DType::F16, weight.shape.clone(), weight.in_format(DType::F16).into_owned());
            assert_eq!(config.in_file_order(name, &config.in_model_order(name, &half)), half, "{name}");
            // A tensor of another shape is left for the model to reject.
            assert_eq!(config.in_model_order(name, &numbered([7, 24])), numbered([7, 24]));
        }
        for (config, name) in [(&config, &v), (&llama(RopePairs::Halves), &q)] {
            let weight = numbered([24, 24]);
            assert_eq!(config.in_model_order(name, &weight), weight, "{name}");
        }
    }

    #[test]
    fn matrices_of_gpt2_are_turned() {
        let config = Config { family: Family::Gpt2, ..Config::gpt(16, 8, 24, 1) };
        let (name, weight) = ("transformer.h.0.attn.c_attn.weight", numbered([24, 72]));
        let turned = config.in_model_order(name, &weight);
        assert_eq!((turned.shape.axes(), turned.to_f32()[1]), (&[72, 24][..], 72.0));
        assert_eq!(config.in_file_order(name, &turned), weight);
        assert_eq!(config.in_file_order("transformer.ln_f.weight", &numbered([24])), numbered([24]));
    }
}
