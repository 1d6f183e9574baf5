//! A decoder's weights and its forward pass: a good place to start reading.

use super::adapter::graft::{Graft, Stream, join};
use super::adapter::invertible::Coupling;
use super::adapter::{AdapterSetup, FittedAdapters};
use super::names::Names;
use super::values::source_of;
use super::{ATTENTION_PLACE, Config, FFN_PLACE, NormKind, Positions, Trains};
use crate::error::{Error, Result};
use crate::graph::{DType, Graph, Parameters, Piece, Shape, Tensor};
use crate::ops::{self, Attention, FeedForward, HeadNorm, Linear, Norm, Rope};
use crate::weights::Weights;

/// A decoder with or without adapters: its weights and its forward pass.
pub struct Model {
    /// The configuration of the base.
    pub config: Config,
    /// The adapters, if there are any.
    pub adapters: AdapterSetup,
    /// Every weight.
    pub parameters: Parameters,
    /// Whether activations are f16 in training and evaluation, on devices that support f16.
    pub half: bool,
    token_embedding: Tensor,
    position_embedding: Option<Tensor>,
    coupling: Option<Coupling>,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    head: Linear,
}

struct Block {
    norm1: Norm,
    qkv: Linear,
    head_norm: Option<HeadNorm>,
    attention_output: Linear,
    attention_adapters: Vec<Graft>,
    norm2: Norm,
    ffn_input: Linear,
    ffn_output: Linear,
    ffn_adapters: Vec<Graft>,
}

/// The inputs of a recording, written before each run.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Tokens (batch, length).
    pub tokens: Tensor,
    /// The length of each row, excluding padding (batch).
    pub lengths: Tensor,
    /// The positions of the flattened tokens, sorted by token (batch·length), in a recording that trains the embeddings.
    pub order: Option<Tensor>,
    /// The table of [`ops::rope_table`] (positions, head_size), for a model with rotary positions. It is the same in every run.
    pub rope: Option<Tensor>,
}

/// The keys and values of earlier tokens, for a recording that continues after them.
pub struct Cache {
    /// The number of earlier tokens (1).
    pub start: Tensor,
    /// The keys and values of each layer, both (key_value_heads, context, head_size).
    pub layers: Vec<[Tensor; 2]>,
}

impl Model {
    /// Creates a model from its configuration. `sources` are the base and the weights that override it; they determine the format of each
    /// frozen weight on the device. Without sources, as for pretraining, all weights are f32. `adapters` is the configuration of one that trains,
    /// an [`AdapterSetup`], or `None` for a plain decoder.
    ///
    /// # Errors
    /// [`Error::Usage`] if the adapters do not fit the model, [`Error::File`] if the sources lack a tensor or have it in another shape or
    /// an unsupported format.
    pub fn new(config: &Config, sources: &[&Weights], adapters: impl Into<AdapterSetup>, trains: Trains) -> Result<Model> {
        let names = Names::of(config.family);
        let hidden = config.hidden_size;
        let adapters = adapters.into();
        let fitted = adapters.fitted_to(config).map_err(Error::Usage)?;
        let mut p = Declared { parameters: Parameters::default(), config, sources, trains, adapters: &fitted };

        let token_trains = trains.base || trains.embeddings || (config.tied && trains.head);
        let token_embedding = p.matrix(names.token_embedding, config.vocab_size, hidden, token_trains);
        let learned = config.positions == Positions::Learned;
        let position_embedding =
            learned.then(|| p.matrix(names.position_embedding, config.context, hidden, trains.base || trains.embeddings));

        let coupling = fitted.coupling(&mut p.parameters, config);
        let mut blocks = Vec::new();
        for i in 0..config.layers {
            let at = |name: &str| format!("{}.{i}.{name}", names.layers);
            let queries = config.heads * config.head_size;
            let keys = config.key_value_heads * config.head_size;
            let qkv = if names.qkv.len() == 1 { vec![config.qkv_width()] } else { vec![queries, keys, keys] };
            let grafts = |p: &mut Declared, place| fitted.grafts(&mut p.parameters, (&format!("{}.{i}", names.layers), i), place, hidden);
            blocks.push(Block {
                norm1: p.norm(&at(names.norms[0])),
                qkv: p.linear(&stack(names.qkv, &qkv, at), hidden, config.biases.qkv),
                head_norm: config.head_norm.then(|| HeadNorm {
                    heads: config.heads,
                    key_value_heads: config.key_value_heads,
                    query_weight: p.vector(format!("{}.weight", at(names.head_norms[0])), config.head_size, trains.norms),
                    key_weight: p.vector(format!("{}.weight", at(names.head_norms[1])), config.head_size, trains.norms),
                    epsilon: config.epsilon,
                }),
                attention_output: p.linear(&[(at(names.attention_output), hidden)], queries, config.biases.attention_output),
                attention_adapters: grafts(&mut p, ATTENTION_PLACE),
                norm2: p.norm(&at(names.norms[1])),
                ffn_input: {
                    let names = names.ffn_input(config.gated);
                    p.linear(&stack(names, &vec![config.intermediate_size; names.len()], at), hidden, config.biases.ffn)
                },
                ffn_output: p.linear(&[(at(names.ffn_output), hidden)], config.intermediate_size, config.biases.ffn),
                ffn_adapters: grafts(&mut p, FFN_PLACE),
            });
        }
        let final_norm = config.norm_first.then(|| p.norm(names.final_norm));
        let head = if config.tied { token_embedding } else { p.matrix(names.head, config.vocab_size, hidden, trains.base || trains.head) };
        let bias = config.biases.head.then(|| p.vector(format!("{}.bias", names.head), config.vocab_size, trains.head));
        let (head, parameters) = (Linear::new(head, bias), p.parameters);
        for Piece { name, shape } in parameters.iter().flat_map(|(_, parameter)| &parameter.pieces) {
            source_of(sources, name, &adapters).map_or(Ok(()), |source| source.find(name, shape).map(drop))?;
        }
        let config = config.clone();
        Ok(Model { config, adapters, parameters, half: false, token_embedding, position_embedding, coupling, blocks, final_norm, head })
    }

