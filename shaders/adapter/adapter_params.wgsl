//! use random

// What adapter.wgsl and adapter_weights.wgsl share.

override ALIGNED: u32 = 1u; // hidden and bottleneck are multiples of 4, so rows can be loaded as vectors
override DROPOUT: u32 = 0u;

struct Params {
    rows: u32,
    hidden: u32,
    bottleneck: u32,
    columns: u32,     // of the wide product that a workgroup of adapter.wgsl computes, a multiple of COLUMNS
    scaling: f32,
    threshold: u32,   // dropout: the share to drop, in units of 2^-32
    keep_scale: f32,  // dropout: 1 / (1 - share)
    site: u32,
    has_biases: u32,
    has_addend: u32,
    first: u32,       // the first workgroup of this dispatch, if several dispatches share them
}

@group(0) @binding(0) var<uniform> params: Params;

// scaling · dropout of four elements of the branch
fn branch_factor(row: u32, column: u32) -> vec4<f32> {
    var factor = vec4(params.scaling);
//! if DROPOUT
    @unroll for (var c = 0u; c < 4u; c++) {
        factor[c] *= dropout_factor(row, column + c, params.site, params.threshold, params.keep_scale);
    }
//! end
    return factor;
}

// How many of the elements 4i to 4i + 3 there are in a row of n.
fn present(i: u32, n: u32) -> u32 {
    return min(4u, n - min(4u * i, n));
}
