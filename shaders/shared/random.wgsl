//! use step

// Counter-based dropout masks: a hash of (column, row, site in the model and batch, seed), so that the backward pass recomputes the same
// mask and a resumed run repeats it. The hash is pcg4d from M. Jarzynski and M. Olano, "Hash Functions for GPU Rendering", JCGT 2020.
fn pcg4d(seed: vec4<u32>) -> vec4<u32> {
    var v = seed * 1664525u + 1013904223u;
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v ^= v >> vec4(16u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}

// 1 / (1 - p) if the element is kept, 0 if it is dropped. `threshold` is p in units of 2^-32.
fn dropout_factor(row: u32, column: u32, site: u32, threshold: u32, scale: f32) -> f32 {
    let bits = pcg4d(vec4(column, row, site ^ (step_values.counter * 0x9E3779B9u), step_values.seed)).x;
    return select(0.0, scale, bits >= threshold);
}
