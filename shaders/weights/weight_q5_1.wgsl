//! use quant

// A frozen weight in Q5_1. A block of 32 elements occupies 6 words: scale and minimum, fifth bits, then four words of low bits.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 8u;

fn scales(i: u32) -> vec2<f32> {
    return halves(weight[i / 8u * 6u]);
}

// d q + m.
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let block = i / 8u * 6u;
    let low = nibbles(weight[block + 2u + i % 4u], i & 4u);
    let q = low | fifth_bits(weight[block + 1u] >> (i % 8u * 4u));
    return s.x * four(q) + s.y;
}
