//! use grid, value

// One token of each sequence of a batch: the first, or the last that is not padding.

override LAST: u32 = 0u; // 1: the last token

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

fn chosen(sequence: u32) -> u32 {
//! if LAST
    return clamp(lengths[sequence], 1u, params.length) - 1u;
//! else
    return 0u;
//! end
}

// y = x[sequence, chosen]
@compute @workgroup_size(FLAT)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.batch * params.columns) { return; }
    let sequence = i / params.columns;
    y[i] = x[(sequence * params.length + chosen(sequence)) * params.columns + i % params.columns];
}

// dx = dy at the chosen token, else 0, + addend
@compute @workgroup_size(FLAT)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.batch * params.length * params.columns) { return; }
    let row = i / params.columns;
    let sequence = row / params.length;
    var v = Value(0.0);
    if (row % params.length == chosen(sequence)) { v = dy[sequence * params.columns + i % params.columns]; }
    if (params.has_addend != 0u) { v += addend[i]; }
    dx[i] = v;
}
