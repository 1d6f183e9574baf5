//! use quant

// A frozen weight in Q4_1, a block of 32 elements in 5 words: scale and minimum, four words of numbers.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

// Elements 4i to 4i + 3: d q + m.
fn weight4(i: u32) -> vec4<f32> {
    let block = i / 8u * 5u;
    let scales = halves(weight[block]);
    let q = nibbles(weight[block + 1u + i % 4u], i & 4u);
    return scales.x * four(q) + scales.y;
}
