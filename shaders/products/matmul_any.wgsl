//! use weight_{FORMAT}, epilogue_{EPILOGUE}, matmul_params

// A linear layer and its gradients for any size and alignment: scalar loads, no workgroup memory, no subgroups.
// An invocation owns OWN_ROWS × OWN_COLUMNS elements of the output. Its columns are ACROSS apart, so that neighbouring invocations access
// neighbouring elements.
// Rows and columns past the end read the last one and are not written.

override ACCUMULATE: u32 = 0u; // 1: weight_gradient adds to dw instead of writing it

const ACROSS: u32 = 16u;
const DOWN: u32 = 4u;
const OWN_ROWS: u32 = 4u;
const OWN_COLUMNS: u32 = 4u;

// The part of the output matrix that one workgroup covers.
const FORWARD_ROWS: u32 = DOWN * OWN_ROWS;
const FORWARD_COLUMNS: u32 = ACROSS * OWN_COLUMNS;
const INPUT_GRADIENT_ROWS: u32 = DOWN * OWN_ROWS;
const INPUT_GRADIENT_COLUMNS: u32 = ACROSS * OWN_COLUMNS;
const WEIGHT_GRADIENT_ROWS: u32 = DOWN * OWN_ROWS;
const WEIGHT_GRADIENT_COLUMNS: u32 = ACROSS * OWN_COLUMNS;

// forward
@group(0) @binding(1) var<storage, read> x: array<f32>; // (rows, inputs)
@group(0) @binding(3) var<storage, read> bias: array<f32>; // (outputs)
@group(0) @binding(5) var<storage, read_write> y: array<f32>; // (rows, stride)

// input_gradient
@group(0) @binding(1) var<storage, read> dy: array<f32>; // (rows, stride)
@group(0) @binding(3) var<storage, read> addend: array<f32>; // (rows, inputs)
@group(0) @binding(4) var<storage, read_write> dx: array<f32>; // (rows, inputs)

// weight_gradient; its dy is at binding 1 too
@group(0) @binding(2) var<storage, read> layer_input: array<f32>; // (rows, inputs)
@group(0) @binding(3) var<storage, read_write> dw: array<f32>; // (chunks, outputs, inputs)

// y = epilogue(x·Wᵀ + bias)
@compute @workgroup_size(ACROSS, DOWN)
fn forward(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let row = tile.y * FORWARD_ROWS + thread.y * OWN_ROWS;
    let column = tile.x * FORWARD_COLUMNS + thread.x;
    let inputs = params.inputs;
    var left: array<u32, OWN_ROWS>;
    var right: array<u32, OWN_COLUMNS>;
    @unroll for (var r = 0u; r < OWN_ROWS; r++) { left[r] = min(row + r, params.rows - 1u) * inputs; }
    @unroll for (var c = 0u; c < OWN_COLUMNS; c++) { right[c] = min(column + c * ACROSS, params.outputs - 1u) * inputs; }

    var acc: array<array<f32, OWN_COLUMNS>, OWN_ROWS>;
    for (var k = 0u; k < inputs; k++) {
        var w: array<f32, OWN_COLUMNS>;
        @unroll for (var c = 0u; c < OWN_COLUMNS; c++) { w[c] = weight1(right[c] + k); }
        @unroll for (var r = 0u; r < OWN_ROWS; r++) {
            let a = x[left[r] + k];
            @unroll for (var c = 0u; c < OWN_COLUMNS; c++) { acc[r][c] += a * w[c]; }
        }
    }

    @unroll for (var r = 0u; r < OWN_ROWS; r++) {
        @unroll for (var c = 0u; c < OWN_COLUMNS; c++) {
            let o = column + c * ACROSS;
            if (row + r < params.rows && o < params.outputs) {
                var v = acc[r][c];
                if (params.has_bias != 0u) { v += bias[params.column + o]; }
                let i = (row + r) * params.stride + params.column + o;
                y[i] = epilogue(i, v);
            }
        }
    }
}

// dx = dy·W + addend
@compute @workgroup_size(ACROSS, DOWN)
fn input_gradient(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let row = tile.y * INPUT_GRADIENT_ROWS + thread.y * OWN_ROWS;
    let column = tile.x * INPUT_GRADIENT_COLUMNS + thread.x;
    let inputs = params.inputs;
    var left: array<u32, OWN_ROWS>;
    var right: array<u32, OWN_COLUMNS>;
    @unroll for (var r = 0u; r < OWN_ROWS; r++) { left[r] = min(row + r, params.rows - 1u) * params.stride + params.column; }
    @unroll for (var c = 0u; c < OWN_COLUMNS; c++) { right[c] = min(column + c * ACROSS, inputs - 1u); }

    var acc: array<array<f32, OWN_COLUMNS>, OWN_ROWS>;
    for (var k = 0u; k < params.outputs; k++) {
        var w: array<f32, OWN_COLUMNS>;
        @unroll for (var c = 0u; c < OWN_COLUMNS; c++) { w[c] = weight1(k * inputs + right[c]); }
        @unroll for (var r = 0u; r < OWN_ROWS; r++) {
            let a = dy[left[r] + k];
            @unroll for (var c = 0u; c < OWN_COLUMNS; c++) { acc[r][c] += a * w[c]; }
        }
    }

    @unroll for (var r = 0u; r < OWN_ROWS; r++) {
        @unroll for (var c = 0u; c < OWN_COLUMNS; c++) {
            let o = column + c * ACROSS;
            if (row + r < params.rows && o < inputs) {
                let i = (row + r) * inputs + o;
                var v = acc[r][c];
                if (params.has_addend != 0u) { v += addend[i]; }
                dx[i] = v;
            }
        }
    }
}

// dw[chunk] = dyᵀ·x over the rows of the chunk
@compute @workgroup_size(ACROSS, DOWN)
fn weight_gradient(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let row = tile.y * WEIGHT_GRADIENT_ROWS + thread.y * OWN_ROWS;
    let column = tile.x * WEIGHT_GRADIENT_COLUMNS + thread.x;
    let inputs = params.inputs;
    var left: array<u32, OWN_ROWS>;
    var right: array<u32, OWN_COLUMNS>;
    @unroll for (var r = 0u; r < OWN_ROWS; r++) { left[r] = params.column + min(row + r, params.outputs - 1u); }
    @unroll for (var c = 0u; c < OWN_COLUMNS; c++) { right[c] = min(column + c * ACROSS, inputs - 1u); }

    var acc: array<array<f32, OWN_COLUMNS>, OWN_ROWS>;
    let first = tile.z * params.chunk;
    let end = min(first + params.chunk, params.rows);
    for (var k = first; k < end; k++) {
        var b: array<f32, OWN_COLUMNS>;
        @unroll for (var c = 0u; c < OWN_COLUMNS; c++) { b[c] = layer_input[k * inputs + right[c]]; }
        @unroll for (var r = 0u; r < OWN_ROWS; r++) {
            let a = dy[k * params.stride + left[r]];
            @unroll for (var c = 0u; c < OWN_COLUMNS; c++) { acc[r][c] += a * b[c]; }
        }
    }

    @unroll for (var r = 0u; r < OWN_ROWS; r++) {
        @unroll for (var c = 0u; c < OWN_COLUMNS; c++) {
            let o = column + c * ACROSS;
            if (row + r < params.outputs && o < inputs) {
                let i = (tile.z * params.outputs + row + r) * inputs + o;
                var v = acc[r][c];
                if (ACCUMULATE == 1u) { v += dw[i]; }
                dw[i] = v;
            }
        }
    }
}
