//! use value

// The products of a low-rank update with B: y += s·z·Bᵀ, where z = x·Aᵀ, and its gradients. Those with A are the products of any linear layer.
//
// A layer can be several matrices whose outputs lie side by side (q, k and v), of which up to three are targets. Each target owns some rows of B,
// as many columns of y, and RANK columns of z, and has its own factor s.

override SHARED: u32 = 1u;     // input_gradient: the invocations that share a sum, 1 on a CPU device
override ACCUMULATE: u32 = 0u; // weight_gradient: 1 adds to db instead of writing it

const LANES: u32 = 64u;
const OWN_ROWS: u32 = 4u;

// The part of the output that a workgroup covers.
const FORWARD_ROWS: u32 = OWN_ROWS;
const FORWARD_COLUMNS: u32 = LANES;
const GRADIENT_BLOCKS: u32 = LANES / SHARED; // of OWN_ROWS rows and one Value of z

struct Params {
    rows: u32,
    stride: u32, // from one row of y or dy to the next
    width: u32,  // from one row of z to the next, in Values
    offset: u32, // where the first target begins in a row of z, in Values
    rank: u32,   // in Values
    outputs: u32, // rows of B
    end_0: u32,  // where the rows of the first and the second target end
    end_1: u32,
    shift_0: u32, // from a row of B to its column of y, for each target
    shift_1: u32,
    shift_2: u32,
    scaling_0: f32,
    scaling_1: f32,
    scaling_2: f32,
    chunk: u32, // weight_gradient: rows per chunk
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// forward
@group(0) @binding(1) var<storage, read> z: array<Value>; // (rows, width)
@group(0) @binding(2) var<storage, read> b: array<Value>; // (outputs, rank)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (rows, stride)

// input_gradient; its b is at binding 2
@group(0) @binding(1) var<storage, read> dy: array<f32>; // (rows, stride)
@group(0) @binding(3) var<storage, read_write> dz: array<Value>; // (rows, width)

// weight_gradient; its dy is at binding 1
@group(0) @binding(2) var<storage, read> narrow: array<Value>; // (rows, width): z
@group(0) @binding(3) var<storage, read_write> db: array<Value>; // (chunks, outputs, rank)

// A target's rows of B, the shift to its columns of y, and its factor.
struct Target {
    start: u32,
    end: u32,
    shift: u32,
    scaling: f32,
}

fn target_of(number: u32) -> Target {
    if (number == 0u) { return Target(0u, params.end_0, params.shift_0, params.scaling_0); }
    if (number == 1u) { return Target(params.end_0, params.end_1, params.shift_1, params.scaling_1); }
    return Target(params.end_1, params.outputs, params.shift_2, params.scaling_2);
}

fn number_of(row: u32) -> u32 {
    return u32(row >= params.end_0) + u32(row >= params.end_1);
}

// y += s·z·Bᵀ: an invocation owns OWN_ROWS elements of a column.
@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let output = min(tile.x * FORWARD_COLUMNS + lane, params.outputs - 1u);
    let number = number_of(output);
    let row = tile.y * OWN_ROWS;
    var left: array<u32, OWN_ROWS>;
    @unroll for (var r = 0u; r < OWN_ROWS; r++) {
        left[r] = min(row + r, params.rows - 1u) * params.width + params.offset + number * params.rank;
    }
    var acc: array<f32, OWN_ROWS>;
    for (var k = 0u; k < params.rank; k++) {
        let w = b[output * params.rank + k];
        @unroll for (var r = 0u; r < OWN_ROWS; r++) { acc[r] += sum_of(z[left[r] + k] * w); }
    }
    if (tile.x * FORWARD_COLUMNS + lane >= params.outputs) { return; }
    let own = target_of(number);
    @unroll for (var r = 0u; r < OWN_ROWS; r++) {
        if (row + r < params.rows) {
            let i = (row + r) * params.stride + output + own.shift;
            y[i] = y[i] + own.scaling * acc[r];
        }
    }
}

//! if SHARED - 1u
var<workgroup> parts: array<Value, LANES * OWN_ROWS>;
//! end

// dz = s·dy·B: SHARED invocations own OWN_ROWS elements of a column of z, and each adds up every SHAREDth output.
@compute @workgroup_size(LANES)
fn input_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let columns = params.rank * number_of_targets();
    let block = group.x * GRADIENT_BLOCKS + lane / SHARED;
    let column = block % columns;
    let row = block / columns * OWN_ROWS;
    let own = target_of(column / params.rank);
    let k = column % params.rank;
    var left: array<u32, OWN_ROWS>;
    @unroll for (var r = 0u; r < OWN_ROWS; r++) { left[r] = min(row + r, params.rows - 1u) * params.stride + own.shift; }
    var acc: array<Value, OWN_ROWS>;
    @unroll for (var r = 0u; r < OWN_ROWS; r++) { acc[r] = Value(); }
    for (var output = own.start + lane % SHARED; output < own.end; output += SHARED) {
        let w = b[output * params.rank + k];
        @unroll for (var r = 0u; r < OWN_ROWS; r++) { acc[r] += dy[left[r] + output] * w; }
    }
//! if SHARED - 1u
    @unroll for (var r = 0u; r < OWN_ROWS; r++) { parts[lane * OWN_ROWS + r] = acc[r]; }
    workgroupBarrier();
    let mine = lane % SHARED;
    if (mine >= OWN_ROWS || row + mine >= params.rows) { return; }
    var sum = Value();
    for (var other = lane - mine; other < lane - mine + SHARED; other++) { sum += parts[other * OWN_ROWS + mine]; }
    dz[(row + mine) * params.width + params.offset + column] = own.scaling * sum;
//! else
    @unroll for (var r = 0u; r < OWN_ROWS; r++) {
        if (row + r < params.rows) { dz[(row + r) * params.width + params.offset + column] = own.scaling * acc[r]; }
    }
//! end
}

// A group of fewer than three targets leaves the others without rows.
fn number_of_targets() -> u32 {
    return 1u + u32(params.end_0 < params.outputs) + u32(params.end_1 < params.outputs);
}

// db[chunk] = s·dyᵀ·z over the rows of the chunk: an invocation owns one Value of a row of B.
@compute @workgroup_size(LANES)
fn weight_gradient(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let output = tile.x * LANES + lane;
    if (output >= params.outputs) { return; }
    let number = number_of(output);
    let own = target_of(number);
    let right = params.offset + number * params.rank + tile.y;
    var sum = Value();
    let start = tile.z * params.chunk;
    for (var row = start; row < min(start + params.chunk, params.rows); row++) {
        sum += dy[row * params.stride + output + own.shift] * narrow[row * params.width + right];
    }
    sum *= own.scaling;
    let i = (tile.z * params.outputs + output) * params.rank + tile.y;
//! if ACCUMULATE
    sum += db[i];
//! end
    db[i] = sum;
}
