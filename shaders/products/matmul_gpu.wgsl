//! use weight_{FORMAT}, epilogue_{EPILOGUE}, matmul_params

// A linear layer and its gradients for GPUs. Needs inputs, stride and column to be multiples of 4, and only zeros or
// nothing between outputs and the next multiple of 4.
//
// 256 threads own a square tile of the output and walk along the contraction in steps of DEPTH: they load a strip of each operand into
// workgroup memory, one vec4 per thread, and each thread multiplies its own rows by its own columns. There are two copies of that memory,
// so that a step is loaded while the previous one is multiplied, with one barrier between them. An operand keeps the vectors that it has in
// memory: four elements along the contraction, or four rows or columns side by side. Writing parts of a vector from several threads would
// be a race, since a store to one component may touch the whole vector (WGSL, "memory locations").
// Nothing past the end is read or written: the contraction is padded with zeros, and rows and columns past the end repeat the last one.

override ACCUMULATE: u32 = 0u; // 1: weight_gradient adds to dw instead of writing it
// Groups of four rows and of four columns that a thread owns: 1 for tiles of 64 × 64, 2 for tiles of 128 × 128.
override QUADS: u32 = 1u;

const TILE: u32 = 64u * QUADS;
const WIDTH: u32 = 16u * QUADS; // vec4 in one row or column of a tile
const DEPTH: u32 = 16u / QUADS;
const COPY: u32 = DEPTH * WIDTH; // vec4 in one copy of a strip, one per thread
const OWN_ROWS: u32 = 4u * QUADS; // rows that a thread owns

// The part of the output matrix that one workgroup covers.
const FORWARD_ROWS: u32 = TILE;
const FORWARD_COLUMNS: u32 = TILE;
const INPUT_GRADIENT_ROWS: u32 = TILE;
const INPUT_GRADIENT_COLUMNS: u32 = TILE;
const WEIGHT_GRADIENT_ROWS: u32 = TILE;
const WEIGHT_GRADIENT_COLUMNS: u32 = TILE;

// forward
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // (rows, inputs / 4)
@group(0) @binding(3) var<storage, read> bias: array<f32>; // (outputs)
@group(0) @binding(5) var<storage, read_write> y: array<f32>; // (rows, stride)

// input_gradient
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>; // (rows, stride / 4)
@group(0) @binding(3) var<storage, read> addend: array<vec4<f32>>; // (rows, inputs / 4)
@group(0) @binding(4) var<storage, read_write> dx: array<vec4<f32>>; // (rows, inputs / 4)

// weight_gradient; its dy is at binding 1 too
@group(0) @binding(2) var<storage, read> layer_input: array<vec4<f32>>; // (rows, inputs / 4)
@group(0) @binding(3) var<storage, read_write> dw: array<vec4<f32>>; // (chunks, outputs, inputs / 4)

var<workgroup> left: array<vec4<f32>, 2u * COPY>;
var<workgroup> right: array<vec4<f32>, 2u * COPY>;

// The place of four k of a row or column, in an operand with the contraction along its vectors: (2, DEPTH / 4, TILE). Neighbouring threads
// write the same rows at two k4, so every other k4 has its rows swapped by fours, which puts them on different banks.
fn by_row(copy: u32, k4: u32, row: u32) -> u32 {
    return copy * COPY + k4 * TILE + (row ^ (k4 % 2u * 4u));
}

// The same for row first + 16r, with first < 16: the part that depends on r is a constant.
fn by_16_rows(copy: u32, k4: u32, first: u32, r: u32) -> u32 {
    return by_row(copy, k4, first) + r * 16u;
}

// The place of four rows or columns at one k, in an operand with rows or columns along its vectors: (2, DEPTH, WIDTH).
fn by_k(copy: u32, k: u32, four: u32) -> u32 {
    return copy * COPY + k * WIDTH + four;
}

// The vec4 that a thread loads from an operand with the contraction along its vectors: (row of the tile, four k).
fn across(thread: u32) -> vec2<u32> {
    return vec2(thread / 2u % TILE, thread % 2u + thread / (2u * TILE) * 2u);
}

// The same for an operand with rows or columns along its vectors: (k, four rows or columns).
fn along(thread: u32) -> vec2<u32> {
    return vec2(thread / WIDTH, thread % WIDTH);
}

