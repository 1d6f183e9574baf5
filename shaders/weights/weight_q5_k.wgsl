//! use quant

// A frozen weight in Q5_K. A block of 256 elements occupies 11 vectors of 4 words: scales and minima of 8 sub-blocks, 2 vectors of fifth bits
// (bit s of each byte belongs to sub-block s), then 8 vectors of low bits, laid out as in Q4_K.
@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>;

const SHARED: u32 = 8u;

fn scales(i: u32) -> vec2<f32> {
    return scale_and_min(weight[i / 64u * 11u], i / 8u % 8u);
}

// d s q − dmin t.
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let block = i / 64u * 11u;
    let sub = i / 8u % 8u;
    let fifth = weight[block + 1u + i / 4u % 2u][i % 4u] >> sub;
    let low = nibbles(weight[block + 3u + sub / 2u * 2u + i / 4u % 2u][i % 4u], sub % 2u * 4u);
    let q = low | ((fifth & 0x01010101u) << 4u);
    return s.x * four(q) - s.y;
}
