//! Attention over packed queries, keys and values.

use super::{Dropout, Rope, RopePairs, dispatch_in_parts, qkv_shape, sum};
use crate::graph::{Argument, Graph, Kernel, Tensor, Traits, read, update, write};

crate::params!(Params {
    length: u32,
    heads: u32,
    key_value_heads: u32,
    scale: f32,
    threshold: u32,
    keep_scale: f32,
    site: u32,
    first: u32
});

/// The configuration of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; a divisor of `heads`.
    pub key_value_heads: u32,
    /// Elements of a head: a multiple of 4, at most 256.
    pub head_size: u32,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// The share of probabilities that dropout sets to zero.
    pub dropout: f32,
}

impl Attention {
    /// The batch and the length of `qkv`.
    ///
    /// # Panics
    /// If its shape does not fit this layer, or the kernels do not support the layer.
    pub(super) fn batch_and_length(&self, g: &Graph, op: &str, qkv: Tensor) -> [u32; 2] {
        let Attention { heads, key_value_heads, head_size, .. } = *self;
        assert!(head_size.is_multiple_of(4) && head_size <= 256, "{op}: the head size {head_size} is not a multiple of 4 up to 256");
        assert!(
            heads.is_multiple_of(key_value_heads),
            "{op}: {heads} query heads cannot share {key_value_heads} key and value heads evenly"
        );
        qkv_shape(g, op, qkv, heads, key_value_heads, head_size)
    }

    /// The factor of the scores: 1 / √head_size.
    pub(super) fn scale(&self) -> f32 {
        (1.0 / f64::from(self.head_size).sqrt()) as f32
    }
}

/// The kernels for a device and a layer. Every choice is made here.
struct Variant {
    /// Everything but the entry point.
    kernel: Kernel,
    /// The rows that one workgroup owns.
    rows: u32,
    /// How many workgroups each query head has per block of keys in the gradient of the keys; `None` if query heads share workgroups there.
    parts: Option<u32>,
}

/// How many times 64 columns of a head one workgroup of a GPU owns in the gradient of the keys. More would spill registers.
const PART: u32 = 2;

impl Variant {
    fn new(traits: &Traits, form: &Attention) -> Variant {
        let &Attention { heads, key_value_heads, head_size, .. } = form;
        let lanes = if traits.avoids("attention_cpu") { 0 } else { traits.cpu_subgroup() };
        if lanes == 0 {
            let part = head_size.div_ceil(64).min(PART);
            let shared = heads != key_value_heads;
            let kernel = Kernel::new("attention", "forward").with("HEAD", head_size).with("PART", part).with("SHARED", shared);
            return Variant { rows: kernel.constant("BLOCK"), parts: Some(head_size.div_ceil(64 * part)), kernel };
        }
        // As few shared rows as the lanes can split evenly, but at least two for a narrow head, since each tile loads and stores the sums
        // again. As many rows per lane as keep the code of a tile within the instruction cache.
        let mut tile = if head_size <= 64 { 2 } else { 1 };
        while !(head_size / 4 * tile).is_multiple_of(lanes) {
            tile *= 2;
        }
        let per = match head_size * tile {
            ..=64 => 4,
            65..=192 => 2,
            _ => 1,
        };
        let kernel = Kernel::new("attention_cpu", "forward")
            .with("HEAD", head_size)
            .with("SUBGROUP", lanes)
            .with("LANE_ROWS", per)
            .with("TILE", tile);
        Variant { kernel, rows: lanes * per, parts: None }
    }
}

/// softmax(q·kᵀ / √head_size)·v for qkv (batch, length, (heads + 2·key_value_heads)·head_size), queries first, then keys, then values:
/// (batch, length, heads·head_size). Keys from position `lengths` (batch) on are padding, which no query sees.
pub fn attention(g: &mut Graph, qkv: Tensor, lengths: Tensor, form: Attention) -> Tensor {
    let recorded = Recorded::forward(g, qkv, lengths, form);
    let y = recorded.y;
    g.on_backward(y, &[qkv], move |g, dy| {
        let dqkv = recorded.backward(g, dy, None);
        g.contribute(qkv, |g, before| sum(g, before, dqkv));
    });
    y
}

/// A recorded forward pass, with what its backward pass needs.
pub(super) struct Recorded {
    form: Attention,
    qkv: Tensor,
    lengths: Tensor,
    /// The result (batch, length, heads·head_size).
    pub y: Tensor,
    log_sum_exp: Tensor,
    kernel: Kernel,
    params: Params,
    batch: u32,
    /// Workgroups along the length.
    blocks: u32,
    /// See [`Variant::parts`].
    parts: Option<u32>,
}

