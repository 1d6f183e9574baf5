//! use value

// The products of a low-rank update with B: y += s·z·Bᵀ, where z = x·Aᵀ, and its gradients. Those with A are the products of any linear layer.
//
// A layer can be several matrices whose outputs lie side by side (q, k and v), of which up to three are targets. Each target owns some rows of B,
// as many columns of y, and RANK columns of z, and has its own factor s.

override ALIGNED: u32 = 1u;    // the stride and each target's columns and outputs are multiples of 4, so four outputs are one vector
override SHARED: u32 = 1u;     // input_gradient: the invocations that share a sum, 1 on a CPU device
override ACCUMULATE: u32 = 0u; // weight_gradient: 1 adds to db instead of writing it

const WORKGROUP: u32 = 64u;
const OWN_ROWS: u32 = 4u;

// What a workgroup covers: in forward and weight_gradient WORKGROUP quads of outputs, in input_gradient blocks of OWN_ROWS rows and one Value of z.
const GRADIENT_BLOCKS: u32 = WORKGROUP / SHARED;

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
//! if ALIGNED
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; // (rows, stride / 4)
//! else
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//! end

// input_gradient; its b is at binding 2
//! if ALIGNED
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>; // (rows, stride / 4)
//! else
@group(0) @binding(1) var<storage, read> dy: array<f32>;
//! end
@group(0) @binding(3) var<storage, read_write> dz: array<Value>; // (rows, width)

// weight_gradient; its dy is at binding 1
@group(0) @binding(2) var<storage, read> narrow: array<Value>; // (rows, width): z
@group(0) @binding(3) var<storage, read_write> db: array<Value>; // (chunks, outputs, rank)

// A target's rows of B, the shift to its columns of y, its first Value in a row of z, and its factor.
struct Target {
    start: u32,
    end: u32,
    shift: u32,
    narrow: u32,
    scaling: f32,
}

fn target_of(number: u32) -> Target {
    let narrow = params.offset + number * params.rank;
    if (number == 0u) { return Target(0u, params.end_0, params.shift_0, narrow, params.scaling_0); }
    if (number == 1u) { return Target(params.end_0, params.end_1, params.shift_1, narrow, params.scaling_1); }
    return Target(params.end_1, params.outputs, params.shift_2, narrow, params.scaling_2);
}

// Four outputs, or fewer at the end of a target: the target, and the first row of B.
struct Quad {
    own: Target,
    output: u32,
}

// The quad with this number; past the last one, it has no outputs.
fn quad_of(number: u32) -> Quad {
    let quads_0 = (params.end_0 + 3u) / 4u;
    let quads_1 = quads_0 + (params.end_1 - params.end_0 + 3u) / 4u;
    if (number < quads_0) { return Quad(target_of(0u), 4u * number); }
    if (number < quads_1) { return Quad(target_of(1u), params.end_0 + 4u * (number - quads_0)); }
    return Quad(target_of(2u), params.end_1 + 4u * (number - quads_1));
}

// Four outputs of a row of dy, zero past the target's last.
fn dy_quad(row: u32, output: u32, own: Target) -> vec4<f32> {
    let i = row * params.stride + output + own.shift;
//! if ALIGNED
    return dy[i / 4u];
//! else
    var v = vec4(0.0);
    for (var c = 0u; c < 4u; c++) {
        if (output + c < own.end) { v[c] = dy[i + c]; }
    }
    return v;
//! end
}

