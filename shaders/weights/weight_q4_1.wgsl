//! use quant

// A frozen weight in Q4_1. A block of 32 elements occupies 5 words: scale and minimum, then four words of values.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 8u;

fn scales(i: u32) -> vec2<f32> {
    return halves(weight[i / 8u * 5u]);
}

// d q + m.
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let q = nibbles(weight[i / 8u * 5u + 1u + i % 4u], i & 4u);
    return s.x * four(q) + s.y;
}
