//! use quant

// A frozen weight in Q5_1, a block of 32 elements in 6 words: scale and minimum, fifth bits, four words of low bits.
@group(0) @binding(2) var<storage, read> weight: array<u32>;

// Elements 4i to 4i + 3: d q + m.
fn weight4(i: u32) -> vec4<f32> {
    let block = i / 8u * 6u;
    let scales = halves(weight[block]);
    let low = nibbles(weight[block + 2u + i % 4u], i & 4u);
    let q = low | fifth_bits(weight[block + 1u] >> (i % 8u * 4u));
    return scales.x * four(q) + scales.y;
}
