//! use row_sum, value

// AdapterFusion (Pfeiffer et al. 2021): attention of each token over the outputs of few adapters.

const FLAT: u32 = 64u; // invocations per workgroup of the elementwise kernels

struct Params {
    len: u32,     // of the output, in Values, as are columns and offset
    rows: u32,
    columns: u32,
    count: u32,   // of adapters
    offset: u32,
    has_addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// collect, and part for its gradient
@group(0) @binding(1) var<storage, read> x: array<Value>;       // (rows, columns); part: (count, rows, columns)
@group(0) @binding(2) var<storage, read_write> y: array<Value>; // (count, rows, columns); part: (rows, columns)
@group(0) @binding(2) var<storage, read> addend: array<Value>;  // part: (rows, columns)
@group(0) @binding(3) var<storage, read_write> sum: array<Value>;

// scores
@group(0) @binding(1) var<storage, read> query: array<Value>;         // (rows, columns)
@group(0) @binding(2) var<storage, read> keys: array<Value>;          // (count, rows, columns)
@group(0) @binding(3) var<storage, read_write> products: array<f32>;  // (rows, count)

// softmax and its gradient
@group(0) @binding(1) var<storage, read> before: array<f32>;         // (rows, count)
@group(0) @binding(2) var<storage, read> dweights: array<f32>;       // (rows, count)
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;  // (rows, count)
@group(0) @binding(3) var<storage, read_write> dscores: array<f32>;  // (rows, count)

// mix
@group(0) @binding(1) var<storage, read> shares: array<f32>;         // (rows, count)
@group(0) @binding(2) var<storage, read> values: array<Value>;       // (count, rows, columns)
@group(0) @binding(3) var<storage, read> more: array<Value>;         // (rows, columns)
@group(0) @binding(4) var<storage, read_write> mixed: array<Value>;  // (rows, columns)

// spread
@group(0) @binding(2) var<storage, read> one: array<Value>;           // (rows, columns)
@group(0) @binding(3) var<storage, read> others: array<Value>;        // (count, rows, columns)
@group(0) @binding(4) var<storage, read_write> spread_out: array<Value>; // (count, rows, columns)

// y[offset ..] = x
@compute @workgroup_size(FLAT)
fn collect(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * FLAT + lane;
    if (i < params.len) { y[params.offset + i] = x[i]; }
}

// sum = x[offset ..] + addend
@compute @workgroup_size(FLAT)
fn part(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * FLAT + lane;
    if (i >= params.len) { return; }
    var v = x[params.offset + i];
    if (params.has_addend != 0u) { v += addend[i]; }
    sum[i] = v;
}

// products[row, k] = query[row] · keys[k, row]
@compute @workgroup_size(WORKGROUP)
fn scores(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = group.x * WORKGROUP_ROWS + local / ROW_THREADS;
    let lane = local % ROW_THREADS;
    let row = min(at, params.rows - 1u);
    let first = row * params.columns;
    for (var k = 0u; k < params.count; k++) {
        let key = (k * params.rows + row) * params.columns;
        var products_of_lane = Value();
        for (var c = lane; c < params.columns; c += ROW_THREADS) { products_of_lane += query[first + c] * keys[key + c]; }
        let total = row_sum(sum_of(products_of_lane), local);
        if (at < params.rows && lane == 0u) { products[row * params.count + k] = total; }
    }
}

// weights[row] = softmax(before[row])
@compute @workgroup_size(FLAT)
fn softmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * FLAT + lane;
    if (row >= params.rows) { return; }
    let first = row * params.count;
    var largest = before[first];
    for (var k = 1u; k < params.count; k++) { largest = max(largest, before[first + k]); }
    var total = 0.0;
    for (var k = 0u; k < params.count; k++) { total += exp(before[first + k] - largest); }
    for (var k = 0u; k < params.count; k++) { weights[first + k] = exp(before[first + k] - largest) / total; }
}

// dscores = w · (dw - Σ w · dw), where `before` has the weights w
@compute @workgroup_size(FLAT)
fn softmax_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * FLAT + lane;
    if (row >= params.rows) { return; }
    let first = row * params.count;
    var mean = 0.0;
    for (var k = 0u; k < params.count; k++) { mean += before[first + k] * dweights[first + k]; }
    for (var k = 0u; k < params.count; k++) { dscores[first + k] = before[first + k] * (dweights[first + k] - mean); }
}

// mixed[row] = Σ shares[row, k] · values[k, row] + more[row]
@compute @workgroup_size(FLAT)
fn mix(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * FLAT + lane;
    if (i >= params.len) { return; }
    let row = i / params.columns;
    var v = Value();
    if (params.has_addend != 0u) { v = more[i]; }
    for (var k = 0u; k < params.count; k++) { v += shares[row * params.count + k] * values[k * params.len + i]; }
    mixed[i] = v;
}

// spread_out[k, row] = shares[row, k] · one[row] + others[k, row]
@compute @workgroup_size(FLAT)
fn spread(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * FLAT + lane;
    if (i >= params.len) { return; }
    let each = params.rows * params.columns;
    let within = i % each;
    var v = shares[within / params.columns * params.count + i / each] * one[within];
    if (params.has_addend != 0u) { v += others[i]; }
    spread_out[i] = v;
}
