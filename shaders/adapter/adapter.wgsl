//! use activation, adapter_params

// The bottleneck adapter (Houlsby 2019), fused: y = x + scaling · dropout(Up · σ(Down · x + b_down) + b_up), and its gradient to the
// input. A workgroup owns TOKENS tokens. It computes their narrow product, keeps it in workgroup memory and multiplies it again.
//
// Both products are made of tiles of TOKENS × 64 by slices of 64 threads, OWN_TOKENS tokens × 4 columns a thread. The slices share the contraction
// of the narrow product, whose parts are added in order, and the columns of the wide one. Both operands pass through workgroup memory, 8 elements
// of the contraction at a time; the next ones are loaded during the multiplication.

override BOTTLENECK: u32 = 64u; // rounded up to a multiple of 64
override OWN_TOKENS: u32 = 4u;
override SLICES: u32 = 4u;
override ACTIVATION: u32 = 0u;
override KEEP: u32 = 1u;             // forward: the narrow product is kept for the backward pass
override WITH_INPUT_GRADIENT: u32 = 1u; // 0: nothing below needs one, so only the narrow gradient is computed
const ACROSS: u32 = 16u;
const DOWN: u32 = 4u;
const SLICE: u32 = ACROSS * DOWN;
const THREADS: u32 = SLICE * SLICES;
const TOKENS: u32 = OWN_TOKENS * DOWN;
const COLUMNS: u32 = 64u * SLICES; // of the wide product that all slices compute together

//! if ALIGNED
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;    // forward: x; backward: dy (rows, hidden / 4)
@group(0) @binding(2) var<storage, read> down: array<vec4<f32>>; // (bottleneck, hidden / 4)
@group(0) @binding(3) var<storage, read> up: array<vec4<f32>>;   // (hidden, bottleneck / 4)
// forward
@group(0) @binding(4) var<storage, read> down_bias: array<vec4<f32>>;       // (bottleneck / 4)
@group(0) @binding(5) var<storage, read> up_bias: array<vec4<f32>>;         // (hidden / 4)
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;         // (rows, hidden / 4)
@group(0) @binding(7) var<storage, read_write> z: array<vec4<f32>>;         // (rows, bottleneck / 4): before the activation
@group(0) @binding(8) var<storage, read_write> activated: array<vec4<f32>>; // (rows, bottleneck / 4): after it
// backward
@group(0) @binding(4) var<storage, read> kept_z: array<vec4<f32>>;   // (rows, bottleneck / 4)
@group(0) @binding(5) var<storage, read> addend: array<vec4<f32>>;   // (rows, hidden / 4)
@group(0) @binding(6) var<storage, read_write> dz: array<vec4<f32>>; // (rows, bottleneck / 4)
@group(0) @binding(7) var<storage, read_write> dx: array<vec4<f32>>; // (rows, hidden / 4)
//! else
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> down: array<f32>;
@group(0) @binding(3) var<storage, read> up: array<f32>;
@group(0) @binding(4) var<storage, read> down_bias: array<f32>;
@group(0) @binding(5) var<storage, read> up_bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read_write> z: array<f32>;
@group(0) @binding(8) var<storage, read_write> activated: array<f32>;
@group(0) @binding(4) var<storage, read> kept_z: array<f32>;
@group(0) @binding(5) var<storage, read> addend: array<f32>;
@group(0) @binding(6) var<storage, read_write> dz: array<f32>;
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;
//! end

// Elements 4i to 4i + 3 of a row, zero past its end.
fn input4(row: u32, i: u32) -> vec4<f32> {
//! if ALIGNED
    let fours = params.hidden / 4u;
    return select(vec4(0.0), x[row * fours + min(i, fours - 1u)], i < fours);
//! else
    var v = vec4(0.0);
    for (var c = 0u; c < present(i, params.hidden); c++) { v[c] = x[row * params.hidden + 4u * i + c]; }
    return v;
//! end
}
fn down4(row: u32, i: u32) -> vec4<f32> {
//! if ALIGNED
    let fours = params.hidden / 4u;
    return select(vec4(0.0), down[row * fours + min(i, fours - 1u)], i < fours);
//! else
    var v = vec4(0.0);
    for (var c = 0u; c < present(i, params.hidden); c++) { v[c] = down[row * params.hidden + 4u * i + c]; }
    return v;
//! end
}
fn up4(row: u32, i: u32) -> vec4<f32> {
//! if ALIGNED
    let fours = params.bottleneck / 4u;
    return select(vec4(0.0), up[row * fours + min(i, fours - 1u)], i < fours);
//! else
    var v = vec4(0.0);
    for (var c = 0u; c < present(i, params.bottleneck); c++) { v[c] = up[row * params.bottleneck + 4u * i + c]; }
    return v;
//! end
}

