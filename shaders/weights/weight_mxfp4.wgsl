//! use quant

// A frozen weight in MXFP4. Two blocks of 32 elements form a group of 9 words: both exponents, each in half a word, then four words of values for each
// block.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 8u;

// 2^(e − 128), half of the format's scale, since the table has twice the values. The smallest two are subnormal, which a device may flush to zero.
fn scales(i: u32) -> vec2<f32> {
    let e = (weight[i / 16u * 9u] >> (i / 8u % 2u * 16u)) & 255u;
    return vec2(bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u)), 0.0);
}

// 2^(e − 128) T(q).
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let q = nibbles(weight[i / 16u * 9u + 1u + i / 8u % 2u * 4u + i % 4u], i & 4u);
    return s.x * looked_up(q, FP4);
}
