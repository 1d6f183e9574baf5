//! use grid, value

// What stands for each sequence of a batch: its first token, its last that is not padding, or the mean of all that are not.

override POOLING: u32 = 0u; // 0: the first token, 1: the last, 2: the mean

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

struct Tokens {
    begin: u32,
    end: u32,
}

// The tokens that count.
fn pooled(sequence: u32) -> Tokens {
//! if POOLING
    let end = clamp(lengths[sequence], 1u, params.length);
    return Tokens(select(0u, end - 1u, POOLING == 1u), end);
//! else
    return Tokens(0u, 1u);
//! end
}

// y = Σ x / count, over the tokens that count
@compute @workgroup_size(FLAT)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.batch * params.columns) { return; }
    let sequence = i / params.columns;
    let tokens = pooled(sequence);
    var at = (sequence * params.length + tokens.begin) * params.columns + i % params.columns;
    var sum = x[at];
    for (var token = tokens.begin + 1u; token < tokens.end; token++) {
        at += params.columns;
        sum += x[at];
    }
    y[i] = sum / f32(tokens.end - tokens.begin);
}

// dx = dy / count at the tokens that count, else 0, + addend
@compute @workgroup_size(FLAT)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.batch * params.length * params.columns) { return; }
    let row = i / params.columns;
    let sequence = row / params.length;
    let token = row % params.length;
    let tokens = pooled(sequence);
    var v = Value(0.0);
    if (tokens.begin <= token && token < tokens.end) {
        v = dy[sequence * params.columns + i % params.columns] / f32(tokens.end - tokens.begin);
    }
    if (params.has_addend != 0u) { v += addend[i]; }
    dx[i] = v;
}
