//! A Llama decoder of SmolLM2-135M's shape with `double_seq_bn` adapters. Everything but the adapters is frozen.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::prelude::*;
use burn::tensor::activation::silu;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;

pub const VOCABULARY: usize = 49152;
const HIDDEN: usize = 576;
const LAYERS: usize = 30;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD: usize = HIDDEN / HEADS;
const FEED_FORWARD: usize = 1536;
const ROPE_BASE: f32 = 100_000.0;

const NORMAL: Initializer = Initializer::Normal { mean: 0.0, std: 0.02 };

#[derive(Module, Debug)]
pub struct Decoder {
    /// Tied: the head is the same matrix.
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
}

#[derive(Module, Debug)]
struct Block {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_adapter: Adapter,
    feed_forward_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    output_adapter: Adapter,
}

/// The bottleneck: x + up(swish(down(x))).
#[derive(Module, Debug)]
struct Adapter {
    down: Linear,
    up: Linear,
}

/// The cosines and sines of the rotary embedding, [length, head].
pub struct Rotation {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Decoder {
    pub fn new(bottleneck: usize, device: &Device) -> Self {
        let embedding = EmbeddingConfig::new(VOCABULARY, HIDDEN).with_initializer(NORMAL).init(device).no_grad();
        let blocks = (0..LAYERS).map(|_| Block::new(bottleneck, device)).collect();
        Self { embedding, blocks, norm: norm(device) }
    }

    /// The number of trainable parameters, and of the tensors that hold them.
    pub fn trained(&self) -> (usize, usize) {
        let numbers = self.blocks.iter().map(|block| block.attention_adapter.num_params() + block.output_adapter.num_params()).sum();
        (numbers, self.blocks.len() * 2 * 4)
    }

    /// The logits of all tokens, [batch × length, vocabulary].
    pub fn forward(&self, tokens: Tensor<2, Int>, rotation: &Rotation) -> Tensor<2> {
        let [batch, length] = tokens.dims();
        let mut x = self.embedding.forward(tokens);
        for block in &self.blocks {
            x = block.forward(x, rotation);
        }
        let x = self.norm.forward(x).reshape([batch * length, HIDDEN]);
        x.matmul(self.embedding.weight.val().transpose())
    }
}

impl Block {
    fn new(bottleneck: usize, device: &Device) -> Self {
        let kv = KV_HEADS * HEAD;
        Self {
            attention_norm: norm(device),
            query: frozen(HIDDEN, HIDDEN, device),
            key: frozen(HIDDEN, kv, device),
            value: frozen(HIDDEN, kv, device),
            output: frozen(HIDDEN, HIDDEN, device),
            attention_adapter: Adapter::new(bottleneck, device),
            feed_forward_norm: norm(device),
            gate: frozen(HIDDEN, FEED_FORWARD, device),
            up: frozen(HIDDEN, FEED_FORWARD, device),
            down: frozen(FEED_FORWARD, HIDDEN, device),
            output_adapter: Adapter::new(bottleneck, device),
        }
    }

    fn forward(&self, x: Tensor<3>, rotation: &Rotation) -> Tensor<3> {
        let attended = self.attention(self.attention_norm.forward(x.clone()), rotation);
        let x = x + self.attention_adapter.forward(attended);
        let normed = self.feed_forward_norm.forward(x.clone());
        let inner = silu(self.gate.forward(normed.clone())) * self.up.forward(normed);
        x + self.output_adapter.forward(self.down.forward(inner))
    }

    fn attention(&self, x: Tensor<3>, rotation: &Rotation) -> Tensor<3> {
        let [batch, length, _] = x.dims();
        let heads = |x: Tensor<3>, heads: usize| x.reshape([batch, length, heads, HEAD]).swap_dims(1, 2);
        let query = rotation.apply(heads(self.query.forward(x.clone()), HEADS));
        let key = rotation.apply(heads(self.key.forward(x.clone()), KV_HEADS));
        let value = heads(self.value.forward(x), KV_HEADS);
        // Burn's attention needs as many key and value heads as query heads.
        let repeat = |x: Tensor<4>| {
            let shape = [batch, KV_HEADS, HEADS / KV_HEADS, length, HEAD];
            x.unsqueeze_dim::<5>(2).expand(shape).reshape([batch, HEADS, length, HEAD])
        };
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let attended = attention(query, repeat(key), repeat(value), None, None, options);
        self.output.forward(attended.swap_dims(1, 2).reshape([batch, length, HIDDEN]))
    }
}

impl Adapter {
    fn new(bottleneck: usize, device: &Device) -> Self {
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).with_initializer(NORMAL).init(device);
        Self { down: linear(HIDDEN, bottleneck), up: linear(bottleneck, HIDDEN) }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        x.clone() + self.up.forward(silu(self.down.forward(x)))
    }
}

impl Rotation {
    pub fn new(length: usize, device: &Device) -> Self {
        let angles: Vec<f32> = (0..length)
            .flat_map(|position| (0..HEAD).map(move |i| position as f32 / ROPE_BASE.powf((2 * (i % (HEAD / 2))) as f32 / HEAD as f32)))
            .collect();
        let angles = Tensor::<2>::from_data(TensorData::new(angles, [length, HEAD]), device);
        Self { cos: angles.clone().cos(), sin: angles.sin() }
    }

    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [first, second] = x.clone().chunk(2, 3).try_into().expect("two halves");
        let turned = Tensor::cat(vec![second.neg(), first], 3);
        x * self.cos.clone().unsqueeze() + turned * self.sin.clone().unsqueeze()
    }
}

fn norm(device: &Device) -> RmsNorm {
    RmsNormConfig::new(HIDDEN).init(device).no_grad()
}

fn frozen(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs).with_bias(false).with_initializer(NORMAL).init(device).no_grad()
}
