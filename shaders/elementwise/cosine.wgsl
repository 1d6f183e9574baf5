//! use row_sum, value

// The cosine of the angle between each two neighbouring rows.

const LEAST: f32 = 1e-24; // of a squared length, so that a row of zeros has the cosine 0

struct Params {
    pairs: u32,
    columns: u32, // in Values
    has_addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Value>;           // (2 · pairs, columns)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;       // (pairs)
@group(0) @binding(3) var<storage, read_write> lengths: array<f32>; // (pairs, 2): the rows' squared lengths
@group(0) @binding(2) var<storage, read> kept_y: array<f32>;        // (pairs)
@group(0) @binding(3) var<storage, read> kept_lengths: array<f32>;  // (pairs, 2)
@group(0) @binding(4) var<storage, read> dy: array<f32>;            // (pairs)
@group(0) @binding(5) var<storage, read> addend: array<Value>;      // (2 · pairs, columns)
@group(0) @binding(6) var<storage, read_write> dx: array<Value>;    // (2 · pairs, columns)

// y = a · b / (|a| |b|)
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let pair = group.x * WORKGROUP_ROWS + local / ROW_THREADS;
    let lane = local % ROW_THREADS;
    let first = 2u * min(pair, params.pairs - 1u) * params.columns;
    var product = Value(0.0);
    var own = Value(0.0);
    var other = Value(0.0);
    for (var c = lane; c < params.columns; c += ROW_THREADS) {
        let a = x[first + c];
        let b = x[first + params.columns + c];
        product += a * b;
        own += a * a;
        other += b * b;
    }
    let dot = row_sum(sum_of(product), local);
    let a2 = max(row_sum(sum_of(own), local), LEAST);
    let b2 = max(row_sum(sum_of(other), local), LEAST);
    if (pair >= params.pairs || lane != 0u) { return; }
    y[pair] = dot / (sqrt(a2) * sqrt(b2));
    lengths[2u * pair] = a2;
    lengths[2u * pair + 1u] = b2;
}

// da = dy · (b / (|a| |b|) - y · a / |a|²) + addend, and the same for b
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * WORKGROUP_ROWS + local / ROW_THREADS;
    let pair = row / 2u;
    if (pair >= params.pairs) { return; }
    let own = kept_lengths[row];
    let other = kept_lengths[row ^ 1u];
    let across = dy[pair] / (sqrt(own) * sqrt(other));
    let along = dy[pair] * kept_y[pair] / own;
    for (var c = local % ROW_THREADS; c < params.columns; c += ROW_THREADS) {
        let i = row * params.columns + c;
        var v = across * x[(row ^ 1u) * params.columns + c] - along * x[i];
        if (params.has_addend != 0u) { v += addend[i]; }
        dx[i] = v;
    }
}
