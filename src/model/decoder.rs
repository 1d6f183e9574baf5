//! The page that a newcomer reads first: a model's weights and its forward pass.

use crate::error::{Error, Result};
use crate::gpu::{Device, Memory};
use crate::graph::{DType, Graph, Parameters, Tensor};
use crate::model::{AdapterConfig, GptConfig, Trains};
use crate::ops::{self, Activation, Adapter, Attention, Linear, Norm};
use crate::random::Random;
use crate::weights::{Weight, Weights};

/// A GPT with or without adapters: which weights it has, and how they are used.
pub struct Model {
    /// The form of the base.
    pub config: GptConfig,
    /// The adapters' form, if there are any.
    pub adapters: Option<AdapterConfig>,
    /// Every weight.
    pub parameters: Parameters,
    token_embedding: Tensor,
    position_embedding: Tensor,
    blocks: Vec<Block>,
    head: Linear,
}

struct Block {
    qkv: Linear,
    out: Linear,
    attention_adapter: Option<Adapter>,
    norm1: Norm,
    up: Linear,
    down: Linear,
    ffn_adapter: Option<Adapter>,
    norm2: Norm,
}

/// The inputs of one recording, written before each run.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Tokens (batch, length).
    pub tokens: Tensor,
    /// How many tokens of each row are not padding (batch).
    pub lengths: Tensor,
    /// The places of the flattened tokens sorted by token (batch·length), in a recording that trains the embeddings.
    pub order: Option<Tensor>,
}

impl Model {
    /// A model with the base's form. `base` gives the format in which each frozen weight lies on the device; without it, as for
    /// pretraining, all are f32. `adapters` of `None` makes a plain GPT.
    pub fn new(config: &GptConfig, base: Option<&Weights>, adapters: Option<&AdapterConfig>, trains: Trains) -> Model {
        let GptConfig { hidden_size: hidden, intermediate_size: inner, vocab_size: words, layer_norm_eps: epsilon, .. } = *config;
        let mut p = Parameters::default();
        // Matrices stay in the format of their file; vectors are few and are widened.
        let format = |name: &str| base.and_then(|b| b.tensors.get(name)).map_or(DType::F32, |w| w.dtype);
        let matrix = |p: &mut Parameters, name: String, outputs, inputs, trains| {
            let dtype = format(&name);
            p.add(name, [outputs, inputs], dtype, trains)
        };
        let linear = |p: &mut Parameters, name: &str, outputs, inputs, trains| Linear {
            weight: matrix(p, format!("{name}.weight"), outputs, inputs, trains),
            bias: Some(p.add(format!("{name}.bias"), [outputs], DType::F32, trains)),
        };
        let norm = |p: &mut Parameters, name: &str| Norm {
            weight: p.add(format!("{name}.weight"), [hidden], DType::F32, trains.base || trains.norms),
            bias: Some(p.add(format!("{name}.bias"), [hidden], DType::F32, trains.base || trains.norms)),
            epsilon,
        };
        let adapter = |p: &mut Parameters, name: String| {
            adapters.map(|a| {
                let bottleneck = a.bottleneck(0, hidden).expect("a checked width");
                let down = p.add(format!("{name}.adapter_down.0.weight"), [bottleneck, hidden], DType::F32, true);
                let down_bias = p.add(format!("{name}.adapter_down.0.bias"), [bottleneck], DType::F32, true);
                let up = p.add(format!("{name}.adapter_up.weight"), [hidden, bottleneck], DType::F32, true);
                let up_bias = p.add(format!("{name}.adapter_up.bias"), [hidden], DType::F32, true);
                let scaling = if let super::Scaling::Fixed(factor) = a.scaling { factor } else { 1.0 };
                Adapter { down, up, biases: Some((down_bias, up_bias)), activation: a.activation, scaling, dropout: a.dropout }
            })
        };

        let embeddings = trains.base || trains.embeddings;
        let token_embedding = matrix(&mut p, "transformer.wte.weight".into(), words, hidden, embeddings);
        let position_embedding = matrix(&mut p, "transformer.wpe.weight".into(), config.max_position_embeddings, hidden, embeddings);
        let blocks = (0..config.num_hidden_layers).map(|i| {
            let at = format!("transformer.h.{i}");
            Block {
                qkv: linear(&mut p, &format!("{at}.attn.in_proj"), 3 * hidden, hidden, trains.base),
                out: linear(&mut p, &format!("{at}.attn.out_proj"), hidden, hidden, trains.base),
                attention_adapter: adapter(&mut p, format!("{at}.attention_adapters.adapters.default")),
                norm1: norm(&mut p, &format!("{at}.ln_1")),
                up: linear(&mut p, &format!("{at}.ffn.up_proj"), inner, hidden, trains.base),
                down: linear(&mut p, &format!("{at}.ffn.down_proj"), hidden, inner, trains.base),
                ffn_adapter: adapter(&mut p, format!("{at}.output_adapters.adapters.default")),
                norm2: norm(&mut p, &format!("{at}.ln_2")),
            }
        });
        let blocks = blocks.collect();
        let head = linear(&mut p, "cls", words, hidden, trains.base || trains.head);
        Model { config: config.clone(), adapters: adapters.cloned(), parameters: p, token_embedding, position_embedding, blocks, head }
    }

