enable f16;
enable wgpu_cooperative_matrix;
//! use weight_{FORMAT}, epilogue_{EPILOGUE}, matmul_params

// A linear layer and its gradients on cooperative matrices: f16 operands, f32 sums. Needs what matmul_gpu.wgsl needs.
//
// 128 threads own 64 × 64 elements of the output and walk along the contraction in steps of DEPTH: they stage a strip of each operand in
// workgroup memory, as f16, and each subgroup multiplies a region of 2 × 2 matrices. The next strips are loaded during the multiplication.
// The sums pass through workgroup memory, one matrix per subgroup at a time, to reach the epilogue.
// Nothing past the end is read or written: the contraction is padded with zeros, and rows and columns past the end repeat the last one.

override ACCUMULATE: u32 = 0u; // 1: weight_gradient adds to dw instead of writing it
override SIZE: u32 = 16u;      // of a cooperative matrix: 8 or 16
override REGIONS: u32 = 1u;    // regions per subgroup, 1 or 2, if subgroups are as large as they can be
override SHRINK: u32 = 0u;     // 1: the layer's input is f32 because it may exceed f16; it is scaled by 2^-6 on the way

const THREADS: u32 = 128u;
const TILE: u32 = 64u;
const DEPTH: u32 = 32u;
const OWN: u32 = TILE * DEPTH / 4u / THREADS; // vec4 of each operand that a thread loads per step
const REGION: u32 = 2u * SIZE;
const ACROSS: u32 = TILE / REGION;
const ALL_REGIONS: u32 = ACROSS * ACROSS;
const MATRIX: u32 = SIZE * SIZE;
const HALF_SIZE: u32 = SIZE / 2u;

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

// weight_gradient, whose dy is at 1 too
@group(0) @binding(2) var<storage, read> layer_input: array<vec4<f32>>; // (rows, inputs / 4)
@group(0) @binding(3) var<storage, read_write> dw: array<vec4<f32>>; // (chunks, outputs, inputs / 4)

//! if SIZE - 8u
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
//! else
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
//! end

// An operand is staged as (64, ROW) with the contraction along its rows, or as (DEPTH, COLUMN) across them. Both have a margin, so that rows begin
// on different banks.
const ROW: u32 = DEPTH + 8u;
const COLUMN: u32 = TILE + 8u;
const STAGED: u32 = TILE * ROW;
var<workgroup> left: array<f16, STAGED>;
var<workgroup> right: array<f16, STAGED>;
var<workgroup> sums: array<f32, 1024>; // (subgroups, SIZE, SIZE)

// The vec4 number i of a strip with the contraction along its rows: (row, four k) …
fn across(i: u32) -> vec2<u32> {
    return vec2(i / (DEPTH / 4u), i % (DEPTH / 4u));
}
// … and of one with rows or columns along them: (k, four rows or columns).
fn along(i: u32) -> vec2<u32> {
    return vec2(i / (TILE / 4u), i % (TILE / 4u));
}

fn stage_left(at: u32, v: vec4<f32>) {
    let halves = vec4<f16>(v);
    left[at] = halves.x;
    left[at + 1u] = halves.y;
    left[at + 2u] = halves.z;
    left[at + 3u] = halves.w;
}
fn stage_right(at: u32, v: vec4<f32>) {
    let halves = vec4<f16>(v);
    right[at] = halves.x;
    right[at + 1u] = halves.y;
    right[at + 2u] = halves.z;
    right[at + 3u] = halves.w;
}

fn input_scale() -> f32 {
    return select(1.0, 0.015625, SHRINK == 1u);
}
fn output_scale() -> f32 {
    return select(1.0, 64.0, SHRINK == 1u);
}

// The first row and column of a region.
fn corner(region: u32) -> vec2<u32> {
    return vec2(region / ACROSS, region % ACROSS) * REGION;
}

