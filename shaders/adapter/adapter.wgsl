//! use activation, random

// The bottleneck adapter (Houlsby 2019), fused: y = x + scaling · dropout(Up · σ(Down · x + b_down) + b_up), and its gradient with respect
// to the input. A workgroup owns TOKENS tokens. Its first product, TOKENS × bottleneck, stays in workgroup memory for the second.
//
// An invocation owns OWN_TOKENS tokens × 4 columns of each product. The code after a product loops over the 4 columns and is not unrolled:
// with an activation or a dropout mask for each, it would take the driver longer to compile than everything else.

override BOTTLENECK: u32 = 64u;  // a multiple of 4: the bottleneck rounded up
override ALIGNED: u32 = 1u;      // hidden and bottleneck are multiples of 4, so rows can be loaded as vectors
override ACROSS: u32 = 16u;       // invocations side by side, 4 columns each
override OWN_TOKENS: u32 = 4u;          // tokens per invocation
override DOWN: u32 = 4u;       // groups of OWN_TOKENS tokens in a workgroup
override ACTIVATION: u32 = 0u;
override DROPOUT: u32 = 0u;
override WITH_INPUT_GRADIENT: u32 = 1u;  // 0: nothing before the adapter needs one, so only the narrow gradient is computed
override WITH_OUTER_GRADIENT: u32 = 0u;  // 1: dy · scaling · dropout is stored for the weight gradients
const TOKENS: u32 = OWN_TOKENS * DOWN;

struct Params {
    rows: u32,
    hidden: u32,
    bottleneck: u32,
    scaling: f32,
    threshold: u32,   // dropout: the share to drop, in units of 2^-32
    keep_scale: f32,  // dropout: 1 / (1 - share)
    site: u32,
    has_biases: u32,
    has_addend: u32,
    first: u32,       // the first workgroup of this dispatch, if several dispatches share them
}

@group(0) @binding(0) var<uniform> params: Params;

// forward
@group(0) @binding(2) var<storage, read> down_bias: array<f32>;          // (bottleneck)
@group(0) @binding(5) var<storage, read> up_bias: array<f32>;            // (hidden)
@group(0) @binding(6) var<storage, read_write> z: array<f32>;            // (rows, bottleneck): before the activation
@group(0) @binding(7) var<storage, read_write> y: array<f32>;            // (rows, hidden)

// backward; WITH_OUTER_GRADIENT and WITH_INPUT_GRADIENT decide which of them exist
@group(0) @binding(2) var<storage, read> kept_z: array<f32>;             // (rows, bottleneck)
@group(0) @binding(5) var<storage, read> addend: array<f32>;             // (rows, hidden)
@group(0) @binding(6) var<storage, read_write> dz: array<f32>;           // (rows, bottleneck)
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;           // (rows, hidden)
@group(0) @binding(8) var<storage, read_write> outer: array<f32>;        // (rows, hidden): dy · scaling · dropout

//! if ALIGNED
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;            // forward: x; backward: dy (rows, hidden / 4)
@group(0) @binding(3) var<storage, read> down: array<vec4<f32>>;         // (bottleneck, hidden / 4)
@group(0) @binding(4) var<storage, read> up: array<vec4<f32>>;           // (hidden, bottleneck / 4)

// Elements 4i to 4i + 3 of a row. Past the end, the last ones are read and their results are not written.
fn x_row(row: u32, i: u32) -> vec4<f32> {
    return x[min(row, params.rows - 1u) * (params.hidden / 4u) + i];
}
fn down_row(row: u32, i: u32) -> vec4<f32> {
    return down[min(row, params.bottleneck - 1u) * (params.hidden / 4u) + min(i, params.hidden / 4u - 1u)];
}
fn up_row(row: u32, i: u32) -> vec4<f32> {
    return up[min(row, params.hidden - 1u) * (params.bottleneck / 4u) + min(i, params.bottleneck / 4u - 1u)];
}
//! else
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> down: array<f32>;
@group(0) @binding(4) var<storage, read> up: array<f32>;

