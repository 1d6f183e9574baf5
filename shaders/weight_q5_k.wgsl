//! use quant

// A frozen weight in Q5_K, a block of 256 elements in 11 vectors of 4 words: scales and minima of 8 sub-blocks, 2 vectors of fifth bits, of
// which bit s of each byte belongs to sub-block s, and 8 vectors of low bits as in Q4_K.
@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>;

// Elements 4i to 4i + 3: d s q − dmin t.
fn weight4(i: u32) -> vec4<f32> {
    let block = i / 64u * 11u;
    let sub = i / 8u % 8u;
    let scales = scale_and_min(weight[block], sub);
    let fifth = weight[block + 1u + i / 4u % 2u][i % 4u] >> sub;
    let low = nibbles(weight[block + 3u + sub / 2u * 2u + i / 4u % 2u][i % 4u], sub % 2u * 4u);
    let q = low | ((fifth & 0x01010101u) << 4u);
    return scales.x * four(q) - scales.y;
}
