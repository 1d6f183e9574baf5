//! use quant

// A frozen weight in Q5_0. Two blocks of 32 elements form a group of 11 words: both scales, a word of fifth bits for each block, then
// four words of low bits for each block.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 8u;

fn scales(i: u32) -> vec2<f32> {
    return vec2(half_to_single(weight[i / 16u * 11u] >> (i / 8u % 2u * 16u)), 0.0);
}

// d (q − 16).
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let group = i / 16u * 11u;
    let block = i / 8u % 2u;
    let low = nibbles(weight[group + 3u + block * 4u + i % 4u], i & 4u);
    let q = low | fifth_bits(weight[group + 1u + block] >> (i % 8u * 4u));
    return s.x * (four(q) - 16.0);
}
