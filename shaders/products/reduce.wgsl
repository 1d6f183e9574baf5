//! use grid, value

// Sums over tokens in two passes, so that the order is fixed and no atomics are needed: first within chunks, then over the chunks. With a
// single chunk, the first pass is enough.

override ACCUMULATE: u32 = 0u; // 1: column_sum adds to sums instead of writing them

struct Params {
    rows: u32,    // column_sum: rows of x; add_partials: chunks
    columns: u32, // in Values, as is stride
    stride: u32,  // column_sum: from one row of x to the next
    chunk: u32,   // column_sum: rows per chunk
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Value>;              // (rows, stride)
@group(0) @binding(2) var<storage, read_write> sums: array<Value>;     // (chunks, columns)
@group(0) @binding(2) var<storage, read_write> gradient: array<Value>; // (columns)

// sums[chunk] = Σ x[row] over the rows of the chunk
@compute @workgroup_size(64)
fn column_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x * 64u + lane;
    if (column >= params.columns) { return; }
    var sum = Value();
    for (var row = group.y * params.chunk; row < min((group.y + 1u) * params.chunk, params.rows); row++) {
        sum += x[row * params.stride + column];
    }
    let i = group.y * params.columns + column;
//! if ACCUMULATE
    sum += sums[i];
//! end
    sums[i] = sum;
}

// gradient += Σ over the chunks
@compute @workgroup_size(FLAT)
fn add_partials(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.columns) { return; }
    var sum = gradient[i];
    for (var row = 0u; row < params.rows; row++) { sum += x[row * params.columns + i]; }
    gradient[i] = sum;
}
