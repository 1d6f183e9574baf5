//! use quant

// A frozen weight in Q4_0, two blocks of 32 elements a group of 9 words: their scales, four words of numbers, four words of numbers.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

// Elements 4i to 4i + 3: d (q − 8).
fn weight4(i: u32) -> vec4<f32> {
    let group = i / 16u * 9u;
    let block = i / 8u % 2u;
    let d = half_to_single(weight[group] >> (block * 16u));
    let q = nibbles(weight[group + 1u + block * 4u + i % 4u], i & 4u);
    return d * (four(q) - 8.0);
}