// The matrix at (row, k) or (k, column) of a staged operand.
fn left_across(row: u32, k: u32) -> Left {
    return coopLoadT<Left>(&left[row * ROW + k], ROW);
}
fn left_along(row: u32, k: u32) -> Left {
    return coopLoad<Left>(&left[k * COLUMN + row], COLUMN);
}
fn right_across(column: u32, k: u32) -> Right {
    return coopLoad<Right>(&right[column * ROW + k], ROW);
}
fn right_along(column: u32, k: u32) -> Right {
    return coopLoadT<Right>(&right[k * COLUMN + column], COLUMN);
}

// The sums of a region.
struct Region {
    s00: Sum,
    s01: Sum,
    s10: Sum,
    s11: Sum,
}

fn empty() -> Region {
    return Region(Sum(), Sum(), Sum(), Sum());
}

// The region plus the products of two matrices of rows and two of columns.
fn multiplied(region: Region, a0: Left, a1: Left, b0: Right, b1: Right) -> Region {
    return Region(
        coopMultiplyAdd(a0, b0, region.s00),
        coopMultiplyAdd(a0, b1, region.s01),
        coopMultiplyAdd(a1, b0, region.s10),
        coopMultiplyAdd(a1, b1, region.s11),
    );
}

// Who multiplies what: subgroup s takes the regions s and, if REGIONS is 2, s + count.
struct Subgroups {
    number: u32,
    count: u32,
}

// Four columns of a matrix that a thread takes from `sums`: where they are there and in the tile.
struct Four {
    at: u32,
    row: u32,
    column: u32,
}

// Four number n of the matrices (i, j) of all subgroups' regions; past the tile if there is none.
fn four_of(n: u32, group: u32, i: u32, j: u32, subgroups: Subgroups) -> Four {
    let slot = 4u * n / MATRIX;
    let region = slot + group * subgroups.count;
    if (slot >= subgroups.count || region >= ALL_REGIONS) { return Four(0u, 1u << 30u, 1u << 30u); }
    let first = corner(region) + SIZE * vec2(i, j);
    return Four(4u * n, first.x + 4u * n % MATRIX / SIZE, first.y + 4u * n % SIZE);
}

