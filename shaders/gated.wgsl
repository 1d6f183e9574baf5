//! use grid, activation

// The gate of a feed-forward layer (Shazeer 2020, "GLU variants"): y = activate(gate) · up. Gate and up lie side by side in a row, as one
// product gives them.

override ACTIVATION: u32 = 0u;

struct Params {
    len: u32,     // rows · columns
    columns: u32, // of y
    has_addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;        // (rows, 2 · columns): gate, then up

// forward
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // (rows, columns)

// backward
@group(0) @binding(2) var<storage, read> dy: array<f32>;       // (rows, columns)
@group(0) @binding(3) var<storage, read> addend: array<f32>;   // (rows, 2 · columns)
@group(0) @binding(4) var<storage, read_write> dx: array<f32>; // (rows, 2 · columns)

// Where the gate of element i of y lies; its up is `columns` further.
fn gate_of(i: u32) -> u32 {
    return i + i / params.columns * params.columns;
}

@compute @workgroup_size(FLAT)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_index(group, groups, lane);
    if (i >= params.len) { return; }
    let gate = gate_of(i);
    y[i] = activate(ACTIVATION, x[gate]) * x[gate + params.columns];
}

// dgate = dy · up · activate'(gate) + addend, dup = dy · activate(gate) + addend
@compute @workgroup_size(FLAT)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_index(group, groups, lane);
    if (i >= params.len) { return; }
    let gate = gate_of(i);
    let up = gate + params.columns;
    var dgate = dy[i] * x[up] * derivative(ACTIVATION, x[gate]);
    var dup = dy[i] * activate(ACTIVATION, x[gate]);
    if (params.has_addend != 0u) {
        dgate += addend[gate];
        dup += addend[up];
    }
    dx[gate] = dgate;
    dx[up] = dup;
}
