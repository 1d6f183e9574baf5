//! use weight_{FORMAT}, epilogue_{EPILOGUE}, matmul_params
//! image x, dy, layer_input, weight
enable subgroups;

// A linear layer and its gradients for a Vulkan driver that runs on the CPU (lavapipe) and maps each invocation to a lane of a vector
// register. Needs inputs, stride and column to be multiples of 4, only zeros or nothing between outputs and the next multiple of 4, and
// a subgroup size of SUBGROUP.
//
// A workgroup is one subgroup and owns a tile of the output; a lane owns all of its rows and some of its columns, in registers.
// Such a driver loads lane by lane, even from equal addresses, so each lane loads a different vec4 of the left operand and broadcasts it.
// It loads texels several times as fast as buffer elements. No workgroup memory and no barrier: each barrier would spill the tile.
// Rows and columns past the end read the last one and are not written.

override SUBGROUP: u32 = 8u; // 4, 8 or 16
override ACCUMULATE: u32 = 0u; // 1: weight_gradient adds to dw instead of writing it

// Rows of a tile (a multiple of SUBGROUP and of 8), and groups of four columns per lane. Larger tiles need fewer loads per product, until
// their code no longer fits in the instruction cache; tiles of 8 or 16 rows are for matrices that have no more.
override TILE_ROWS: u32 = 32u;
override QUADS: u32 = 2u;

// The part of the output matrix that one workgroup covers.
const FORWARD_ROWS: u32 = TILE_ROWS;
const FORWARD_COLUMNS: u32 = SUBGROUP * 4u * QUADS;
const INPUT_GRADIENT_ROWS: u32 = TILE_ROWS;
const INPUT_GRADIENT_COLUMNS: u32 = SUBGROUP * 4u * QUADS;
const WEIGHT_GRADIENT_ROWS: u32 = TILE_ROWS;
const WEIGHT_GRADIENT_COLUMNS: u32 = SUBGROUP * 4u * QUADS;

const LOADS: u32 = TILE_ROWS / SUBGROUP; // vec4 that a lane loads so that the subgroup has four elements of each row of the tile
const HEADS: u32 = SUBGROUP * QUADS / SHARED; // scales of a row of W in a tile of input_gradient
const HEAD_LOADS: u32 = 4u * QUADS / SHARED; // how many of the scales of four rows a lane loads
const LAST_LANE: u32 = SUBGROUP - 1u;
const LANE_HEADS: u32 = LAST_LANE / SHARED + 1u; // scales of a group of columns
const QUARTER: u32 = TILE_ROWS / 4u; // vec4 of one row of dy in a tile of weight_gradient
// Rows stored per turn, after which the others move up; their four columns are stored one by one. Unrolled over all elements, the
// epilogue and the stores would take the driver longer to compile than everything else. It stores scalar by scalar anyway.
const STORED: u32 = 4u;

// forward
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // (rows, inputs / 4)
@group(0) @binding(3) var<storage, read> bias: array<f32>; // (outputs)
@group(0) @binding(5) var<storage, read_write> y: array<f32>; // (rows, stride)

// input_gradient
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>; // (rows, stride / 4)
@group(0) @binding(3) var<storage, read> addend: array<f32>; // (rows, inputs)
@group(0) @binding(4) var<storage, read_write> dx: array<f32>; // (rows, inputs)

// weight_gradient; its dy is at binding 1 too
@group(0) @binding(2) var<storage, read> layer_input: array<vec4<f32>>; // (rows, inputs / 4)
@group(0) @binding(3) var<storage, read_write> dw: array<f32>; // (chunks, outputs, inputs)