// y = epilogue(x·Wᵀ + bias)
@compute @workgroup_size(16, 16)
fn forward(
    @builtin(workgroup_id) tile: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let rows = params.rows;
    let outputs = params.outputs;
    let inputs = params.inputs / 4u;
    let at = across(index);
    let x_row = min(tile.y * TILE + at.x, rows - 1u) * inputs;
//! if PAIRS
    // Both columns of a pair belong to one thread: the first ones make the first half of the tile.
    let pair = pair_columns(min(tile.x * (TILE / 2u) + at.x % (TILE / 2u), outputs / 2u - 1u));
    let w_row = select(pair.x, pair.y, at.x >= TILE / 2u) * inputs;
//! else
    let w_row = min(tile.x * TILE + at.x, outputs - 1u) * inputs;
//! end

    var acc: array<array<f32, OWN_ROWS>, OWN_ROWS>; // rows thread.y + 16r, columns thread.x + 16c
    var a = vec4(0.0);
    var b = vec4(0.0);
    let steps = (params.inputs + DEPTH - 1u) / DEPTH;
    for (var step = 0u; step <= steps; step++) {
        // Loads for this step are in flight while the previous step is multiplied.
        let k = step * (DEPTH / 4u) + at.y;
        if (k < inputs) {
            a = x[x_row + k];
            b = weight4(w_row + k);
        } else {
            a = vec4(0.0);
            b = vec4(0.0);
        }
        if (step > 0u) {
            let before = (step - 1u) % 2u;
            @unroll for (var k4 = 0u; k4 < DEPTH / 4u; k4++) {
                var columns: array<vec4<f32>, OWN_ROWS>;
                @unroll for (var c = 0u; c < OWN_ROWS; c++) { columns[c] = right[by_16_rows(before, k4, thread.x, c)]; }
                @unroll for (var r = 0u; r < OWN_ROWS; r++) {
                    let row = left[by_16_rows(before, k4, thread.y, r)];
                    @unroll for (var j = 0u; j < 4u; j++) {
                        @unroll for (var c = 0u; c < OWN_ROWS; c++) { acc[r][c] += row[j] * columns[c][j]; }
                    }
                }
            }
        }
        left[by_row(step % 2u, at.y, at.x)] = a;
        right[by_row(step % 2u, at.y, at.x)] = b;
        workgroupBarrier();
    }

//! if PAIRS
    @unroll for (var c = 0u; c < OWN_ROWS / 2u; c++) {
        let own = tile.x * (TILE / 2u) + thread.x + c * 16u;
        if (own < outputs / 2u) {
            let columns = params.column + pair_columns(own);
            var sum_bias = vec2(0.0);
            if (params.has_bias != 0u) { sum_bias = vec2(bias[columns.x], bias[columns.y]); }
            @unroll for (var r = 0u; r < OWN_ROWS; r++) {
                let row = tile.y * TILE + thread.y + r * 16u;
                if (row < rows) { pair_epilogue(row, own, vec2(acc[r][c], acc[r][c + OWN_ROWS / 2u]) + sum_bias); }
            }
        }
    }
//! else
    @unroll for (var c = 0u; c < OWN_ROWS; c++) {
        let column = tile.x * TILE + thread.x + c * 16u;
        if (column < outputs) {
            var sum_bias = 0.0;
            if (params.has_bias != 0u) { sum_bias = bias[params.column + column]; }
            @unroll for (var r = 0u; r < OWN_ROWS; r++) {
                let row = tile.y * TILE + thread.y + r * 16u;
                if (row < rows) {
                    let i = row * params.stride + params.column + column;
                    y[i] = epilogue(i, acc[r][c] + sum_bias);
                }
            }
        }
    }
//! end
}

