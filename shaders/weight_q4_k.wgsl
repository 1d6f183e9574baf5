//! use quant

// A frozen weight in Q4_K, a block of 256 elements in 9 vectors of 4 words: scales and minima of 8 sub-blocks, and 8 vectors of numbers,
// of which two are a sub-block in their low bits and the next in their high ones.
@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>;

// Elements 4i to 4i + 3: d s q − dmin t.
fn weight4(i: u32) -> vec4<f32> {
    let block = i / 64u * 9u;
    let sub = i / 8u % 8u;
    let scales = scale_and_min(weight[block], sub);
    let q = nibbles(weight[block + 1u + sub / 2u * 2u + i / 4u % 2u][i % 4u], sub % 2u * 4u);
    return scales.x * four(q) - scales.y;
}
