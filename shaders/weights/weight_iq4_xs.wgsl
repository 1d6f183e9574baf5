//! use quant

// A frozen weight in IQ4_XS. A block of 256 elements occupies 34 words: d and, in the high half, two bits of each of the 8 scales; the low four bits of
// each; then four words of values for each sub-block of 32 elements.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 8u;

fn scales(i: u32) -> vec2<f32> {
    let block = i / 64u * 34u;
    let sub = i / 8u % 8u;
    let low = (weight[block + 1u] >> (sub * 4u)) & 15u;
    let high = (weight[block] >> (16u + sub * 2u)) & 3u;
    return vec2(half_to_single(weight[block]) * f32(i32(low | (high << 4u)) - 32), 0.0);
}

// d (s − 32) T(q).
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let q = nibbles(weight[i / 64u * 34u + 2u + i / 8u % 8u * 4u + i % 4u], i & 4u);
    return s.x * looked_up(q, IQ4);
}
