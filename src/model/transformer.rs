//! A transformer's weights and its forward pass, for decoders and encoders: a good place to start reading.

use super::adapter::AdapterSetup;
use super::adapter::graft::{Graft, Stream, join};
use super::adapter::invertible::Coupling;
use super::declared::{Declared, stack};
use super::heads::{Head, LabelHead, WordHead};
use super::inputs::{Cache, Inputs};
use super::names::Names;
use super::values::source_of;
use super::{ATTENTION_PLACE, Config, FFN_PLACE, HeadConfig, Positions, Trains};
use crate::error::{Error, Result};
use crate::graph::{DType, Graph, Parameters, Piece, Tensor};
use crate::ops::{self, Activation, Attention, FeedForward, HeadNorm, Linear, Norm, Rope};
use crate::weights::Weights;

/// A transformer with or without adapters: its weights and its forward pass.
pub struct Model {
    /// The configuration of the base.
    pub config: Config,
    /// The adapters, if there are any.
    pub adapters: AdapterSetup,
    /// Every weight.
    pub parameters: Parameters,
    /// Whether activations are f16 in training and evaluation, on devices that support f16.
    pub half: bool,
    pub(super) embeddings: Embeddings,
    coupling: Option<Coupling>,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    pooler: Option<Linear>,
    head: Option<Head>,
}

pub(super) struct Embeddings {
    pub tokens: Tensor,
    positions: Option<Tensor>,
    /// One for each type of token.
    pub types: Option<Tensor>,
    norm: Option<Norm>,
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

impl Model {
    /// Creates a model from its configuration. `sources` are the base and the weights that override it; they determine the format of each
    /// frozen weight on the device. Without sources, as for pretraining, all weights are f32. `adapters` is the configuration of one that trains,
    /// an [`AdapterSetup`], or `None` for a plain model.
    ///
    /// # Errors
    /// [`Error::Usage`] if the adapters do not fit the model, [`Error::File`] if the sources lack a tensor or have it in another shape or
    /// an unsupported format.
    pub fn new(config: &Config, sources: &[&Weights], adapters: impl Into<AdapterSetup>, trains: Trains) -> Result<Model> {
        Model::with_head(config, sources, adapters, None, trains)
    }

    /// The same with a head that predicts labels or scores, in place of the one that predicts words. It always trains; if no source has it, it
    /// is new.
    ///
    /// # Errors
    /// As [`Model::new`]; [`Error::Usage`] if the head needs a pooler, but the model has none.
    pub fn with_head(
        config: &Config,
        sources: &[&Weights],
        adapters: impl Into<AdapterSetup>,
        head: Option<&HeadConfig>,
        trains: Trains,
    ) -> Result<Model> {
        let names = Names::of(config.family);
        let hidden = config.hidden_size;
        let adapters = adapters.into();
        let fitted = adapters.fitted_to(config).map_err(Error::Usage)?;
        let mut p = Declared { parameters: Parameters::default(), config, sources, trains, adapters: &fitted };

        let encoder = config.encoder;
        let embeddings = Embeddings {
            tokens: p.matrix(names.token_embedding, config.vocab_size, hidden, trains.embeddings || (config.tied && trains.head)),
            positions: (config.positions == Positions::Learned).then(|| {
                p.matrix(names.position_embedding, config.context + encoder.map_or(0, |e| e.first_position), hidden, trains.embeddings)
            }),
            types: encoder.filter(|e| e.token_types > 0).map(|e| p.matrix(names.type_embedding, e.token_types, hidden, trains.embeddings)),
            norm: encoder.map(|_| p.norm(names.embedding_norm)),
        };

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
        let pooler = encoder.filter(|e| e.pooler).map(|_| p.linear(&[(names.pooler.into(), hidden)], hidden, true));
        if head.is_some_and(|head| head.pooler) && pooler.is_none() {
            return Err(Error::Usage("the head reads the model's pooler, but the model has none; train a head without a pooler".into()));
        }
        let head = match head {
            Some(head) => Some(Head::Labels(LabelHead::new(&mut p, head))),
            None => config.has_head().then(|| Head::Words(WordHead::new(&mut p, config, embeddings.tokens))),
        };
        let parameters = p.parameters;
        for Piece { name, shape } in parameters.iter().flat_map(|(_, parameter)| &parameter.pieces) {
            source_of(sources, name, &adapters).map_or(Ok(()), |source| source.find(name, shape).map(drop))?;
        }
        let config = config.clone();
        Ok(Model { config, adapters, parameters, half: false, embeddings, coupling, blocks, final_norm, pooler, head })
    }