    /// The same model with activations in f16, if `half`.
    pub fn with_half_activations(self, half: bool) -> Model {
        Model { half, ..self }
    }

    /// The inputs that a recording of this model needs for positions up to `positions`.
    pub fn inputs(&self, g: &mut Graph, batch: u32, length: u32, positions: u32) -> Inputs {
        let trains_tokens = g.training() && g.needs_gradient(self.token_embedding);
        let rotary = matches!(self.config.positions, Positions::Rotary { .. });
        Inputs {
            tokens: g.input("tokens", [batch, length], DType::U32),
            lengths: g.input("lengths", [batch], DType::U32),
            order: trains_tokens.then(|| g.input("order", [batch * length], DType::U32)),
            rope: rotary.then(|| g.input("rope", [positions, self.config.head_size], DType::F32)),
        }
    }

    /// The contents of [`Inputs::rope`].
    pub fn rope_table(&self, positions: u32) -> Option<Vec<f32>> {
        let Positions::Rotary { theta, scaling, .. } = &self.config.positions else { return None };
        Some(ops::rope_table(&ops::rope_frequencies(*theta, self.config.head_size, scaling), positions))
    }

    /// Declares the states for generating up to `context` tokens.
    pub fn cache(&self, g: &mut Graph, context: u32) -> Cache {
        let shape = [self.config.key_value_heads, context, self.config.head_size];
        let layers = (0..self.config.layers).map(|i| ["keys", "values"].map(|name| g.state(&format!("h{i}.{name}"), shape)));
        Cache { layers: layers.collect(), start: g.input("start", [1], DType::U32) }
    }

    /// Computes the hidden states that the head reads (batch, length, hidden) from tokens (batch, length). With a cache, the tokens follow
    /// the cached ones and are added to the cache.
    pub fn hidden(&self, g: &mut Graph, inputs: &Inputs, cache: Option<&Cache>) -> Tensor {
        let dropout = self.config.dropout;
        let mut x = ops::embedding(g, inputs.tokens, self.token_embedding, inputs.order);
        if let Some(table) = self.position_embedding {
            x = ops::positions(g, x, table, cache.map(|c| c.start));
        }
        x = ops::dropout(g, x, dropout.embedding);
        if let Some(coupling) = &self.coupling {
            x = g.scoped("coupling", |g| coupling.forward(g, x));
        }
        let mut stream = Stream::new(x);
        for (i, block) in self.blocks.iter().enumerate() {
            let scope = format!("h{i}");
            let record = |g: &mut Graph| {
                // A pre-norm block normalises the input of a sublayer, a post-norm block the residual sum.
                let first = self.config.norm_first;
                let after = |norm| Some(norm).filter(|_| !first);
                let before = |g: &mut Graph, stream: Stream, scope: &str, norm: &Norm| {
                    if first {
                        g.scoped(scope, |g| stream.normed(g, norm))
                    } else {
                        let x = stream.sum(g);
                        (x, x)
                    }
                };
                let (h, x) = before(g, stream, "ln_1", &block.norm1);
                let a = g.scoped("attn", |g| self.attention(g, x, block, i, inputs, cache));
                let stream = join(g, ["attn_adapter", "ln_1"], a, h, &block.attention_adapters, after(&block.norm1));
                let (h, x) = before(g, stream, "ln_2", &block.norm2);
                let f = g.scoped("ffn", |g| self.ffn(g, x, block));
                let stream = join(g, ["ffn_adapter", "ln_2"], f, h, &block.ffn_adapters, after(&block.norm2));
                // A segment should leave a single tensor.
                if g.checkpointing() { Stream::new(stream.sum(g)) } else { stream }
            };
            stream = g.checkpointed(|g| g.scoped(&scope, record));
        }
        let x = match &self.final_norm {
            Some(norm) => g.scoped("ln_f", |g| stream.normed(g, norm).1),
            None => stream.sum(g),
        };
        self.coupling.as_ref().map_or(x, |coupling| g.scoped("coupling", |g| coupling.inverse(g, x)))
    }

