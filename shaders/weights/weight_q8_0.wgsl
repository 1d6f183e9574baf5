//! use quant

// A frozen weight in Q8_0. Two blocks of 32 elements form a group of 17 words: both scales, then eight words of values for each block.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 8u;

fn scales(i: u32) -> vec2<f32> {
    return vec2(half_to_single(weight[i / 16u * 17u] >> (i / 8u % 2u * 16u)), 0.0);
}

// d q.
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    return s.x * four(weight[i / 16u * 17u + 1u + i % 16u]);
}