// Four elements of a bias or a row, of which those past the end are zero or not written.
fn down_bias4(i: u32) -> vec4<f32> {
//! if ALIGNED
    return down_bias[min(i, params.bottleneck / 4u - 1u)];
//! else
    var v = vec4(0.0);
    for (var c = 0u; c < present(i, params.bottleneck); c++) { v[c] = down_bias[4u * i + c]; }
    return v;
//! end
}
fn up_bias4(i: u32) -> vec4<f32> {
//! if ALIGNED
    return up_bias[min(i, params.hidden / 4u - 1u)];
//! else
    var v = vec4(0.0);
    for (var c = 0u; c < present(i, params.hidden); c++) { v[c] = up_bias[4u * i + c]; }
    return v;
//! end
}
fn store_z(row: u32, i: u32, v: vec4<f32>) {
    let at = row * params.bottleneck + 4u * i;
//! if ALIGNED
    if (4u * i < params.bottleneck) { z[at / 4u] = v; }
//! else
    for (var c = 0u; c < present(i, params.bottleneck); c++) { z[at + c] = v[c]; }
//! end
}
fn store_activated(row: u32, i: u32, v: vec4<f32>) {
    let at = row * params.bottleneck + 4u * i;
//! if ALIGNED
    if (4u * i < params.bottleneck) { activated[at / 4u] = v; }
//! else
    for (var c = 0u; c < present(i, params.bottleneck); c++) { activated[at + c] = v[c]; }
//! end
}
fn store_y(row: u32, i: u32, v: vec4<f32>) {
    let at = row * params.hidden + 4u * i;
//! if ALIGNED
    if (4u * i < params.hidden) { y[at / 4u] = v; }
//! else
    for (var c = 0u; c < present(i, params.hidden); c++) { y[at + c] = v[c]; }
//! end
}
fn kept_z4(row: u32, i: u32) -> vec4<f32> {
    let at = row * params.bottleneck + 4u * i;
//! if ALIGNED
    return kept_z[at / 4u];
//! else
    var v = vec4(0.0);
    for (var c = 0u; c < present(i, params.bottleneck); c++) { v[c] = kept_z[at + c]; }
    return v;
//! end
}
fn addend4(row: u32, i: u32) -> vec4<f32> {
    let at = row * params.hidden + 4u * i;
//! if ALIGNED
    return addend[at / 4u];
//! else
    var v = vec4(0.0);
    for (var c = 0u; c < present(i, params.hidden); c++) { v[c] = addend[at + c]; }
    return v;
//! end
}
fn store_dz(row: u32, i: u32, v: vec4<f32>) {
    let at = row * params.bottleneck + 4u * i;
//! if ALIGNED
    if (4u * i < params.bottleneck) { dz[at / 4u] = v; }
//! else
    for (var c = 0u; c < present(i, params.bottleneck); c++) { dz[at + c] = v[c]; }
//! end
}
fn store_dx(row: u32, i: u32, v: vec4<f32>) {
    let at = row * params.hidden + 4u * i;
//! if ALIGNED
    if (4u * i < params.hidden) { dx[at / 4u] = v; }
//! else
    for (var c = 0u; c < present(i, params.hidden); c++) { dx[at + c] = v[c]; }
//! end
}

// The left operand of each slice's product (SLICES, 2, TOKENS), four of the contraction in a vector; then the narrow product
// (BOTTLENECK / 4, TOKENS).
const NARROW: u32 = SLICES * 2u * TOKENS;
const NARROW_ROW: u32 = BOTTLENECK / 4u;
const LEFT: u32 = NARROW + NARROW_ROW * TOKENS;
var<workgroup> left: array<vec4<f32>, LEFT>;
// The right operand of each slice's product, either (SLICES, 2, 64) with the contraction along its vectors, as columns 4x + c at 16c + x,
// or (SLICES, 8, 16) with columns along them.
const RIGHT: u32 = SLICES * 128u;
var<workgroup> right: array<vec4<f32>, RIGHT>;

