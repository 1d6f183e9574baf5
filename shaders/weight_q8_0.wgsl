//! use quant

// A frozen weight in Q8_0, two blocks of 32 elements a group of 17 words: their scales, eight words of numbers, eight words of numbers.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

// Elements 4i to 4i + 3: d q.
fn weight4(i: u32) -> vec4<f32> {
    let group = i / 16u * 17u;
    let d = half_to_single(weight[group] >> (i / 8u % 2u * 16u));
    return d * four(weight[group + 1u + i % 16u]);
}
