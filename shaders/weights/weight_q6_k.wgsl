//! use quant

// A frozen weight in Q6_K. Two blocks of 256 elements form a group of 105 words: 32 words of low bits per block, 16 words of high bits per
// block, 4 words of scales per block, and a word with both d. Half a block, 128 elements, has 16 words of low bits, with elements 0–63 in
// the low nibbles and 64–127 in the high nibbles, and 8 words of high bits, where each byte holds two bits for each of the elements i,
// i + 32, i + 64 and i + 96.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 4u;

fn scales(i: u32) -> vec2<f32> {
    let group = i / 128u * 105u;
    let d = half_to_single(weight[group + 104u] >> (i / 64u % 2u * 16u));
    let scale = i32(weight[group + 96u + i / 16u % 8u] << (24u - i / 4u % 4u * 8u)) >> 24u;
    return vec2(d * f32(scale), 0.0);
}

// d s (q − 32).
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let group = i / 128u * 105u;
    let half = i / 32u % 4u; // within the group, two per block
    let low = nibbles(weight[group + half * 16u + i % 16u], i / 16u % 2u * 4u);
    let high = (weight[group + 64u + half * 8u + i % 8u] >> (i / 8u % 4u * 2u)) & 0x03030303u;
    return s.x * (four(low | (high << 4u)) - 32.0);
}