fn sums4(at: u32) -> vec4<f32> {
    return vec4(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
}
const FOURS: u32 = 256u; // in `sums`

fn store_forward(sum: Sum, group: u32, i: u32, j: u32, tile: vec3<u32>, thread: u32, subgroups: Subgroups) {
    coopStoreT(sum, &sums[subgroups.number * MATRIX], SIZE);
    workgroupBarrier();
    for (var n = thread; n < FOURS; n += THREADS) {
        let own = four_of(n, group, i, j, subgroups);
        let row = tile.y * TILE + own.row;
        if (row < params.rows) {
            let v = sums4(own.at) * output_scale();
//! if PAIRS
            // The columns c and c + SIZE / 2 of a matrix are a pair.
            if (own.column % SIZE < HALF_SIZE) {
                let w = sums4(own.at + HALF_SIZE) * output_scale();
                let first = tile.x * (TILE / 2u) + own.column / SIZE * HALF_SIZE + own.column % HALF_SIZE;
                @unroll for (var c = 0u; c < 4u; c++) {
                    let pair = first + c;
                    if (pair < params.outputs / 2u) {
                        let columns = params.column + pair_columns(pair);
                        var sum_bias = vec2(0.0);
                        if (params.has_bias != 0u) { sum_bias = vec2(bias[columns.x], bias[columns.y]); }
                        pair_epilogue(row, pair, vec2(v[c], w[c]) + sum_bias);
                    }
                }
            }
//! else
            @unroll for (var c = 0u; c < 4u; c++) {
                let column = tile.x * TILE + own.column + c;
                if (column < params.outputs) {
                    var sum_bias = 0.0;
                    if (params.has_bias != 0u) { sum_bias = bias[params.column + column]; }
                    let at = row * params.stride + params.column + column;
                    y[at] = epilogue(at, v[c] + sum_bias);
                }
            }
//! end
        }
    }
    workgroupBarrier();
}
fn store_forward_region(region: Region, group: u32, tile: vec3<u32>, thread: u32, subgroups: Subgroups) {
    store_forward(region.s00, group, 0u, 0u, tile, thread, subgroups);
    store_forward(region.s01, group, 0u, 1u, tile, thread, subgroups);
    store_forward(region.s10, group, 1u, 0u, tile, thread, subgroups);
    store_forward(region.s11, group, 1u, 1u, tile, thread, subgroups);
}

fn store_input_gradient(sum: Sum, group: u32, i: u32, j: u32, tile: vec3<u32>, thread: u32, subgroups: Subgroups) {
    coopStoreT(sum, &sums[subgroups.number * MATRIX], SIZE);
    workgroupBarrier();
    let inputs = params.inputs / 4u;
    for (var n = thread; n < FOURS; n += THREADS) {
        let own = four_of(n, group, i, j, subgroups);
        let row = tile.y * TILE + own.row;
        let column = (tile.x * TILE + own.column) / 4u;
        if (row < params.rows && column < inputs) {
            var v = sums4(own.at);
//! if DERIVED
            store_derived(row, column, inputs, v);
//! else
            let at = row * inputs + column;
            if (params.has_addend != 0u) { v += addend[at]; }
            dx[at] = v;
//! end
        }
    }
    workgroupBarrier();
}
fn store_input_gradient_region(region: Region, group: u32, tile: vec3<u32>, thread: u32, subgroups: Subgroups) {
    store_input_gradient(region.s00, group, 0u, 0u, tile, thread, subgroups);
    store_input_gradient(region.s01, group, 0u, 1u, tile, thread, subgroups);
    store_input_gradient(region.s10, group, 1u, 0u, tile, thread, subgroups);
    store_input_gradient(region.s11, group, 1u, 1u, tile, thread, subgroups);
}

fn store_weight_gradient(sum: Sum, group: u32, i: u32, j: u32, tile: vec3<u32>, thread: u32, subgroups: Subgroups) {
    coopStoreT(sum, &sums[subgroups.number * MATRIX], SIZE);
    workgroupBarrier();
    let inputs = params.inputs / 4u;
    for (var n = thread; n < FOURS; n += THREADS) {
        let own = four_of(n, group, i, j, subgroups);
        let row = tile.y * TILE + own.row;
        let column = (tile.x * TILE + own.column) / 4u;
        if (row < params.outputs && column < inputs) {
            var v = sums4(own.at) * output_scale();
            let at = (tile.z * params.outputs + row) * inputs + column;
            if (ACCUMULATE == 1u) { v += dw[at]; }
            dw[at] = v;
        }
    }
    workgroupBarrier();
}
fn store_weight_gradient_region(region: Region, group: u32, tile: vec3<u32>, thread: u32, subgroups: Subgroups) {
    store_weight_gradient(region.s00, group, 0u, 0u, tile, thread, subgroups);
    store_weight_gradient(region.s01, group, 0u, 1u, tile, thread, subgroups);
    store_weight_gradient(region.s10, group, 1u, 0u, tile, thread, subgroups);
    store_weight_gradient(region.s11, group, 1u, 1u, tile, thread, subgroups);
}

// y = epilogue(x·Wᵀ + bias)
@compute @workgroup_size(THREADS)
fn forward(
    @builtin(workgroup_id) tile: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) number: u32,
    @builtin(num_subgroups) count: u32,
) {
    let subgroups = Subgroups(number, count);
    let rows = params.rows;
    let outputs = params.outputs;
    let inputs = params.inputs / 4u;
    var x_rows: array<u32, OWN>;
    var w_rows: array<u32, OWN>;
    @unroll for (var i = 0u; i < OWN; i++) {
        let row = across(thread + i * THREADS).x;
        x_rows[i] = min(tile.y * TILE + row, rows - 1u) * inputs;
//! if PAIRS
        let pair = pair_columns(min(tile.x * (TILE / 2u) + row / SIZE * HALF_SIZE + row % HALF_SIZE, outputs / 2u - 1u));
        w_rows[i] = select(pair.x, pair.y, row % SIZE >= HALF_SIZE) * inputs;
//! else
        w_rows[i] = min(tile.x * TILE + row, outputs - 1u) * inputs;
//! end
    }
    let c_at = corner(min(number, ALL_REGIONS - 1u));
    var c = empty();
//! if REGIONS - 1u
    let d_at = corner(min(number + count, ALL_REGIONS - 1u));
    var d = empty();
//! end
    var a: array<vec4<f32>, OWN>;
    var b: array<vec4<f32>, OWN>;
    let steps = (params.inputs + DEPTH - 1u) / DEPTH;
    for (var step = 0u; step <= steps; step++) {
        @unroll for (var i = 0u; i < OWN; i++) {
            let index = thread + i * THREADS;
            stage_left(across(index).x * ROW + 4u * across(index).y, a[i]);
            stage_right(across(index).x * ROW + 4u * across(index).y, b[i]);
        }
        workgroupBarrier();
        // Loads for this step are under way while the step before is multiplied, which before the first is zeros: naga takes no condition here.
        @unroll for (var i = 0u; i < OWN; i++) {
            let k = step * (DEPTH / 4u) + across(thread + i * THREADS).y;
            if (k < inputs) {
                a[i] = x[x_rows[i] + k] * input_scale();
                b[i] = weight4(w_rows[i] + k);
            } else {
                a[i] = vec4(0.0);
                b[i] = vec4(0.0);
            }
        }
        @unroll for (var k = 0u; k < DEPTH / SIZE; k++) {
            let at = k * SIZE;
            c = multiplied(c, left_across(c_at.x, at), left_across(c_at.x + SIZE, at), right_across(c_at.y, at), right_across(c_at.y + SIZE, at));
        }
//! if REGIONS - 1u
        @unroll for (var k = 0u; k < DEPTH / SIZE; k++) {
            let at = k * SIZE;
            d = multiplied(d, left_across(d_at.x, at), left_across(d_at.x + SIZE, at), right_across(d_at.y, at), right_across(d_at.y + SIZE, at));
        }
//! end
        workgroupBarrier();
    }

    store_forward_region(c, 0u, tile, thread, subgroups);
//! if REGIONS - 1u
    store_forward_region(d, 1u, tile, thread, subgroups);
//! end
}

