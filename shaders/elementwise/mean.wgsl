//! use grid, value

// The mean over the tokens of each sequence of a batch that are not padding.

struct Params {
    batch: u32,
    length: u32,
    columns: u32, // in Values
    has_addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> lengths: array<u32>;    // (batch)
@group(0) @binding(2) var<storage, read> x: array<Value>;        // (batch, length, columns)
@group(0) @binding(2) var<storage, read> dy: array<Value>;       // (batch, columns)
@group(0) @binding(3) var<storage, read> addend: array<Value>;   // (batch, length, columns)
@group(0) @binding(4) var<storage, read_write> y: array<Value>;  // (batch, columns)
@group(0) @binding(4) var<storage, read_write> dx: array<Value>; // (batch, length, columns)

fn tokens(sequence: u32) -> u32 {
    return clamp(lengths[sequence], 1u, params.length);
}

// y = Σ x / tokens
@compute @workgroup_size(FLAT)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.batch * params.columns) { return; }
    let sequence = i / params.columns;
    let count = tokens(sequence);
    var at = sequence * params.length * params.columns + i % params.columns;
    var sum = Value(0.0);
    for (var token = 0u; token < count; token++) {
        sum += x[at];
        at += params.columns;
    }
    y[i] = sum / f32(count);
}

// dx = dy / tokens at the tokens, 0 in the padding, + addend
@compute @workgroup_size(FLAT)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.batch * params.length * params.columns) { return; }
    let row = i / params.columns;
    let sequence = row / params.length;
    let count = tokens(sequence);
    var v = Value(0.0);
    if (row % params.length < count) { v = dy[sequence * params.columns + i % params.columns] / f32(count); }
    if (params.has_addend != 0u) { v += addend[i]; }
    dx[i] = v;
}
