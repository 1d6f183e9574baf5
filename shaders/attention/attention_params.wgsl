//! use random

// What attention.wgsl and attention_cpu.wgsl share. qkv is packed: (batch, length, (heads + 2 · key_value_heads) · HEAD), queries first,
// then keys, then values.

override HEAD: u32 = 64u; // elements of a head; a multiple of 4
override CAUSAL: u32 = 1u;
override DROPOUT: u32 = 0u;
const HEAD4: u32 = HEAD / 4u;

struct Params {
    length: u32,
    heads: u32,
    key_value_heads: u32,
    scale: f32,         // 1 / sqrt(HEAD)
    threshold: u32,     // dropout: the share to drop, in units of 2^-32
    keep_scale: f32,    // dropout: 1 / (1 - share)
    site: u32,
    first: u32,         // the first workgroup of this dispatch, if several dispatches share them
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> lengths: array<u32>;                // (batch): keys from this position on are padding

// forward
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;          // (batch, length, heads · HEAD)
@group(0) @binding(4) var<storage, read_write> log_sum_exp: array<f32>;      // (batch, heads, length)

// backward
@group(0) @binding(3) var<storage, read> kept_y: array<vec4<f32>>;           // (batch, length, heads · HEAD)
@group(0) @binding(4) var<storage, read> kept_log_sum_exp: array<f32>;       // (batch, heads, length)
@group(0) @binding(5) var<storage, read> dy: array<vec4<f32>>;               // (batch, length, heads · HEAD)
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;            // (batch, heads, length): Σ dy · y
@group(0) @binding(3) var<storage, read> kept_delta: array<f32>;             // (batch, heads, length)
@group(0) @binding(7) var<storage, read_write> dqkv: array<vec4<f32>>;       // as qkv

const LOWEST = -1.0e30;

fn row_width() -> u32 {
    return (params.heads + 2u * params.key_value_heads) * HEAD4;
}

// Where the keys and the values of a shared head begin in a row.
fn key_column(shared_head: u32) -> u32 {
    return (params.heads + shared_head) * HEAD4;
}
fn value_column(shared_head: u32) -> u32 {
    return (params.heads + params.key_value_heads + shared_head) * HEAD4;
}

// The end of the keys that any query before `query` sees.
fn seen_before(query: u32, keys: u32) -> u32 {
    return select(min(keys, query), keys, CAUSAL == 0u);
}

// The dropout factor of one probability.
fn keep(batch: u32, head: u32, query: u32, key: u32) -> f32 {
    return dropout_factor((batch * params.heads + head) * params.length + query, key, params.site, params.threshold, params.keep_scale);
}

// Whether a query sees a key.
fn sees(query: u32, key: u32, keys: u32) -> bool {
    return key < keys && (CAUSAL == 0u || key <= query);
}