// dx = dy·W + addend
@compute @workgroup_size(THREADS)
fn input_gradient(
    @builtin(workgroup_id) tile: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) number: u32,
    @builtin(num_subgroups) count: u32,
) {
    let subgroups = Subgroups(number, count);
    let rows = params.rows;
    let outputs = params.outputs;
    let inputs = params.inputs / 4u;
    var dy_rows: array<u32, OWN>;
    var w_columns: array<u32, OWN>;
    @unroll for (var i = 0u; i < OWN; i++) {
        let row = min(tile.y * TILE + across(thread + i * THREADS).x, rows - 1u);
        dy_rows[i] = (row * params.stride + params.column) / 4u;
        w_columns[i] = min(tile.x * (TILE / 4u) + along(thread + i * THREADS).y, inputs - 1u);
    }
    let c_at = corner(min(number, ALL_REGIONS - 1u));
    var c = empty();
//! if REGIONS - 1u
    let d_at = corner(min(number + count, ALL_REGIONS - 1u));
    var d = empty();
//! end
    var a: array<vec4<f32>, OWN>;
    var b: array<vec4<f32>, OWN>;
    let steps = (outputs + DEPTH - 1u) / DEPTH;
    for (var step = 0u; step <= steps; step++) {
        @unroll for (var i = 0u; i < OWN; i++) {
            let index = thread + i * THREADS;
            stage_left(across(index).x * ROW + 4u * across(index).y, a[i]);
            stage_right(along(index).x * COLUMN + 4u * along(index).y, b[i]);
        }
        workgroupBarrier();
        // Loads for this step are under way while the step before is multiplied, which before the first is zeros: naga takes no condition here.
        @unroll for (var i = 0u; i < OWN; i++) {
            let a_k = step * (DEPTH / 4u) + across(thread + i * THREADS).y;
            if (a_k * 4u < outputs) { a[i] = dy[dy_rows[i] + a_k]; } else { a[i] = vec4(0.0); }
            let b_k = step * DEPTH + along(thread + i * THREADS).x;
            if (b_k < outputs) { b[i] = weight4(b_k * inputs + w_columns[i]); } else { b[i] = vec4(0.0); }
        }
        @unroll for (var k = 0u; k < DEPTH / SIZE; k++) {
            let at = k * SIZE;
            c = multiplied(c, left_across(c_at.x, at), left_across(c_at.x + SIZE, at), right_along(c_at.y, at), right_along(c_at.y + SIZE, at));
        }
//! if REGIONS - 1u
        @unroll for (var k = 0u; k < DEPTH / SIZE; k++) {
            let at = k * SIZE;
            d = multiplied(d, left_across(d_at.x, at), left_across(d_at.x + SIZE, at), right_along(d_at.y, at), right_along(d_at.y + SIZE, at));
        }
//! end
        workgroupBarrier();
    }

    store_input_gradient_region(c, 0u, tile, thread, subgroups);
//! if REGIONS - 1u
    store_input_gradient_region(d, 1u, tile, thread, subgroups);
//! end
}