    /// The same model with activations in f16, if `half`.
    pub fn with_half_activations(self, half: bool) -> Model {
        Model { half, ..self }
    }

    /// Computes the hidden states that the head reads (batch, length, hidden) from tokens (batch, length). With a cache, the tokens follow
    /// the cached ones and are added to the cache.
    pub fn hidden(&self, g: &mut Graph, inputs: &Inputs, cache: Option<&Cache>) -> Tensor {
        let dropout = self.config.dropout;
        let x = self.embed(g, inputs, cache);
        let mut x = ops::dropout(g, x, dropout.embedding);
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

    /// The sum of a token's embeddings.
    fn embed(&self, g: &mut Graph, inputs: &Inputs, cache: Option<&Cache>) -> Tensor {
        let Embeddings { tokens, positions, types, norm } = &self.embeddings;
        let mut x = ops::embedding(g, inputs.tokens, *tokens, inputs.order);
        if let Some((table, types)) = types.zip(inputs.types) {
            let of_type = ops::embedding(g, types, table, inputs.type_order);
            x = ops::add(g, x, of_type);
        }
        if let Some(table) = positions {
            let first = self.config.encoder.map_or(0, |encoder| encoder.first_position);
            x = ops::positions(g, x, *table, first, cache.map(|c| c.start));
        }
        norm.as_ref().map_or(x, |norm| ops::norm(g, x, norm))
    }

    fn attention(&self, g: &mut Graph, x: Tensor, block: &Block, layer: usize, inputs: &Inputs, cache: Option<&Cache>) -> Tensor {
        let &Config { heads, key_value_heads, head_size, dropout, .. } = &self.config;
        let form = Attention { heads, key_value_heads, head_size, causal: self.config.encoder.is_none(), dropout: dropout.attention };
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

    /// The head for labels, if the model has one.
    pub fn label_head(&self) -> Option<&HeadConfig> {
        if let Some(Head::Labels(head)) = &self.head { Some(head.config()) } else { None }
    }

    /// Checks that the model can learn and be measured.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is an encoder whose files have no head for masked words, and no other head was given.
    pub fn check_head(&self) -> Result<()> {
        if self.head.is_some() {
            return Ok(());
        }
        let dense = Names::of(self.config.family).head_transform[0];
        let problem =
            format!("the model has no head that predicts hidden words ('{dense}.weight'), so it cannot learn texts without labels");
        Err(Error::Usage(format!("{problem}; give rows with a 'label', or a model saved with its masked-language head")))
    }

    /// The input that takes the targets of a batch.
    ///
    /// # Panics
    /// If the model has no head ([`Config::has_head`]).
    pub fn targets(&self, g: &mut Graph, batch: [u32; 2]) -> Tensor {
        let shape = self.head.as_ref().expect("the model has a head").targets(batch);
        g.input("targets", shape, DType::U32)
    }

    /// Records the loss for `targets`; see [`ops::cross_entropy`] and [`ops::pointwise_loss`].
    ///
    /// # Panics
    /// If the model has no head.
    pub fn loss(&self, g: &mut Graph, inputs: &Inputs, targets: Tensor) -> Tensor {
        self.loss_and_logits(g, inputs, targets).0
    }

    /// Records the loss for `targets`, and outside of training what a head for labels predicts: a value for each label, or one (batch, labels),
    /// or those of each token (batch, length, labels).
    ///
    /// # Panics
    /// If the model has no head.
    pub fn loss_and_logits(&self, g: &mut Graph, inputs: &Inputs, targets: Tensor) -> (Tensor, Option<Tensor>) {
        let hidden = self.hidden(g, inputs, None);
        let head = self.head.as_ref().expect("the model has a head");
        g.scoped("loss", |g| head.loss(g, self, hidden, inputs, targets))
    }

    /// Computes the logits (…, vocabulary) from the result of [`Model::hidden`] (…, hidden).
    ///
    /// # Panics
    /// If the model has no head for words.
    pub fn logits(&self, g: &mut Graph, hidden: Tensor) -> Tensor {
        let Some(Head::Words(head)) = &self.head else { panic!("the model has a head for words") };
        g.scoped("head", |g| head.logits(g, &self.config, hidden))
    }

    /// An encoder's own summary of its text, from the hidden states of the first tokens (batch, hidden): the same shape.
    ///
    /// # Panics
    /// If the model has no pooler ([`Encoder::pooler`](super::Encoder::pooler)).
    pub fn pooled(&self, g: &mut Graph, first: Tensor) -> Tensor {
        let pooler = self.pooler.as_ref().expect("the model has a pooler");
        g.scoped("pooler", |g| ops::linear_activated(g, first, pooler, Activation::Tanh))
    }
}
