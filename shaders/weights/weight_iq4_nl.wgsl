//! use quant

// A frozen weight in IQ4_NL. Two blocks of 32 elements form a group of 9 words, as in Q4_0: both scales, then four words of values for each block.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 8u;

fn scales(i: u32) -> vec2<f32> {
    return vec2(half_to_single(weight[i / 16u * 9u] >> (i / 8u % 2u * 16u)), 0.0);
}

// d T(q).
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let q = nibbles(weight[i / 16u * 9u + 1u + i / 8u % 2u * 4u + i % 4u], i & 4u);
    return s.x * looked_up(q, IQ4);
}
