//! use quant

// A frozen weight in Q4_K. A block of 256 elements occupies 9 vectors of 4 words: scales and minima of 8 sub-blocks, then 8 vectors of
// values. Each pair of those holds one sub-block in its low nibbles and the next sub-block in its high nibbles.
@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>;

const SHARED: u32 = 8u;

fn scales(i: u32) -> vec2<f32> {
    return scale_and_min(weight[i / 64u * 9u], i / 8u % 8u);
}

// d s q − dmin t.
fn scaled(i: u32, s: vec2<f32>) -> vec4<f32> {
    let sub = i / 8u % 8u;
    let q = nibbles(weight[i / 64u * 9u + 1u + sub / 2u * 2u + i / 4u % 2u][i % 4u], sub % 2u * 4u);
    return s.x * four(q) - s.y;
}