    fn attention(&self, g: &mut Graph, x: Tensor, block: &Block, layer: usize, inputs: &Inputs, cache: Option<&Cache>) -> Tensor {
        let &Config { heads, key_value_heads, head_size, dropout, .. } = &self.config;
        let form = Attention { heads, key_value_heads, head_size, causal: true, dropout: dropout.attention };
        let rotation = match (&self.config.positions, inputs.rope) {
            (Positions::Rotary { pairs, .. }, Some(table)) => Some(Rope { heads, key_value_heads, head_size, pairs: *pairs, table }),
            _ => None,
        };
        let a = match (&rotation, &block.head_norm, cache) {
            (Some(rotation), None, None) => ops::self_attention(g, x, &block.qkv, rotation, inputs.lengths, form),
            _ => {
                let mut qkv = ops::linear(g, x, &block.qkv);
                if let Some(norm) = &block.head_norm {
                    qkv = ops::head_norm(g, qkv, norm);
                }
                if let Some(rotation) = &rotation {
                    qkv = ops::rope(g, qkv, cache.map(|c| c.start), rotation);
                }
                match cache {
                    None => ops::attention(g, qkv, inputs.lengths, form),
                    Some(cache) => {
                        let [keys, values] = cache.layers[layer];
                        ops::cached_attention(g, qkv, keys, values, cache.start, form)
                    }
                }
            }
        };
        let a = ops::linear(g, a, &block.attention_output);
        ops::dropout(g, a, dropout.attention_output)
    }

    fn ffn(&self, g: &mut Graph, x: Tensor, block: &Block) -> Tensor {
        let (input, output) = (&block.ffn_input, &block.ffn_output);
        let layers = FeedForward { input, output, activation: self.config.activation, gated: self.config.gated };
        let f = ops::feed_forward(g, x, &layers);
        ops::dropout(g, f, self.config.dropout.ffn_output)
    }

    /// Records the loss for `targets` (batch, length); see [`ops::cross_entropy`].
    pub fn loss(&self, g: &mut Graph, inputs: &Inputs, targets: Tensor) -> Tensor {
        let x = self.hidden(g, inputs, None);
        g.scoped("loss", |g| ops::cross_entropy(g, x, &self.head, targets))
    }

    /// Computes the logits (…, vocabulary) from the result of [`Model::hidden`] (…, hidden).
    pub fn logits(&self, g: &mut Graph, hidden: Tensor) -> Tensor {
        g.scoped("head", |g| ops::linear(g, hidden, &self.head))
    }
}

/// The names and widths of stacked matrices.
fn stack(names: &[&str], widths: &[u32], at: impl Fn(&str) -> String) -> Vec<(String, u32)> {
    names.iter().zip(widths).map(|(name, &width)| (at(name), width)).collect()
}

/// The weights declared so far.
struct Declared<'a> {
    parameters: Parameters,
    config: &'a Config,
    sources: &'a [&'a Weights],
    trains: Trains,
    adapters: &'a FittedAdapters<'a>,
}

impl Declared<'_> {
    /// The format of a matrix: that of its file. Vectors are small and are converted to f32.
    fn format(&self, name: &str) -> DType {
        self.sources.iter().rev().find_map(|s| s.tensors.get(name)).map_or(DType::F32, |w| w.dtype)
    }

    fn matrix(&mut self, name: &str, outputs: u32, inputs: u32, trains: bool) -> Tensor {
        let name = format!("{name}.weight");
        let dtype = self.format(&name);
        self.parameters.add(name, [outputs, inputs], dtype, trains)
    }

    fn vector(&mut self, name: String, len: u32, trains: bool) -> Tensor {
        self.parameters.add(name, [len], DType::F32, self.trains.base || trains)
    }

    fn norm(&mut self, name: &str) -> Norm {
        let (hidden, trains) = (self.config.hidden_size, self.trains.norms);
        let weight = self.vector(format!("{name}.weight"), hidden, trains);
        let bias = (self.config.norm == NormKind::LayerNorm).then(|| self.vector(format!("{name}.bias"), hidden, trains));
        Norm { weight, bias, epsilon: self.config.epsilon }
    }

    /// A linear layer of stacked matrices (name, outputs), with the updates of LoRA. Adjacent matrices of the same format are joined, as
    /// long as each starts at an addressable offset.
    fn linear(&mut self, stacked: &[(String, u32)], inputs: u32, bias: bool) -> Linear {
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
