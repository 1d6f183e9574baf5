//! Attention over packed queries, keys and values.

use super::{Dropout, dispatch_in_parts, qkv_shape, sum};
use crate::graph::{Argument, Graph, Kernel, Tensor, Traits, read, write};

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

/// The form of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; a divisor of `heads`.
    pub key_value_heads: u32,
    /// Numbers in a head: a multiple of 4, at most 128.
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
    /// If its shape is not of this form, or the form is none that the kernels take.
    pub(super) fn batch_and_length(&self, g: &Graph, op: &str, qkv: Tensor) -> [u32; 2] {
        let Attention { heads, key_value_heads, head_size, .. } = *self;
        assert!(head_size.is_multiple_of(4) && head_size <= 128, "{op}: a head of {head_size} is not a multiple of 4 up to 128");
        assert!(heads.is_multiple_of(key_value_heads), "{op}: {heads} heads do not share {key_value_heads} evenly");
        qkv_shape(g, op, qkv, heads, key_value_heads, head_size)
    }

    /// What scores are multiplied by: 1 / √head_size.
    pub(super) fn scale(&self) -> f32 {
        (1.0 / f64::from(self.head_size).sqrt()) as f32
    }
}

/// The kernels for a device and a head, but for their entry point, and the rows that one workgroup owns: the one table.
fn variant(traits: &Traits, head_size: u32) -> (Kernel, u32) {
    let lanes = traits.lanes();
    if lanes == 0 {
        // Both shared tiles must fit in the 16 KiB of workgroup memory that every device has.
        let tile = (2048 / head_size).min(16);
        return (Kernel::new("attention", "").with("HEAD", head_size).with("LANES", 64).with("TILE", tile), 64);
    }
    // As few shared rows as the lanes can split evenly, but two where a head is narrow, since each tile loads and stores the sums again;
    // and as many rows of a lane's own as leave the code of a tile in the instruction cache.
    let mut tile = if head_size <= 64 { 2 } else { 1 };
    while !(head_size / 4 * tile).is_multiple_of(lanes) {
        tile *= 2;
    }
    let per = match head_size * tile {
        ..=64 => 4,
        65..=192 => 2,
        _ => 1,
    };
    (Kernel::new("attention_cpu", "").with("HEAD", head_size).with("SHARE", lanes).with("PER", per).with("TILE", tile), lanes * per)
}

/// softmax(q·kᵀ / √head_size)·v for qkv (batch, length, (heads + 2·key_value_heads)·head_size), queries first, then keys, then values:
/// (batch, length, heads·head_size). Keys from `lengths` (batch) on are padding and seen by no query.
pub fn attention(g: &mut Graph, qkv: Tensor, lengths: Tensor, form: Attention) -> Tensor {
    let Attention { heads, key_value_heads, head_size, causal, dropout } = form;
    let [batch, length] = form.batch_and_length(g, "attention", qkv);

    let dropout = Dropout::new(g, dropout);
    let (kernel, rows) = variant(g.traits(), head_size);
    let kernel = kernel.with("CAUSAL", causal).with("DROPOUT", dropout.is_some());
    let kernel = move |entry| Kernel { entry, ..kernel.clone() };
    let p = Params {
        length,
        heads,
        key_value_heads,
        scale: form.scale(),
        threshold: dropout.map_or(0, |d| d.threshold),
        keep_scale: dropout.map_or(1.0, |d| d.scale),
        site: dropout.map_or(0, |d| d.site),
        first: 0,
    };
    let blocks = length.div_ceil(rows);
    let record = move |g: &mut Graph, entry, heads: u32, operations: u64, arguments: &[Argument]| {
        dispatch_in_parts(g, kernel(entry), |first| Params { first, ..p }, arguments, [blocks, heads, batch], operations);
    };
    let y = g.activation("attention", [batch, length, heads * head_size]);
    let log_sum_exp = g.single("log_sum_exp", [batch, heads, length]);
    // A query and the keys that it may see; a product over a head is two operations for each number of it.
    let seen = if causal { length.div_ceil(2) } else { length };
    let product = [batch, heads, length, seen, head_size].map(u64::from).into_iter().fold(2, u64::saturating_mul);
    record(g, "forward", heads, product.saturating_mul(2), &[read(qkv), read(lengths), write(y), write(log_sum_exp)]);

    g.on_backward(y, &[qkv], move |g, dy| {
        let dqkv = g.like("dqkv", qkv);
        let delta = g.single("delta", [batch, heads, length]);
        let arguments = [read(qkv), read(lengths), read(y), read(log_sum_exp), read(dy), write(delta), write(dqkv)];
        record(g, "backward_queries", heads, product.saturating_mul(3), &arguments);
        let arguments = [read(qkv), read(lengths), read(delta), read(log_sum_exp), read(dy), write(dqkv)];
        record(g, "backward_keys", key_value_heads, product.saturating_mul(4), &arguments);
        g.contribute(qkv, |g, before| sum(g, before, dqkv));
    });
    y
}
