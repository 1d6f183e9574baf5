//! A single layer that uses the ops outside of a decoder.

use crate::graph::{DType, Graph, Parameters, Tensor};
use crate::ops::{self, Activation, Adapter, Attention, Linear};

/// x + attention(x) without a mask, relu(linear(x)), and an adapter with ReLU and no biases.
pub struct ToyLayer {
    /// Every weight.
    pub parameters: Parameters,
    qkv: Linear,
    out: Linear,
    linear: Linear,
    adapter: Adapter,
    heads: u32,
}

impl ToyLayer {
    /// Creates a layer of width `hidden`. Only the adapter trains, unless `trains_all`.
    pub fn new(hidden: u32, heads: u32, bottleneck: u32, trains_all: bool) -> ToyLayer {
        let mut p = Parameters::default();
        let linear = |p: &mut Parameters, name: &str, outputs| {
            let weight = p.add(format!("{name}.weight"), [outputs, hidden], DType::F32, trains_all);
            Linear::new(weight, Some(p.add(format!("{name}.bias"), [outputs], DType::F32, trains_all)))
        };
        let qkv = linear(&mut p, "attn.in_proj", 3 * hidden);
        let out = linear(&mut p, "attn.out_proj", hidden);
        let linear = linear(&mut p, "linear", hidden);
        let adapter = Adapter {
            down: p.add("adapter.adapter_down.0.weight", [bottleneck, hidden], DType::F32, true),
            up: p.add("adapter.adapter_up.weight", [hidden, bottleneck], DType::F32, true),
            biases: None,
            activation: Activation::Relu,
            scaling: 1.0,
            dropout: 0.0,
        };
        ToyLayer { parameters: p, qkv, out, linear, adapter, heads }
    }

    /// x (batch, length, hidden) to the same shape.
    pub fn forward(&self, g: &mut Graph, x: Tensor, lengths: Tensor) -> Tensor {
        let head_size = g.shape(x).last() / self.heads;
        let form = Attention { heads: self.heads, key_value_heads: self.heads, head_size, causal: false, dropout: 0.0 };
        let qkv = ops::linear(g, x, &self.qkv);
        let a = ops::attention(g, qkv, lengths, form);
        let a = ops::linear(g, a, &self.out);
        let x = ops::add(g, x, a);
        let x = ops::linear_activated(g, x, &self.linear, Activation::Relu);
        ops::adapter(g, x, &self.adapter)
    }
}