// dw[chunk] = dyᵀ·x over the rows of the chunk
@compute @workgroup_size(THREADS)
fn weight_gradient(
    @builtin(workgroup_id) tile: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) number: u32,
    @builtin(num_subgroups) count: u32,
) {
    let subgroups = Subgroups(number, count);
    let outputs = params.outputs;
    let inputs = params.inputs / 4u;
    let stride = params.stride / 4u;
    var dy_columns: array<u32, OWN>;
    var x_columns: array<u32, OWN>;
    @unroll for (var i = 0u; i < OWN; i++) {
        let column = along(thread + i * THREADS).y;
        dy_columns[i] = params.column / 4u + min(tile.y * (TILE / 4u) + column, (outputs - 1u) / 4u);
        x_columns[i] = min(tile.x * (TILE / 4u) + column, inputs - 1u);
    }
    let c_at = corner(min(number, ALL_REGIONS - 1u));
    var c = empty();
//! if REGIONS - 1u
    let d_at = corner(min(number + count, ALL_REGIONS - 1u));
    var d = empty();
//! end
    var a: array<vec4<f32>, OWN>;
    var b: array<vec4<f32>, OWN>;
    let begin = tile.z * params.chunk;
    let end = min(begin + params.chunk, params.rows);
    let steps = (end - begin + DEPTH - 1u) / DEPTH;
    for (var step = 0u; step <= steps; step++) {
        @unroll for (var i = 0u; i < OWN; i++) {
            let index = thread + i * THREADS;
            stage_left(along(index).x * COLUMN + 4u * along(index).y, a[i]);
            stage_right(along(index).x * COLUMN + 4u * along(index).y, b[i]);
        }
        workgroupBarrier();
        // Loads for this step are under way while the step before is multiplied, which before the first is zeros: naga takes no condition here.
        @unroll for (var i = 0u; i < OWN; i++) {
            let k = begin + step * DEPTH + along(thread + i * THREADS).x;
            if (k < end) {
                a[i] = dy[k * stride + dy_columns[i]];
                b[i] = layer_input[k * inputs + x_columns[i]] * input_scale();
            } else {
                a[i] = vec4(0.0);
                b[i] = vec4(0.0);
            }
        }
        @unroll for (var k = 0u; k < DEPTH / SIZE; k++) {
            let at = k * SIZE;
            c = multiplied(c, left_along(c_at.x, at), left_along(c_at.x + SIZE, at), right_along(c_at.y, at), right_along(c_at.y + SIZE, at));
        }
//! if REGIONS - 1u
        @unroll for (var k = 0u; k < DEPTH / SIZE; k++) {
            let at = k * SIZE;
            d = multiplied(d, left_along(d_at.x, at), left_along(d_at.x + SIZE, at), right_along(d_at.y, at), right_along(d_at.y + SIZE, at));
        }
//! end
        workgroupBarrier();
    }

    store_weight_gradient_region(c, 0u, tile, thread, subgroups);
//! if REGIONS - 1u
    store_weight_gradient_region(d, 1u, tile, thread, subgroups);
//! end
}
