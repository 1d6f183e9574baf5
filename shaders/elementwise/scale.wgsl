//! use grid, value

// Multiplication by a factor: a constant, or a learned one for all elements (columns = 1) or for each column.

override LEARNED: u32 = 1u; // 0: the factor is a constant

struct Params {
    len: u32,     // in Values, as is columns
    columns: u32,
    has_addend: u32,
    constant: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Value>;       // (len)
@group(0) @binding(2) var<storage, read> factor: array<Value>;  // (columns)
@group(0) @binding(3) var<storage, read> addend: array<Value>;  // (len)
@group(0) @binding(2) var<storage, read> dy: array<Value>;      // (len)
@group(0) @binding(4) var<storage, read_write> y: array<Value>; // (len)

// y = x · factor + addend: the scaling, and its gradient with respect to x
@compute @workgroup_size(FLAT)
fn scale(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i < params.len) {
//! if LEARNED
        var v = x[i] * factor[i % params.columns];
//! else
        var v = x[i] * params.constant;
//! end
        if (params.has_addend != 0u) { v += addend[i]; }
        y[i] = v;
    }
}

// y = x · dy, whose column sums are the gradient of the factor
@compute @workgroup_size(FLAT)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i < params.len) {
        y[i] = x[i] * dy[i];
    }
}
