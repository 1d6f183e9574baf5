//! use grid, activation, random

// Elementwise operations: activations, dropout, and the sum of two tensors.

override ACTIVATION: u32 = 0u;
override WHOLE: u32 = 0u; // 1: dropout drops whole rows

struct Params {
    len: u32,       // in Values, as is columns
    columns: u32,
    threshold: u32, // dropout: the share to drop, in units of 2^-32
    scale: f32,     // dropout: 1 / (1 - share)
    site: u32,
    has_addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Value>;       // (len)
@group(0) @binding(2) var<storage, read> dy: array<Value>;      // (len)
@group(0) @binding(3) var<storage, read> addend: array<Value>;  // (len)
@group(0) @binding(4) var<storage, read_write> y: array<Value>; // (len)

// y = activate(x)
@compute @workgroup_size(FLAT)
fn activation(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i < params.len) {
        y[i] = activate(ACTIVATION, x[i]);
    }
}

// y = dy · activate'(x)
@compute @workgroup_size(FLAT)
fn activation_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i < params.len) {
        y[i] = dy[i] * derivative(ACTIVATION, x[i]);
    }
}

fn factor(row: u32, column: u32) -> f32 {
    return dropout_factor(row, column, params.site, params.threshold, params.scale);
}

// y = x · mask / (1 - p) + addend: dropout and its own gradient
@compute @workgroup_size(FLAT)
fn dropout(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i < params.len) {
        let row = i / params.columns;
        let column = select(i % params.columns * VECTOR, 0u, WHOLE == 1u);
//! if VECTOR - 1u
        let next = select(1u, 0u, WHOLE == 1u);
        var v = x[i] * vec4(factor(row, column), factor(row, column + next), factor(row, column + 2u * next), factor(row, column + 3u * next));
//! else
        var v = x[i] * factor(row, column);
//! end
        if (params.has_addend != 0u) { v += addend[i]; }
        y[i] = v;
    }
}

// y = x + addend
@compute @workgroup_size(FLAT)
fn add(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i < params.len) {
        y[i] = x[i] + addend[i];
    }
}