// Element by element. Elements past the end are zero; rows of x past the end repeat the last one.
fn x_row(row: u32, i: u32) -> vec4<f32> {
    var v = vec4(0.0);
    @unroll for (var c = 0u; c < 4u; c++) {
        if (4u * i + c < params.hidden) { v[c] = x[min(row, params.rows - 1u) * params.hidden + 4u * i + c]; }
    }
    return v;
}
fn down_row(row: u32, i: u32) -> vec4<f32> {
    var v = vec4(0.0);
    @unroll for (var c = 0u; c < 4u; c++) {
        if (row < params.bottleneck && 4u * i + c < params.hidden) { v[c] = down[row * params.hidden + 4u * i + c]; }
    }
    return v;
}
fn up_row(row: u32, i: u32) -> vec4<f32> {
    var v = vec4(0.0);
    @unroll for (var c = 0u; c < 4u; c++) {
        if (row < params.hidden && 4u * i + c < params.bottleneck) { v[c] = up[row * params.bottleneck + 4u * i + c]; }
    }
    return v;
}
//! end

fn x_at(row: u32, column: u32) -> f32 {
//! if ALIGNED
    return x[(row * params.hidden + column) / 4u][column % 4u];
//! else
    return x[row * params.hidden + column];
//! end
}

// The narrow product of the workgroup's tokens.
var<workgroup> narrow: array<f32, TOKENS * BOTTLENECK>;

fn narrow_row(token: u32, i: u32) -> vec4<f32> {
    let at = token * BOTTLENECK + 4u * i;
    return vec4(narrow[at], narrow[at + 1u], narrow[at + 2u], narrow[at + 3u]);
}

// scaling · dropout of one element of the branch
fn branch_factor(row: u32, column: u32) -> f32 {
    var factor = params.scaling;
    if (DROPOUT != 0u) { factor *= dropout_factor(row, column, params.site, params.threshold, params.keep_scale); }
    return factor;
}

// Four elements of dy · scaling · dropout.
fn outer_row(row: u32, i: u32) -> vec4<f32> {
    var v = x_row(row, i);
    @unroll for (var c = 0u; c < 4u; c++) { v[c] *= branch_factor(row, 4u * i + c); }
    return v;
}

@compute @workgroup_size(ACROSS, DOWN)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let lane = local.x;
    let token = local.y * OWN_TOKENS;
    let first = group.x * TOKENS + token;

    for (var start = 0u; start < BOTTLENECK; start += 4u * ACROSS) {
        let column = start + 4u * lane;
        var acc: array<vec4<f32>, OWN_TOKENS>;
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) { acc[t] = vec4(0.0); }
        for (var k = 0u; 4u * k < params.hidden; k++) {
            let w0 = down_row(column, k);
            let w1 = down_row(column + 1u, k);
            let w2 = down_row(column + 2u, k);
            let w3 = down_row(column + 3u, k);
            @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
                let a = x_row(first + t, k);
                acc[t] += vec4(dot(a, w0), dot(a, w1), dot(a, w2), dot(a, w3));
            }
        }
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
            for (var c = 0u; c < 4u; c++) {
                if (column + c < BOTTLENECK) {
                    var v = 0.0;
                    if (column + c < params.bottleneck) {
                        v = acc[t][c];
                        if (params.has_biases != 0u) { v += down_bias[column + c]; }
                        if (first + t < params.rows) { z[(first + t) * params.bottleneck + column + c] = v; }
                        v = activate(ACTIVATION, v);
                    }
                    narrow[(token + t) * BOTTLENECK + column + c] = v;
                }
            }
        }
    }
    workgroupBarrier();

    for (var start = 0u; start < params.hidden; start += 4u * ACROSS) {
        let column = start + 4u * lane;
        var acc: array<vec4<f32>, OWN_TOKENS>;
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) { acc[t] = vec4(0.0); }
        for (var k = 0u; k < BOTTLENECK / 4u; k++) {
            let w0 = up_row(column, k);
            let w1 = up_row(column + 1u, k);
            let w2 = up_row(column + 2u, k);
            let w3 = up_row(column + 3u, k);
            @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
                let a = narrow_row(token + t, k);
                acc[t] += vec4(dot(a, w0), dot(a, w1), dot(a, w2), dot(a, w3));
            }
        }
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
            let row = first + t;
            for (var c = 0u; c < 4u; c++) {
                if (row < params.rows && column + c < params.hidden) {
                    var v = acc[t][c];
                    if (params.has_biases != 0u) { v += up_bias[column + c]; }
                    y[row * params.hidden + column + c] = x_at(row, column + c) + v * branch_factor(row, column + c);
                }
            }
        }
    }
}

