// A frozen weight in bf16, the upper half of an f32: groups of four consecutive elements, two per word, the first in the low
// half. The host pads the buffer to a multiple of 16 bytes.
@group(0) @binding(2) var<storage, read> weight: array<vec2<u32>>; // (outputs, inputs) / 4

const SHARED: u32 = 1u; // no scales

// Elements 4i to 4i + 3.
fn weight4(i: u32) -> vec4<f32> {
    let bits = weight[i];
    return bitcast<vec4<f32>>(vec4(bits.x << 16u, bits.x & 0xffff0000u, bits.y << 16u, bits.y & 0xffff0000u));
}

// Element i.
fn weight1(i: u32) -> f32 {
    let bits = weight[i / 4u][i / 2u % 2u];
    return bitcast<f32>(select(bits << 16u, bits & 0xffff0000u, i % 2u == 1u));
}
