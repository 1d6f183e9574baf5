//! Attention of new tokens over the keys and values of all tokens so far, for generating text.

use super::{Attention, flat};
use crate::graph::{Graph, Kernel, Role, Tensor, read, update, write};

crate::params!(Params { length: u32, context: u32, heads: u32, key_value_heads: u32, scale: f32 });

/// Causal attention of one sequence that continues a cache: (1, length, heads·head_size).
///
/// qkv (1, length, (heads + 2·key_value_heads)·head_size) is packed as for [`attention`](super::attention). Its row t has the position
/// start + t, where `start` (1) u32 is the number of tokens before. The keys and values of the rows are stored in the states `keys` and
/// `values`, both (key_value_heads, context, head_size), at their positions; then row t sees what is cached up to its own position.
///
/// Rows after the last real token are padding. No real token sees what they leave in the cache, because it overwrites its own position
/// first, and past the context they leave nothing. There is no dropout and no backward pass.
pub fn cached_attention(g: &mut Graph, qkv: Tensor, keys: Tensor, values: Tensor, start: Tensor, form: Attention) -> Tensor {
    let Attention { heads, key_value_heads, head_size, causal, .. } = form;
    let [batch, length] = form.batch_and_length(g, "cached_attention", qkv);
    assert!(batch == 1 && causal, "cached_attention takes one sequence and is causal, not {form:?} of {}", g.shape(qkv));
    assert_eq!(g.shape(start).len(), 1, "cached_attention takes one start, not {}", g.shape(start));
    let &[_, context, _] = g.shape(keys).axes() else { panic!("cached_attention: '{}' is {}", g.info(keys).label, g.shape(keys)) };
    let context = context as u32;
    for cache in [keys, values] {
        let is_state = matches!(g.info(g.root(cache).0).role, Role::State(_));
        assert!(is_state, "cached_attention: '{}' is not a state", g.info(cache).label);
        assert_eq!(
            *g.shape(cache),
            [key_value_heads, context, head_size].into(),
            "cached_attention: the shape of '{}'",
            g.info(cache).label
        );
    }

    // What the lanes merge at a time must fit in the 16 KiB of workgroup memory that every device has, next to two values per lane.
    let lanes = if g.traits().cpu { 32 } else { 64 };
    let chunk = (1..=head_size / 4).rev().find(|c| (head_size / 4).is_multiple_of(*c) && lanes * c * 16 <= 12 << 10).unwrap_or(1);
    let kernel = |entry| Kernel::new("cached_attention", entry).with("HEAD", head_size).with("WORKGROUP", lanes).with("CHUNK", chunk);
    let p = Params { length, context, heads, key_value_heads, scale: form.scale() };
    let numbers = u64::from(length) * u64::from(key_value_heads * head_size);
    g.dispatch(kernel("append"), p, [read(qkv), read(start), update(keys), update(values)], flat(numbers / 4));
    let y = g.activation("attention", [1, length, heads * head_size]);
    g.dispatch(kernel("attend"), p, [read(qkv), read(start), read(keys), read(values), write(y)], [heads, length, 1]);
    y
}
