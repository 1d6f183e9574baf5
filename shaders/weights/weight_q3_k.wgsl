//! use quant

// A frozen weight in Q3_K. Two blocks of 256 elements form a group of 55 words: 8 words of high bits per block (bit s of byte i belongs to element
// 32 s + i), 16 words of low bits per block, laid out as in Q2_K, 3 words of scales per block, and a word with both d. The low four bits of scale s are
// in byte s % 8 of the scales, the high two in byte 8 + s % 4.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 4u;

fn scales(i: u32) -> vec2<f32> {
    let group = i / 128u * 55u;
    let block = group + 48u + i / 64u % 2u * 3u;
    let s = i / 4u % 16u;
    let low = (weight[block + s / 4u % 2u] >> (s % 4u * 8u + s / 8u * 4u)) & 15u;
    let high = (weight[block + 2u] >> (s % 4u * 8u + s / 4u * 2u)) & 3u;
    let d = half_to_single(weight[group + 54u] >> (i / 64u % 2u * 16u));
    return vec2(d * f32(i32(low | (high << 4u)) - 32), 0.0);
}

// d (s − 32) (q − 4).
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let group = i / 128u * 55u;
    let half = i / 32u % 4u; // within the group, two per block
    let low = (weight[group + 16u + half * 8u + i % 8u] >> (i / 8u % 4u * 2u)) & 0x03030303u;
    let high = (weight[group + half / 2u * 8u + i % 8u] >> (i / 8u % 8u)) & 0x01010101u;
    return s.x * (four(low | (high << 2u)) - 4.0);
}
