//! use adapter_params

// The gradients of all weights of a bottleneck adapter: dDown = dzᵀ · x, dUp = outerᵀ · activated, and their biases' Σ dz and Σ outer, where
// outer = dy · scaling · dropout.
//
// A workgroup owns a tile of 32 × 32 of one of the two matrices. Its slices of 64 threads share the tokens, 8 each at a time, and their parts are
// added in order. In a slice thread (column, row) owns 4 × 4 elements. Those in the first column of tiles add up the bias, too.

override BIASES: u32 = 1u;
const SLICES: u32 = 4u;
const THREADS: u32 = 64u * SLICES;
const TILE: u32 = 32u;

@group(0) @binding(5) var<storage, read_write> ddown_bias: array<f32>; // (bottleneck)
@group(0) @binding(6) var<storage, read_write> dup_bias: array<f32>;   // (hidden)
//! if ALIGNED
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;           // (rows, hidden / 4)
@group(0) @binding(2) var<storage, read> activated: array<vec4<f32>>;   // (rows, bottleneck / 4)
@group(0) @binding(3) var<storage, read> dy: array<vec4<f32>>;          // (rows, hidden / 4)
@group(0) @binding(4) var<storage, read> dz: array<vec4<f32>>;          // (rows, bottleneck / 4)
@group(0) @binding(7) var<storage, read_write> ddown: array<vec4<f32>>; // (bottleneck, hidden / 4)
@group(0) @binding(8) var<storage, read_write> dup: array<vec4<f32>>;   // (hidden, bottleneck / 4)
//! else
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> activated: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read> dz: array<f32>;
@group(0) @binding(7) var<storage, read_write> ddown: array<f32>;
@group(0) @binding(8) var<storage, read_write> dup: array<f32>;
//! end

// Elements 4i to 4i + 3 of a row, zero past its end and past the last row.
fn x_row(row: u32, i: u32) -> vec4<f32> {
//! if ALIGNED
    let fours = params.hidden / 4u;
    let v = x[min(row, params.rows - 1u) * fours + min(i, fours - 1u)];
    return select(vec4(0.0), v, row < params.rows && i < fours);
//! else
    var v = vec4(0.0);
    if (row >= params.rows) { return v; }
    for (var c = 0u; c < present(i, params.hidden); c++) { v[c] = x[row * params.hidden + 4u * i + c]; }
    return v;
//! end
}
fn activated_row(row: u32, i: u32) -> vec4<f32> {
//! if ALIGNED
    let fours = params.bottleneck / 4u;
    let v = activated[min(row, params.rows - 1u) * fours + min(i, fours - 1u)];
    return select(vec4(0.0), v, row < params.rows && i < fours);
//! else
    var v = vec4(0.0);
    if (row >= params.rows) { return v; }
    for (var c = 0u; c < present(i, params.bottleneck); c++) { v[c] = activated[row * params.bottleneck + 4u * i + c]; }
    return v;
//! end
}
fn dy_row(row: u32, i: u32) -> vec4<f32> {
//! if ALIGNED
    let fours = params.hidden / 4u;
    let v = dy[min(row, params.rows - 1u) * fours + min(i, fours - 1u)];
    return select(vec4(0.0), v, row < params.rows && i < fours);
//! else
    var v = vec4(0.0);
    if (row >= params.rows) { return v; }
    for (var c = 0u; c < present(i, params.hidden); c++) { v[c] = dy[row * params.hidden + 4u * i + c]; }
    return v;
//! end
}
fn dz_row(row: u32, i: u32) -> vec4<f32> {
//! if ALIGNED
    let fours = params.bottleneck / 4u;
    let v = dz[min(row, params.rows - 1u) * fours + min(i, fours - 1u)];
    return select(vec4(0.0), v, row < params.rows && i < fours);
//! else
    var v = vec4(0.0);
    if (row >= params.rows) { return v; }
    for (var c = 0u; c < present(i, params.bottleneck); c++) { v[c] = dz[row * params.bottleneck + 4u * i + c]; }
    return v;
//! end
}

fn outer_row(row: u32, i: u32) -> vec4<f32> {
    return dy_row(row, i) * branch_factor(row, 4u * i);
}

