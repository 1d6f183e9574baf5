// A frozen weight in f16: groups of four consecutive elements, two per word, the first in the low half. Decoded without
// SHADER_F16. The host pads the buffer to a multiple of 16 bytes.
@group(0) @binding(2) var<storage, read> weight: array<vec2<u32>>; // (outputs, inputs) / 4

const SHARED: u32 = 1u; // no scales

// Elements 4i to 4i + 3.
fn weight4(i: u32) -> vec4<f32> {
    let bits = weight[i];
    return vec4(unpack2x16float(bits.x), unpack2x16float(bits.y));
}

// Element i.
fn weight1(i: u32) -> f32 {
    let pair = unpack2x16float(weight[i / 4u][i / 2u % 2u]);
    return select(pair.x, pair.y, i % 2u == 1u);
}