impl Recorded {
    /// Records the forward pass.
    pub fn forward(g: &mut Graph, qkv: Tensor, lengths: Tensor, form: Attention) -> Recorded {
        let Attention { heads, key_value_heads, head_size, causal, dropout } = form;
        let [batch, length] = form.batch_and_length(g, "attention", qkv);
        let dropout = Dropout::new(g, dropout);
        let Variant { kernel, rows, parts } = Variant::new(g.traits(), &form);
        let kernel = kernel.with("CAUSAL", causal).with("DROPOUT", dropout.is_some());
        let params = Params {
            length,
            heads,
            key_value_heads,
            scale: form.scale(),
            threshold: dropout.map_or(0, |d| d.threshold),
            keep_scale: dropout.map_or(1.0, |d| d.scale),
            site: dropout.map_or(0, |d| d.site),
            first: 0,
        };
        let y = g.activation("attention", [batch, length, heads * head_size]);
        let log_sum_exp = g.single("log_sum_exp", [batch, heads, length]);
        let recorded = Recorded { form, qkv, lengths, y, log_sum_exp, kernel, params, batch, blocks: length.div_ceil(rows), parts };
        recorded.record(g, "forward", [recorded.blocks, heads], 2, &[read(qkv), read(lengths), write(y), write(log_sum_exp)]);
        recorded
    }

    /// Records the backward pass. Returns the gradient of qkv, or with `rope` that of what was rotated to become qkv.
    pub fn backward(&self, g: &mut Graph, dy: Tensor, rope: Option<&Rope>) -> Tensor {
        let &Recorded { qkv, lengths, y, log_sum_exp, batch, blocks, parts, .. } = self;
        let (length, Attention { heads, key_value_heads, head_size, .. }) = (self.params.length, self.form);
        let dqkv = g.like("dqkv", qkv);
        // Query heads that share keys write separate gradients, and another pass adds these in order.
        let shared = parts.is_some() && heads != key_value_heads;
        let dkv = if shared { g.single("dkv", [batch, length, heads, 2 * head_size]) } else { dqkv };
        if let Some(parts) = parts {
            let mut arguments = vec![read(qkv), read(lengths), read(y), read(log_sum_exp), read(dy)];
            arguments.extend(shared.then(|| write(dkv)));
            arguments.push(write(dqkv));
            self.record(g, "backward", [blocks.saturating_mul(1 + parts), heads], 7, &arguments);
        } else {
            let delta = g.single("delta", [batch, heads, length]);
            let arguments = [read(qkv), read(lengths), read(y), read(log_sum_exp), read(dy), write(delta), write(dqkv)];
            self.record(g, "backward_queries", [blocks, heads], 3, &arguments);
            let arguments = [read(qkv), read(lengths), read(delta), read(log_sum_exp), read(dy), write(dqkv)];
            self.record(g, "backward_keys", [blocks, key_value_heads], 4, &arguments);
        }

        let rotates_as_it_sums = rope.filter(|rope| shared && g.shape(rope.table).last().is_multiple_of(8));
        if shared {
            let kernel = Kernel { entry: "sum_heads", ..self.kernel.clone() };
            let (kernel, columns, arguments) = match rotates_as_it_sums {
                None => (kernel, 2 * key_value_heads, vec![read(dkv), write(dqkv)]),
                Some(rope) => {
                    let kernel = kernel.with("ROTARY", g.shape(rope.table).last()).with("ADJACENT", rope.pairs == RopePairs::Adjacent);
                    (kernel, heads + 2 * key_value_heads, vec![read(dkv), read(rope.table), update(dqkv)])
                }
            };
            let fours = u64::from(length) * u64::from(columns) * u64::from(head_size / 4);
            let groups = u32::try_from(fours.div_ceil(64)).unwrap_or(u32::MAX);
            g.dispatch(kernel, self.params, arguments, [groups, 1, batch]);
        }
        match rope {
            Some(rope) if rotates_as_it_sums.is_none() => rope.apply(g, dqkv, None, -1.0),
            _ => dqkv,
        }
    }

    /// Records a kernel that computes `products` products of queries and keys.
    fn record(&self, g: &mut Graph, entry: &'static str, [blocks, groups]: [u32; 2], products: u64, arguments: &[Argument]) {
        let (length, Attention { heads, head_size, causal, .. }) = (self.params.length, self.form);
        // A query and the keys that it sees on average; a product over a head takes two operations per element.
        let seen = if causal { length.div_ceil(2) } else { length };
        let product = [self.batch, heads, length, seen, head_size].map(u64::from).into_iter().fold(2, u64::saturating_mul);
        let kernel = Kernel { entry, ..self.kernel.clone() };
        let operations = product.saturating_mul(products);
        dispatch_in_parts(g, kernel, |first| Params { first, ..self.params }, arguments, [blocks, groups, self.batch], operations);
    }
}