// Adds to elements 4i to 4i + 3 of a row of a gradient.
fn add_down(row: u32, i: u32, v: vec4<f32>) {
    let at = row * params.hidden + 4u * i;
//! if ALIGNED
    ddown[at / 4u] = ddown[at / 4u] + v;
//! else
    for (var c = 0u; c < present(i, params.hidden); c++) { ddown[at + c] = ddown[at + c] + v[c]; }
//! end
}
fn add_up(row: u32, i: u32, v: vec4<f32>) {
    let at = row * params.bottleneck + 4u * i;
//! if ALIGNED
    dup[at / 4u] = dup[at / 4u] + v;
//! else
    for (var c = 0u; c < present(i, params.bottleneck); c++) { dup[at + c] = dup[at + c] + v[c]; }
//! end
}

var<workgroup> left: array<vec4<f32>, THREADS>;  // (SLICES, 8, 8): eight tokens, 32 rows of the tile
var<workgroup> right: array<vec4<f32>, THREADS>; // the same for its columns

@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    // The tiles of dDown come first.
    let wide = (params.hidden + TILE - 1u) / TILE;
    let narrow = (params.bottleneck + TILE - 1u) / TILE;
    let is_up = group.x >= wide * narrow;
    var tile = vec2(group.x % wide, group.x / wide); // (column, row)
    if (is_up) { tile = vec2((group.x - wide * narrow) % narrow, (group.x - wide * narrow) / narrow); }

    let slice = thread / 64u;
    let lane = thread % 64u;
    let at = slice * 64u;
    let staged_token = lane / 8u;
    let staged_row = tile.y * 8u + lane % 8u;
    let staged_column = tile.x * 8u + lane % 8u;
    let sums_bias = BIASES != 0u && tile.x == 0u;

    var sum: array<vec4<f32>, 4>; // rows 4 · (lane / 8) + r of the tile, columns 4 · (lane % 8) to 4 · (lane % 8) + 3
    @unroll for (var r = 0u; r < 4u; r++) { sum[r] = vec4(0.0); }
    var bias = vec4(0.0);
    let steps = (params.rows + 8u * SLICES - 1u) / (8u * SLICES);
    for (var step = 0u; step <= steps; step++) {
        let token = (step * SLICES + slice) * 8u + staged_token;
        var a = vec4(0.0);
        var b = vec4(0.0);
        if (is_up) {
            a = outer_row(token, staged_row);
            b = activated_row(token, staged_column);
        } else {
            a = dz_row(token, staged_row);
            b = x_row(token, staged_column);
        }
        if (step > 0u) {
            @unroll for (var k = 0u; k < 8u; k++) {
                let rows = left[at + 8u * k + lane / 8u];
                let columns = right[at + 8u * k + lane % 8u];
                @unroll for (var r = 0u; r < 4u; r++) { sum[r] += rows[r] * columns; }
                if (sums_bias) { bias += rows; }
            }
        }
        workgroupBarrier();
        left[thread] = a;
        right[thread] = b;
        workgroupBarrier();
    }

    // The first slice adds those of the others in their order.
    for (var s = 1u; s < SLICES; s++) {
        workgroupBarrier();
        if (slice == s) {
            @unroll for (var r = 0u; r < 4u; r++) { left[64u * r + lane] = sum[r]; }
            right[lane] = bias;
        }
        workgroupBarrier();
        if (slice == 0u) {
            @unroll for (var r = 0u; r < 4u; r++) { sum[r] += left[64u * r + lane]; }
            bias += right[lane];
        }
    }
    if (slice != 0u) { return; }
    let row = tile.y * TILE + lane / 8u * 4u;
    let four = tile.x * 8u + lane % 8u;
    for (var r = 0u; r < 4u; r++) {
        if (is_up) {
            if (row + r < params.hidden && 4u * four < params.bottleneck) { add_up(row + r, four, sum[r]); }
        } else {
            if (row + r < params.bottleneck && 4u * four < params.hidden) { add_down(row + r, four, sum[r]); }
        }
    }
//! if BIASES
    if (sums_bias && lane % 8u == 0u) {
        @unroll for (var r = 0u; r < 4u; r++) {
            if (is_up) {
                if (row + r < params.hidden) { dup_bias[row + r] = dup_bias[row + r] + bias[r]; }
            } else {
                if (row + r < params.bottleneck) { ddown_bias[row + r] = ddown_bias[row + r] + bias[r]; }
            }
        }
    }
//! end
}
