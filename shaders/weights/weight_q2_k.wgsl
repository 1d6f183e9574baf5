//! use quant

// A frozen weight in Q2_K. A block of 256 elements occupies 21 words: 4 of scales, each byte a scale and its minimum, for 16 sub-blocks; 16 of values;
// d and dmin. Half a block, 128 elements, has 8 words of values, where each byte holds two bits for each of the elements i, i + 32, i + 64 and i + 96.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

const SHARED: u32 = 4u;

fn scales(i: u32) -> vec2<f32> {
    let block = i / 64u * 21u;
    let both = weight[block + i / 16u % 4u] >> (i / 4u % 4u * 8u);
    return halves(weight[block + 20u]) * vec2<f32>(vec2<i32>((vec2(both) >> vec2(0u, 4u)) & vec2(15u)));
}

// d s q − dmin t.
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let q = weight[i / 64u * 21u + 4u + i / 32u % 2u * 8u + i % 8u] >> (i / 8u % 4u * 2u);
    return s.x * four(q & 0x03030303u) - s.y;
}