// dx = dy·W + addend
@compute @workgroup_size(16, 16)
fn input_gradient(
    @builtin(workgroup_id) tile: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let rows = params.rows;
    let outputs = params.outputs;
    let inputs = params.inputs / 4u;
    let a_at = across(index);
    let b_at = along(index);
    let dy_row = (min(tile.y * TILE + a_at.x, rows - 1u) * params.stride + params.column) / 4u;
    let w_column = min(tile.x * WIDTH + b_at.y, inputs - 1u);

    var acc: array<array<vec4<f32>, QUADS>, OWN_ROWS>; // rows thread.y + 16r, fours of columns thread.x + 16c
    var a = vec4(0.0);
    var b = vec4(0.0);
    let steps = (outputs + DEPTH - 1u) / DEPTH;
    for (var step = 0u; step <= steps; step++) {
        let a_k = step * (DEPTH / 4u) + a_at.y;
        if (a_k * 4u < outputs) { a = dy[dy_row + a_k]; } else { a = vec4(0.0); }
        let b_k = step * DEPTH + b_at.x;
        if (b_k < outputs) { b = weight4(b_k * inputs + w_column); } else { b = vec4(0.0); }
        if (step > 0u) {
            let before = (step - 1u) % 2u;
            @unroll for (var k4 = 0u; k4 < DEPTH / 4u; k4++) {
                var own: array<vec4<f32>, OWN_ROWS>;
                @unroll for (var r = 0u; r < OWN_ROWS; r++) { own[r] = left[by_16_rows(before, k4, thread.y, r)]; }
                @unroll for (var j = 0u; j < 4u; j++) {
                    @unroll for (var c = 0u; c < QUADS; c++) {
                        let columns = right[by_k(before, k4 * 4u + j, thread.x + c * 16u)];
                        @unroll for (var r = 0u; r < OWN_ROWS; r++) { acc[r][c] += own[r][j] * columns; }
                    }
                }
            }
        }
        left[by_row(step % 2u, a_at.y, a_at.x)] = a;
        right[by_k(step % 2u, b_at.x, b_at.y)] = b;
        workgroupBarrier();
    }

    @unroll for (var c = 0u; c < QUADS; c++) {
        let column = tile.x * WIDTH + thread.x + c * 16u;
        if (column < inputs) {
            @unroll for (var r = 0u; r < OWN_ROWS; r++) {
                let row = tile.y * TILE + thread.y + r * 16u;
                if (row < rows) {
//! if DERIVED
                    store_derived(row, column, inputs, acc[r][c]);
//! else
                    let i = row * inputs + column;
                    var v = acc[r][c];
                    if (params.has_addend != 0u) { v += addend[i]; }
                    dx[i] = v;
//! end
                }
            }
        }
    }
}

// dw[chunk] = dyᵀ·x over the rows of the chunk
@compute @workgroup_size(16, 16)
fn weight_gradient(
    @builtin(workgroup_id) tile: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let outputs = params.outputs;
    let inputs = params.inputs / 4u;
    let stride = params.stride / 4u;
    let at = along(index);
    let dy_column = params.column / 4u + min(tile.y * WIDTH + at.y, (outputs - 1u) / 4u);
    let x_column = min(tile.x * WIDTH + at.y, inputs - 1u);

    var acc: array<array<vec4<f32>, QUADS>, OWN_ROWS>;
    var a = vec4(0.0);
    var b = vec4(0.0);
    let begin = tile.z * params.chunk;
    let end = min(begin + params.chunk, params.rows);
    let steps = (end - begin + DEPTH - 1u) / DEPTH;
    for (var step = 0u; step <= steps; step++) {
        let k = begin + step * DEPTH + at.x;
        if (k < end) {
            a = dy[k * stride + dy_column];
            b = layer_input[k * inputs + x_column];
        } else {
            a = vec4(0.0);
            b = vec4(0.0);
        }
        if (step > 0u) {
            let before = (step - 1u) % 2u;
            @unroll for (var k = 0u; k < DEPTH; k++) {
                var columns: array<vec4<f32>, QUADS>;
                @unroll for (var c = 0u; c < QUADS; c++) { columns[c] = right[by_k(before, k, thread.x + c * 16u)]; }
                @unroll for (var g = 0u; g < QUADS; g++) {
                    let own = left[by_k(before, k, thread.y + g * 16u)];
                    @unroll for (var r = 0u; r < 4u; r++) {
                        @unroll for (var c = 0u; c < QUADS; c++) { acc[g * 4u + r][c] += own[r] * columns[c]; }
                    }
                }
            }
        }
        left[by_k(step % 2u, at.x, at.y)] = a;
        right[by_k(step % 2u, at.x, at.y)] = b;
        workgroupBarrier();
    }

    @unroll for (var c = 0u; c < QUADS; c++) {
        let column = tile.x * WIDTH + thread.x + c * 16u;
        if (column < inputs) {
            @unroll for (var r = 0u; r < OWN_ROWS; r++) {
                let row = tile.y * TILE + thread.y * 4u + r / 4u * 64u + r % 4u;
                if (row < outputs) {
                    let i = (tile.z * outputs + row) * inputs + column;
                    var v = acc[r][c];
                    if (ACCUMULATE == 1u) { v += dw[i]; }
                    dw[i] = v;
                }
            }
        }
    }
}
