//! use grid, activation

// The gate of a feed-forward layer (Shazeer 2020, "GLU variants"): y = activate(gate) · up. Gate and up are side by side in a row, as one
// product computes them.

override ACTIVATION: u32 = 0u;

struct Params {
    len: u32,     // rows · columns; both count Values
    columns: u32, // of y
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Value>; // (rows, 2 · columns): gate, then up

// forward
@group(0) @binding(2) var<storage, read_write> y: array<Value>; // (rows, columns)

// backward
@group(0) @binding(2) var<storage, read> dy: array<Value>;       // (rows, columns)
@group(0) @binding(3) var<storage, read_write> dx: array<Value>; // (rows, 2 · columns)

// The index of the gate of element i of y; its up is `columns` further on.
fn gate_of(i: u32) -> u32 {
    return i + i / params.columns * params.columns;
}

@compute @workgroup_size(FLAT)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.len) { return; }
    let gate = gate_of(i);
    y[i] = activate(ACTIVATION, x[gate]) * x[gate + params.columns];
}

// dgate = dy · up · activate'(gate), dup = dy · activate(gate)
@compute @workgroup_size(FLAT)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.len) { return; }
    let at = gate_of(i);
    let gate = x[at];
    let d = dy[i];
    dx[at] = d * x[at + params.columns] * derivative(ACTIVATION, gate);
    dx[at + params.columns] = d * activate(ACTIVATION, gate);
}
