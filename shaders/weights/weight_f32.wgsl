// A frozen weight in f32: groups of four consecutive elements. The host pads the buffer to a multiple of 16 bytes.
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>; // (outputs, inputs) / 4

const SHARED: u32 = 1u; // no scales

// Elements 4i to 4i + 3.
fn weight4(i: u32) -> vec4<f32> {
    return weight[i];
}

// Element i.
fn weight1(i: u32) -> f32 {
    return weight[i / 4u][i % 4u];
}