    /// The inputs that a recording of this model needs.
    pub fn inputs(&self, g: &mut Graph, batch: u32, length: u32) -> Inputs {
        Inputs {
            tokens: g.input("tokens", [batch, length], DType::U32),
            lengths: g.input("lengths", [batch], DType::U32),
            order: (g.training() && g.needs_gradient(self.token_embedding)).then(|| g.input("order", [batch * length], DType::U32)),
        }
    }

    /// From tokens (batch, length) to what the head sees (batch, length, hidden).
    pub fn hidden(&self, g: &mut Graph, inputs: &Inputs) -> Tensor {
        let form = Attention {
            heads: self.config.num_attention_heads,
            key_value_heads: self.config.num_attention_heads,
            head_size: self.config.hidden_size / self.config.num_attention_heads,
            causal: true,
            dropout: self.config.dropout,
        };
        let activation = self.config.activation();
        let x = ops::embedding(g, inputs.tokens, self.token_embedding, inputs.order);
        let mut x = ops::positions(g, x, self.position_embedding);
        for (i, block) in self.blocks.iter().enumerate() {
            x = g.scoped(&format!("h{i}"), |g| {
                let a = g.scoped("attn", |g| {
                    let qkv = ops::linear(g, x, &block.qkv);
                    let a = ops::attention(g, qkv, inputs.lengths, form);
                    ops::linear(g, a, &block.out)
                });
                let a = adapt(g, "attn_adapter", a, &block.attention_adapter);
                let x = g.scoped("ln_1", |g| ops::add_norm(g, x, a, &block.norm1));
                let f = g.scoped("ffn", |g| {
                    let f = ops::linear_activated(g, x, &block.up, activation);
                    let f = ops::linear(g, f, &block.down);
                    ops::dropout(g, f, self.config.dropout)
                });
                let f = adapt(g, "ffn_adapter", f, &block.ffn_adapter);
                g.scoped("ln_2", |g| ops::add_norm(g, x, f, &block.norm2))
            });
        }
        x
    }

    /// The loss of `targets` (batch, length); see [`ops::cross_entropy`].
    pub fn loss(&self, g: &mut Graph, inputs: &Inputs, targets: Tensor) -> Tensor {
        let x = self.hidden(g, inputs);
        g.scoped("loss", |g| ops::cross_entropy(g, x, &self.head, targets))
    }

    /// The logits (…, vocabulary) of what [`Model::hidden`] gave (…, hidden).
    pub fn logits(&self, g: &mut Graph, hidden: Tensor) -> Tensor {
        g.scoped("head", |g| ops::linear(g, hidden, &self.head))
    }

