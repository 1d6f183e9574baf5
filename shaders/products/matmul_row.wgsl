//! use weight_{FORMAT}, epilogue_{EPILOGUE}, matmul_params, row_sum

// A linear layer for a single row, as in generating token by token: every weight is read once and used once, so a tile would gain nothing.
// ROW_THREADS invocations share an output, and each takes every ROW_THREADS-th vec4 of its weights. Needs inputs % 4 == 0.

// The part of the output matrix that one workgroup covers.
const FORWARD_ROWS: u32 = 1u;
const FORWARD_COLUMNS: u32 = WORKGROUP_ROWS;

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // (1, inputs / 4)
@group(0) @binding(3) var<storage, read> bias: array<f32>; // (outputs)
@group(0) @binding(5) var<storage, read_write> y: array<f32>; // (1, stride)

// y = epilogue(x·Wᵀ + bias)
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let output = tile.x * WORKGROUP_ROWS + local / ROW_THREADS;
    let inputs = params.inputs / 4u;
    let first = min(output, params.outputs - 1u) * inputs;
    var acc = vec4(0.0);
    for (var k = local % ROW_THREADS; k < inputs; k += ROW_THREADS) { acc += x[k] * weight4(first + k); }
    var sum = row_sum(acc.x + acc.y + acc.z + acc.w, local);
    if (local % ROW_THREADS == 0u && output < params.outputs) {
        let i = params.column + output;
        if (params.has_bias != 0u) { sum += bias[i]; }
        y[i] = epilogue(i, sum);
    }
}
