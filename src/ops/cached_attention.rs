//! Attention of new tokens over the keys and values of all tokens so far, for generating text.

use super::{Attention, flat};
use crate::graph::{Graph, Kernel, Role, Tensor, read, update, write};

crate::params!(Params { length: u32, context: u32, heads: u32, key_value_heads: u32, scale: f32 });

/// Causal attention of one sequence that goes on behind a cache. qkv (1, length, (heads + 2·key_value_heads)·head_size) is packed as for
/// [`attention`](super::attention); its row t has the position start + t, where `start` (1) u32 is the number of tokens before. The rows'
/// keys and values are put into the states `keys` and `values`, both (key_value_heads, context, head_size), at their positions; then row
/// t sees what is cached at the positions up to its own: (1, length, heads·head_size).
///
/// Rows behind the last real token are padding: nothing real sees what they leave in the cache, because whoever comes to a position
/// writes it first, and past the context they leave nothing. There is no dropout and no backward.
pub fn cached_attention(g: &mut Graph, qkv: Tensor, keys: Tensor, values: Tensor, start: Tensor, form: Attention) -> Tensor {
    let Attention { heads, key_value_heads, head_size, causal, .. } = form;
    let [batch, length] = form.batch_and_length(g, "cached_attention", qkv);
    assert!(batch == 1 && causal, "cached_attention takes one sequence and is causal, not {form:?} of {}", g.shape(qkv));
    assert_eq!(g.shape(start).len(), 1, "cached_attention takes one start, not {}", g.shape(start));
    let &[_, context, _] = g.shape(keys).axes() else { panic!("cached_attention: '{}' is {}", g.info(keys).label, g.shape(keys)) };
    let context = context as u32;
    for cache in [keys, values] {
        let is_state = matches!(g.info(g.root(cache).0).role, Role::State(_));
        assert!(is_state, "cached_attention: '{}' is no state", g.info(cache).label);
        assert_eq!(
            *g.shape(cache),
            [key_value_heads, context, head_size].into(),
            "cached_attention: the shape of '{}'",
            g.info(cache).label
        );
    }

    // What the lanes join at a time must fit in the 16 KiB of workgroup memory that every device has, beside two numbers of each.
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
