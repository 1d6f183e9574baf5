//! use grid, value

// The halves of rows, for coupling layers (Dinh et al. 2015, "NICE").

struct Params {
    len: u32,     // of y, in Values, as are columns and shift
    columns: u32, // of a half
    shift: u32,   // where the half begins in a row: 0 or columns
    sign: f32,
    has_addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// take
@group(0) @binding(1) var<storage, read> x: array<Value>;       // (rows, 2 · columns)
@group(0) @binding(2) var<storage, read> addend: array<Value>;  // (rows, columns)
@group(0) @binding(3) var<storage, read_write> y: array<Value>; // (rows, columns)

// put
@group(0) @binding(1) var<storage, read> half: array<Value>;    // (rows, columns)
@group(0) @binding(2) var<storage, read> addend: array<Value>;  // (rows, 2 · columns)
@group(0) @binding(3) var<storage, read_write> y: array<Value>; // (rows, 2 · columns)

// y = sign · half of x + addend
@compute @workgroup_size(FLAT)
fn take(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.len) { return; }
    var v = x[i + i / params.columns * params.columns + params.shift] * params.sign;
    if (params.has_addend != 0u) { v += addend[i]; }
    y[i] = v;
}

// y = addend, and in one half + sign · half
@compute @workgroup_size(FLAT)
fn put(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.len) { return; }
    let width = 2u * params.columns;
    let column = i % width - params.shift; // wraps around before the half
    var v = Value();
    if (params.has_addend != 0u) { v = addend[i]; }
    if (column < params.columns) { v += half[i / width * params.columns + column] * params.sign; }
    y[i] = v;
}