// outer = dy · scaling · dropout; dz = (outer · Up) · σ'(z); dx = dy + dz · Down + addend
@compute @workgroup_size(ACROSS, DOWN)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let lane = local.x;
    let token = local.y * OWN_TOKENS;
    let first = group.x * TOKENS + token;

    for (var start = 0u; start < BOTTLENECK; start += 4u * ACROSS) {
        let column = start + 4u * lane;
        var acc: array<vec4<f32>, OWN_TOKENS>;
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) { acc[t] = vec4(0.0); }
        for (var k = 0u; 4u * k < params.hidden; k++) {
            let w0 = up_row(4u * k, column / 4u);
            let w1 = up_row(4u * k + 1u, column / 4u);
            let w2 = up_row(4u * k + 2u, column / 4u);
            let w3 = up_row(4u * k + 3u, column / 4u);
            @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
                let a = outer_row(first + t, k);
                acc[t] += a.x * w0 + a.y * w1 + (a.z * w2 + a.w * w3);
            }
        }
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
            for (var c = 0u; c < 4u; c++) {
                if (column + c < BOTTLENECK) {
                    var v = 0.0;
                    if (first + t < params.rows && column + c < params.bottleneck) {
                        let i = (first + t) * params.bottleneck + column + c;
                        v = acc[t][c] * derivative(ACTIVATION, kept_z[i]);
                        dz[i] = v;
                    }
                    narrow[(token + t) * BOTTLENECK + column + c] = v;
                }
            }
        }
    }
//! if WITH_OUTER_GRADIENT
    for (var i = lane; i < params.hidden; i += ACROSS) {
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
            let row = first + t;
            if (row < params.rows) { outer[row * params.hidden + i] = x_at(row, i) * branch_factor(row, i); }
        }
    }
//! end
//! if WITH_INPUT_GRADIENT
    workgroupBarrier();

    for (var start = 0u; start < params.hidden; start += 4u * ACROSS) {
        let column = start + 4u * lane;
        var acc: array<vec4<f32>, OWN_TOKENS>;
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) { acc[t] = vec4(0.0); }
        for (var k = 0u; k < BOTTLENECK / 4u; k++) {
            let w0 = down_row(4u * k, column / 4u);
            let w1 = down_row(4u * k + 1u, column / 4u);
            let w2 = down_row(4u * k + 2u, column / 4u);
            let w3 = down_row(4u * k + 3u, column / 4u);
            @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
                let a = narrow_row(token + t, k);
                acc[t] += a.x * w0 + a.y * w1 + (a.z * w2 + a.w * w3);
            }
        }
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
            let row = first + t;
            for (var c = 0u; c < 4u; c++) {
                if (row < params.rows && column + c < params.hidden) {
                    let i = row * params.hidden + column + c;
                    var v = acc[t][c] + x_at(row, column + c);
                    if (params.has_addend != 0u) { v += addend[i]; }
                    dx[i] = v;
                }
            }
        }
    }
//! end
}