// y += s·z·Bᵀ: an invocation owns a quad of OWN_ROWS rows.
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quad = quad_of(tile.x * WORKGROUP + lane);
    let own = quad.own;
    if (quad.output >= own.end) { return; }
    let row = tile.y * OWN_ROWS;
    var left: array<u32, OWN_ROWS>;
    var right: array<u32, 4>;
    @unroll for (var r = 0u; r < OWN_ROWS; r++) { left[r] = min(row + r, params.rows - 1u) * params.width + own.narrow; }
    @unroll for (var c = 0u; c < 4u; c++) { right[c] = min(quad.output + c, own.end - 1u) * params.rank; }
    var acc: array<vec4<f32>, OWN_ROWS>;
    for (var k = 0u; k < params.rank; k++) {
        let w0 = b[right[0] + k];
        let w1 = b[right[1] + k];
        let w2 = b[right[2] + k];
        let w3 = b[right[3] + k];
        @unroll for (var r = 0u; r < OWN_ROWS; r++) {
            let a = z[left[r] + k];
            acc[r] += vec4(sum_of(a * w0), sum_of(a * w1), sum_of(a * w2), sum_of(a * w3));
        }
    }
    @unroll for (var r = 0u; r < OWN_ROWS; r++) {
        if (row + r < params.rows) {
            let i = (row + r) * params.stride + quad.output + own.shift;
            let v = own.scaling * acc[r];
//! if ALIGNED
            y[i / 4u] = y[i / 4u] + v;
//! else
            for (var c = 0u; c < min(4u, own.end - quad.output); c++) { y[i + c] = y[i + c] + v[c]; }
//! end
        }
    }
}

//! if SHARED - 1u
var<workgroup> parts: array<Value, WORKGROUP * OWN_ROWS>;
//! end

// A group of fewer than three targets leaves the others without rows.
fn number_of_targets() -> u32 {
    return 1u + u32(params.end_0 < params.outputs) + u32(params.end_1 < params.outputs);
}

// dz = s·dy·B: SHARED invocations own OWN_ROWS elements of a column of z, and each adds up every SHAREDth quad of outputs.
@compute @workgroup_size(WORKGROUP)
fn input_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let columns = params.rank * number_of_targets();
    let block = group.x * GRADIENT_BLOCKS + lane / SHARED;
    let column = block % columns;
    let row = block / columns * OWN_ROWS;
    let own = target_of(column / params.rank);
    let k = column % params.rank;
    var acc: array<Value, OWN_ROWS>;
    @unroll for (var r = 0u; r < OWN_ROWS; r++) { acc[r] = Value(); }
    for (var output = own.start + 4u * (lane % SHARED); output < own.end; output += 4u * SHARED) {
        let w0 = b[output * params.rank + k];
        let w1 = b[min(output + 1u, own.end - 1u) * params.rank + k];
        let w2 = b[min(output + 2u, own.end - 1u) * params.rank + k];
        let w3 = b[min(output + 3u, own.end - 1u) * params.rank + k];
        @unroll for (var r = 0u; r < OWN_ROWS; r++) {
            let d = dy_quad(min(row + r, params.rows - 1u), output, own);
            acc[r] += d.x * w0 + d.y * w1 + d.z * w2 + d.w * w3;
        }
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

// db[chunk] = s·dyᵀ·z over the rows of the chunk: an invocation owns one Value in the rows of a quad.
@compute @workgroup_size(WORKGROUP)
fn weight_gradient(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quad = quad_of(tile.x * WORKGROUP + lane);
    let own = quad.own;
    if (quad.output >= own.end) { return; }
    var acc: array<Value, 4>;
    @unroll for (var c = 0u; c < 4u; c++) { acc[c] = Value(); }
    let start = tile.z * params.chunk;
    for (var row = start; row < min(start + params.chunk, params.rows); row++) {
        let d = dy_quad(row, quad.output, own);
        let v = narrow[row * params.width + own.narrow + tile.y];
        @unroll for (var c = 0u; c < 4u; c++) { acc[c] += d[c] * v; }
    }
    @unroll for (var c = 0u; c < 4u; c++) {
        if (quad.output + c < own.end) {
            let i = (tile.z * params.outputs + quad.output + c) * params.rank + tile.y;
            var sum = own.scaling * acc[c];
//! if ACCUMULATE
            sum += db[i];
//! end
            db[i] = sum;
        }
    }
}