// sum[t] += left[t] · right over 8 of the contraction, which lie along the vectors of both.
fn add_across(sum: ptr<function, array<vec4<f32>, OWN_TOKENS>>, tokens: u32, columns: u32) {
    @unroll for (var k = 0u; k < 2u; k++) {
        let w0 = right[columns + 64u * k];
        let w1 = right[columns + 64u * k + 16u];
        let w2 = right[columns + 64u * k + 32u];
        let w3 = right[columns + 64u * k + 48u];
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
            let a = left[tokens + TOKENS * k + t];
            @unroll for (var j = 0u; j < 4u; j++) { (*sum)[t] += a[j] * vec4(w0[j], w1[j], w2[j], w3[j]); }
        }
    }
}

// The same where the vectors of the right operand lie along its columns.
fn add_along(sum: ptr<function, array<vec4<f32>, OWN_TOKENS>>, tokens: u32, columns: u32) {
    @unroll for (var k = 0u; k < 2u; k++) {
        var own: array<vec4<f32>, OWN_TOKENS>;
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) { own[t] = left[tokens + TOKENS * k + t]; }
        @unroll for (var j = 0u; j < 4u; j++) {
            let w = right[columns + 64u * k + 16u * j];
            @unroll for (var t = 0u; t < OWN_TOKENS; t++) { (*sum)[t] += own[t][j] * w; }
        }
    }
}

// Adds the slices' parts of 64 columns of the narrow product from `start` on, in their order.
fn add_slices(sum: ptr<function, array<vec4<f32>, OWN_TOKENS>>, start: u32, slice: u32, token: u32, four: u32) {
    let at = NARROW + (start / 4u + four) * TOKENS + token;
    for (var s = 0u; s < SLICES; s++) {
        if (slice == s) {
            @unroll for (var t = 0u; t < OWN_TOKENS; t++) {
                var v = (*sum)[t];
                if (s > 0u) { v += left[at + t]; }
                left[at + t] = v;
            }
        }
        workgroupBarrier();
    }
}

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let slice = thread / SLICE;
    let lane = thread % SLICE;
    let four = lane % ACROSS;
    let token = lane / ACROSS * OWN_TOKENS;
    let first = group.x * TOKENS;
    let left_at = slice * 2u * TOKENS;
    let right_at = slice * 128u;
    let staged_column = lane % 16u * 4u + lane / 16u;
    let a_row = min(first + lane / 2u, params.rows - 1u);

    let steps = (params.hidden + 8u * SLICES - 1u) / (8u * SLICES);
    for (var start = 0u; start < BOTTLENECK; start += 64u) {
        var sum: array<vec4<f32>, OWN_TOKENS>;
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) { sum[t] = vec4(0.0); }
        var a = vec4(0.0);
        let b_row = min(start + staged_column, params.bottleneck - 1u);
        for (var step = 0u; step <= steps; step++) {
            let k = (step * SLICES + slice) * 2u;
            if (lane < 2u * TOKENS) { a = input4(a_row, k + lane % 2u); }
            let b = down4(b_row, k);
            let b_next = down4(b_row, k + 1u);
            if (step > 0u) { add_across(&sum, left_at + token, right_at + four); }
            workgroupBarrier();
            if (lane < 2u * TOKENS) { left[left_at + lane % 2u * TOKENS + lane / 2u] = a; }
            right[right_at + lane] = b;
            right[right_at + 64u + lane] = b_next;
            workgroupBarrier();
        }
        add_slices(&sum, start, slice, token, four);
    }

    for (var i = thread; i < TOKENS * NARROW_ROW; i += THREADS) {
        let row = first + i / NARROW_ROW;
        let column = i % NARROW_ROW;
        let at = NARROW + column * TOKENS + i / NARROW_ROW;
        var v = left[at];
        if (params.has_biases != 0u) { v += down_bias4(column); }
        let after = activate(ACTIVATION, v);
//! if KEEP
        if (row < params.rows && group.y == 0u) {
            store_z(row, column, v);
            store_activated(row, column, after);
        }
//! end
        left[at] = after;
    }
    workgroupBarrier();

    let end = min((group.y + 1u) * params.columns, params.hidden);
    for (var columns = group.y * params.columns; columns < end; columns += COLUMNS) {
        let strip = columns + slice * 64u;
        var sum: array<vec4<f32>, OWN_TOKENS>;
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) { sum[t] = vec4(0.0); }
        let b_row = min(strip + staged_column, params.hidden - 1u);
        for (var step = 0u; step <= BOTTLENECK / 8u; step++) {
            let b = up4(b_row, step * 2u);
            let b_next = up4(b_row, step * 2u + 1u);
            if (step > 0u) { add_across(&sum, NARROW + (step - 1u) * 2u * TOKENS + token, right_at + four); }
            workgroupBarrier();
            right[right_at + lane] = b;
            right[right_at + 64u + lane] = b_next;
            workgroupBarrier();
        }
        let column = strip + 4u * four;
        for (var t = 0u; t < OWN_TOKENS; t++) {
            let row = first + token + t;
            if (row < params.rows && column < end) {
                var v = sum[t];
                if (params.has_biases != 0u) { v += up_bias4(column / 4u); }
                store_y(row, column / 4u, input4(row, column / 4u) + v * branch_factor(row, column));
            }
        }
    }
}

