//! use grid, step, metrics

// The gradient of factor / 2 · ‖I - W‖² for a square matrix W, in the scale of the other gradients.

struct Params {
    len: u32, // size · size
    size: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> w: array<f32>;               // (size, size)
@group(0) @binding(2) var<storage, read> metrics: Metrics;
@group(0) @binding(3) var<storage, read_write> gradient: array<f32>; // (size, size)

// gradient += factor · (W - I)
@compute @workgroup_size(FLAT)
fn pull(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.len) { return; }
    let identity = select(0.0, 1.0, i / params.size == i % params.size);
    let before = gradient[i];
    gradient[i] = before + params.factor * (w[i] - identity) * step_values.backward_scale * metrics.loss_scale;
}