// y = epilogue(x·Wᵀ + bias)
@compute @workgroup_size(SUBGROUP)
fn forward(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let rows = params.rows;
    let inputs = params.inputs / 4u;
    let outputs = params.outputs;
    let stride = params.stride;
    let first = tile.y * TILE_ROWS;
    let column = (tile.x * SUBGROUP * QUADS + lane) * 4u;
    var left: array<u32, LOADS>;
    @unroll for (var n = 0u; n < LOADS; n++) { left[n] = min(first + n * SUBGROUP + lane, rows - 1u) * inputs; }
    var right: array<array<u32, 4>, QUADS>;
    @unroll for (var c = 0u; c < QUADS; c++) {
        @unroll for (var j = 0u; j < 4u; j++) { right[c][j] = min(column + c * SUBGROUP * 4u + j, outputs - 1u) * inputs; }
    }

    var acc: array<array<vec4<f32>, QUADS>, TILE_ROWS>;
    for (var block = 0u; block < inputs; block += SHARED) {
//! if SHARED - 1
        var s: array<array<vec2<f32>, 4>, QUADS>;
        @unroll for (var c = 0u; c < QUADS; c++) {
            @unroll for (var j = 0u; j < 4u; j++) { s[c][j] = scales(right[c][j] + block); }
        }
        for (var k = block; k < block + SHARED; k++) {
//! else
        {
            let k = block;
//! end
            var a: array<vec4<f32>, LOADS>;
            @unroll for (var n = 0u; n < LOADS; n++) { a[n] = x[left[n] + k]; }
            var w: array<mat4x4<f32>, QUADS>;
            @unroll for (var c = 0u; c < QUADS; c++) {
                var columns: mat4x4<f32>;
                @unroll for (var j = 0u; j < 4u; j++) {
//! if SHARED - 1
                    columns[j] = scaled(right[c][j] + k, s[c][j]);
//! else
                    columns[j] = weight4(right[c][j] + k);
//! end
                }
                w[c] = transpose(columns);
            }
            @unroll for (var r = 0u; r < TILE_ROWS; r++) {
                let v = subgroupBroadcast(a[r / SUBGROUP], r % SUBGROUP);
                @unroll for (var c = 0u; c < QUADS; c++) {
                    acc[r][c] += v.x * w[c][0] + v.y * w[c][1] + v.z * w[c][2] + v.w * w[c][3];
                }
            }
        }
    }

    let has_bias = params.has_bias != 0u;
    for (var turn = 0u; turn < TILE_ROWS; turn += STORED) {
        for (var j = 0u; j < 4u; j++) {
            @unroll for (var c = 0u; c < QUADS; c++) {
                let o = column + c * SUBGROUP * 4u + j;
                let b = select(0.0, bias[params.column + min(o, outputs - 1u)], has_bias);
                @unroll for (var r = 0u; r < STORED; r++) {
                    let row = first + turn + r;
                    if (row < rows && o < outputs) {
                        let i = row * stride + params.column + o;
                        y[i] = epilogue(i, acc[r][c][j] + b);
                    }
                }
            }
        }
        @unroll for (var r = STORED; r < TILE_ROWS; r++) { acc[r - STORED] = acc[r]; }
    }
}

// dx = dy·W + addend
@compute @workgroup_size(SUBGROUP)
fn input_gradient(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let rows = params.rows;
    let inputs = params.inputs / 4u;
    let outputs = params.outputs;
    let stride = params.stride / 4u;
    let first = tile.y * TILE_ROWS;
    let column = tile.x * SUBGROUP * QUADS + lane;
    var left: array<u32, LOADS>;
    @unroll for (var n = 0u; n < LOADS; n++) { left[n] = min(first + n * SUBGROUP + lane, rows - 1u) * stride + params.column / 4u; }
    var right: array<u32, QUADS>;
    @unroll for (var c = 0u; c < QUADS; c++) { right[c] = min(column + c * SUBGROUP, inputs - 1u); }

    var acc: array<array<vec4<f32>, QUADS>, TILE_ROWS>;
    for (var k = 0u; k < outputs; k += 4u) {
        var a: array<vec4<f32>, LOADS>;
        @unroll for (var n = 0u; n < LOADS; n++) { a[n] = dy[left[n] + k / 4u]; }
//! if SHARED - 1
        // Several lanes need the same scales, so each lane loads a different part of those of the four rows.
        var s: array<vec2<f32>, HEAD_LOADS>;
        @unroll for (var n = 0u; n < HEAD_LOADS; n++) {
            let head = n * SUBGROUP + lane;
            s[n] = scales(min(k + head / HEADS, outputs - 1u) * inputs + min(tile.x * HEADS + head % HEADS, inputs / SHARED - 1u) * SHARED);
        }
//! end
        var w: array<array<vec4<f32>, 4>, QUADS>;
        @unroll for (var j = 0u; j < 4u; j++) {
            let row = min(k + j, outputs - 1u) * inputs;
            @unroll for (var c = 0u; c < QUADS; c++) {
//! if SHARED - 1
                var own = vec2(0.0);
                @unroll for (var h = 0u; h < LANE_HEADS; h++) {
                    const head = j * HEADS + c * SUBGROUP / SHARED + h;
                    own = select(own, subgroupBroadcast(s[head / SUBGROUP], head % SUBGROUP), lane >= h * SHARED);
                }
                w[c][j] = scaled(row + right[c], own);
//! else
                w[c][j] = weight4(row + right[c]);
//! end
            }
        }
        @unroll for (var r = 0u; r < TILE_ROWS; r++) {
            let v = subgroupBroadcast(a[r / SUBGROUP], r % SUBGROUP);
            @unroll for (var c = 0u; c < QUADS; c++) {
                acc[r][c] += v.x * w[c][0] + v.y * w[c][1] + v.z * w[c][2] + v.w * w[c][3];
            }
        }
    }

    let has_addend = params.has_addend != 0u;
    for (var turn = 0u; turn < TILE_ROWS; turn += STORED) {
        for (var j = 0u; j < 4u; j++) {
            @unroll for (var c = 0u; c < QUADS; c++) {
                @unroll for (var r = 0u; r < STORED; r++) {
                    let row = first + turn + r;
                    if (row < rows && column + c * SUBGROUP < inputs) {
                        let i = (row * inputs + column + c * SUBGROUP) * 4u + j;
                        var v = acc[r][c][j];
                        if (has_addend) { v += addend[i]; }
                        dx[i] = v;
                    }
                }
            }
        }
        @unroll for (var r = STORED; r < TILE_ROWS; r++) { acc[r - STORED] = acc[r]; }
    }
}

// dw[chunk] = dyᵀ·x over the rows of the chunk
@compute @workgroup_size(SUBGROUP)
fn weight_gradient(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let inputs = params.inputs / 4u;
    let outputs = params.outputs;
    let stride = params.stride / 4u;
    let first = tile.y * TILE_ROWS;
    let column = tile.x * SUBGROUP * QUADS + lane;
    // Four rows of dy give TILE_ROWS vec4, vec4 e being group e % QUARTER of row e / QUARTER.
    var left_row: array<u32, LOADS>;
    var left: array<u32, LOADS>;
    @unroll for (var n = 0u; n < LOADS; n++) {
        left_row[n] = (n * SUBGROUP + lane) / QUARTER;
        left[n] = params.column / 4u + min(first / 4u + (n * SUBGROUP + lane) % QUARTER, (outputs - 1u) / 4u);
    }
    var right: array<u32, QUADS>;
    @unroll for (var c = 0u; c < QUADS; c++) { right[c] = min(column + c * SUBGROUP, inputs - 1u); }

    var acc: array<array<vec4<f32>, QUADS>, TILE_ROWS>;
    let begin = tile.z * params.chunk;
    let end = min(begin + params.chunk, params.rows);
    for (var k = begin; k < end; k += 4u) {
        var a: array<vec4<f32>, LOADS>;
        @unroll for (var n = 0u; n < LOADS; n++) {
            let row = k + left_row[n];
            a[n] = select(vec4(0.0), dy[min(row, end - 1u) * stride + left[n]], row < end);
        }
        var b: array<array<vec4<f32>, 4>, QUADS>;
        @unroll for (var j = 0u; j < 4u; j++) {
            let row = min(k + j, end - 1u) * inputs;
            @unroll for (var c = 0u; c < QUADS; c++) { b[c][j] = layer_input[row + right[c]]; }
        }
        @unroll for (var g = 0u; g < QUARTER; g++) {
            let v0 = subgroupBroadcast(a[g / SUBGROUP], g % SUBGROUP);
            let v1 = subgroupBroadcast(a[(QUARTER + g) / SUBGROUP], (QUARTER + g) % SUBGROUP);
            let v2 = subgroupBroadcast(a[(2u * QUARTER + g) / SUBGROUP], (2u * QUARTER + g) % SUBGROUP);
            let v3 = subgroupBroadcast(a[(3u * QUARTER + g) / SUBGROUP], (3u * QUARTER + g) % SUBGROUP);
            @unroll for (var i = 0u; i < 4u; i++) {
                @unroll for (var c = 0u; c < QUADS; c++) {
                    acc[4u * g + i][c] += v0[i] * b[c][0] + v1[i] * b[c][1] + v2[i] * b[c][2] + v3[i] * b[c][3];
                }
            }
        }
    }

    for (var turn = 0u; turn < TILE_ROWS; turn += STORED) {
        for (var j = 0u; j < 4u; j++) {
            @unroll for (var c = 0u; c < QUADS; c++) {
                @unroll for (var r = 0u; r < STORED; r++) {
                    let row = first + turn + r;
                    if (row < outputs && column + c * SUBGROUP < inputs) {
                        let i = ((tile.z * outputs + row) * inputs + column + c * SUBGROUP) * 4u + j;
                        var v = acc[r][c][j];
                        if (ACCUMULATE == 1u) { v += dw[i]; }
                        dw[i] = v;
                    }
                }
            }
        }
        @unroll for (var r = STORED; r < TILE_ROWS; r++) { acc[r - STORED] = acc[r]; }
    }
}