// dz = (outer · Up) · σ'(z), where outer = dy · scaling · dropout; dx = dy + dz · Down + addend
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let slice = thread / SLICE;
    let lane = thread % SLICE;
    let four = lane % ACROSS;
    let token = lane / ACROSS * OWN_TOKENS;
    let first = group.x * TOKENS;
    let left_at = slice * 2u * TOKENS;
    let right_at = slice * 128u;
    let a_row = min(first + lane / 2u, params.rows - 1u);

    let steps = (params.hidden + 8u * SLICES - 1u) / (8u * SLICES);
    for (var start = 0u; start < BOTTLENECK; start += 64u) {
        var sum: array<vec4<f32>, OWN_TOKENS>;
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) { sum[t] = vec4(0.0); }
        var a = vec4(0.0);
        for (var step = 0u; step <= steps; step++) {
            let k = (step * SLICES + slice) * 8u;
            if (lane < 2u * TOKENS) {
                let at = k / 4u + lane % 2u;
                a = input4(a_row, at) * branch_factor(a_row, 4u * at);
            }
            // Past the end of the contraction the left operand is zero.
            let b = up4(min(k + lane / 16u, params.hidden - 1u), start / 4u + four);
            let b_next = up4(min(k + lane / 16u + 4u, params.hidden - 1u), start / 4u + four);
            if (step > 0u) { add_along(&sum, left_at + token, right_at + four); }
            workgroupBarrier();
            if (lane < 2u * TOKENS) { left[left_at + lane % 2u * TOKENS + lane / 2u] = a; }
            right[right_at + lane] = b;
            right[right_at + 64u + lane] = b_next;
            workgroupBarrier();
        }
        add_slices(&sum, start, slice, token, four);
    }

    for (var i = thread; i < TOKENS * NARROW_ROW; i += THREADS) {
        let row = first + i / NARROW_ROW;
        let column = i % NARROW_ROW;
        let at = NARROW + column * TOKENS + i / NARROW_ROW;
        var v = vec4(0.0);
        if (row < params.rows && 4u * column < params.bottleneck) { v = left[at] * derivative(ACTIVATION, kept_z4(row, column)); }
        if (row < params.rows && group.y == 0u) { store_dz(row, column, v); }
        left[at] = v;
    }
//! if WITH_INPUT_GRADIENT
    workgroupBarrier();

    let end = min((group.y + 1u) * params.columns, params.hidden);
    for (var columns = group.y * params.columns; columns < end; columns += COLUMNS) {
        let strip = columns + slice * 64u;
        var sum: array<vec4<f32>, OWN_TOKENS>;
        @unroll for (var t = 0u; t < OWN_TOKENS; t++) { sum[t] = vec4(0.0); }
        for (var step = 0u; step <= BOTTLENECK / 8u; step++) {
            let k = step * 8u + lane / 16u;
            let b = down4(min(k, params.bottleneck - 1u), strip / 4u + four);
            let b_next = down4(min(k + 4u, params.bottleneck - 1u), strip / 4u + four);
            if (step > 0u) { add_along(&sum, NARROW + (step - 1u) * 2u * TOKENS + token, right_at + four); }
            workgroupBarrier();
            right[right_at + lane] = b;
            right[right_at + 64u + lane] = b_next;
            workgroupBarrier();
        }
        let column = strip / 4u + four;
        for (var t = 0u; t < OWN_TOKENS; t++) {
            let row = first + token + t;
            if (row < params.rows && 4u * column < end) {
                var v = sum[t] + input4(row, column);
                if (params.has_addend != 0u) { v += addend4(row, column); }
                store_dx(row, column, v);
            }
        }
    }
//! end
}