    /// The value that each weight has before any training: `base` where it has the tensor, else the start of a new model or adapter.
    ///
    /// # Errors
    /// [`Error::File`] if the base lacks a tensor or has it in another shape.
    pub fn upload(&self, device: &Device, base: Option<&Weights>, seed: u64, training: bool) -> Result<Memory> {
        let memory = Memory::new(device, &self.parameters, training)?;
        for (i, (tensor, parameter)) in self.parameters.iter().enumerate() {
            let of_adapter = parameter.name.contains("_adapters.");
            let given = base.filter(|b| !of_adapter || b.tensors.contains_key(&parameter.name));
            let fresh;
            let weight = match given {
                Some(base) => base.get(&parameter.name, &parameter.shape)?,
                None => {
                    fresh = Weight::from_f32(
                        parameter.shape.clone(),
                        &start(&parameter.name, parameter.shape.last(), parameter.shape.len(), seed, i as u64),
                    );
                    &fresh
                }
            };
            memory.write(device, tensor, &weight.in_format(parameter.dtype));
        }
        Ok(memory)
    }

    /// Reads all weights back from the device, those that `wanted` says by name.
    ///
    /// # Errors
    /// If the device fails, or a weight that trained is not finite any more.
    pub fn download(&self, device: &Device, memory: &Memory, wanted: impl Fn(&str) -> bool) -> Result<Weights> {
        let mut weights = Weights::default();
        for (tensor, parameter) in self.parameters.iter().filter(|(_, p)| wanted(&p.name)) {
            let weight = Weight::new(parameter.dtype, parameter.shape.clone(), memory.read(device, tensor)?);
            if parameter.arena_offset.is_some() && weight.to_f32().iter().any(|v| !v.is_finite()) {
                let reason = format!("the trained weight '{}' is not finite", parameter.name);
                return Err(Error::Device { device: device.info().to_string(), reason });
            }
            weights.tensors.insert(parameter.name.clone(), weight);
        }
        Ok(weights)
    }

    /// A fingerprint of the bytes of all frozen weights as they lie on the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn frozen_hash(&self, device: &Device, memory: &Memory) -> Result<u64> {
        // FNV-1a
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for (tensor, _) in self.parameters.iter().filter(|(_, p)| p.arena_offset.is_none()) {
            for byte in memory.read(device, tensor)? {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Ok(hash)
    }
}

fn adapt(g: &mut Graph, scope: &str, x: Tensor, adapter: &Option<Adapter>) -> Tensor {
    match adapter {
        Some(adapter) => g.scoped(scope, |g| ops::adapter(g, x, adapter)),
        None => x,
    }
}

/// The start of one weight. Adapters: the down-projection uniform within 1/√hidden (Kaiming's rule as PyTorch's linear layer has it), the
/// up-projection zero. The base: normal with deviation 0.02, norms 1, biases 0, as GPT-2.
fn start(name: &str, inputs: u32, len: u64, seed: u64, stream: u64) -> Vec<f32> {
    let mut random = Random::new(seed, stream);
    let norm_weight = (name.contains(".ln_") || name.contains("norm")) && name.ends_with(".weight");
    (0..len)
        .map(|_| match name {
            _ if norm_weight => 1.0,
            _ if name.ends_with(".bias") || name.contains(".adapter_up.") => 0.0,
            _ if name.contains(".adapter_down.") => ((random.uniform() * 2.0 - 1.0) / f64::from(inputs).sqrt()) as f32,
            _ => (random.normal() * 0.02) as f32,
        })
        .collect()
}

/// One layer as a second user of the ops: x + attention(x) without a mask, relu(linear(x)), and an adapter with ReLU and no biases.
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
    /// A layer of that width, all frozen but the adapter unless `trains_all`.
    pub fn new(hidden: u32, heads: u32, bottleneck: u32, trains_all: bool) -> ToyLayer {
        let mut p = Parameters::default();
        let linear = |p: &mut Parameters, name: &str, outputs| Linear {
            weight: p.add(format!("{name}.weight"), [outputs, hidden], DType::F32, trains_all),
            bias: Some(p.add(format!("{name}.bias"), [outputs], DType::F32, trains_all)),
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
