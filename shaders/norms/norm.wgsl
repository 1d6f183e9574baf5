//! use row_sum, value

// LayerNorm (Ba, Kiros, Hinton 2016): y = (s - mean(s)) / sqrt(var(s) + epsilon) · weight + bias. RMSNorm (Zhang, Sennrich 2019) is the
// same with a mean of zero and no bias: y = s / sqrt(mean(s²) + epsilon) · weight. s is x, or x + residual if SUM is set.

override RMS: u32 = 0u;
override SUM: u32 = 0u;

struct Params {
    rows: u32,
    columns: u32, // in Values
    epsilon: f32,
    has_addend: u32,
    chunk: u32, // weight_gradient: rows that one invocation adds up
}

@group(0) @binding(0) var<uniform> params: Params;

// forward
@group(0) @binding(1) var<storage, read> x: array<Value>;         // (rows, columns)
@group(0) @binding(2) var<storage, read> residual: array<Value>;  // (rows, columns)
@group(0) @binding(3) var<storage, read> weight: array<Value>;    // (columns)
@group(0) @binding(4) var<storage, read> bias: array<Value>;      // (columns)
@group(0) @binding(5) var<storage, read_write> s: array<Value>;   // (rows, columns)
@group(0) @binding(6) var<storage, read_write> stats: array<f32>; // (rows, 2): mean (0 if RMS is set) and 1 / deviation
@group(0) @binding(7) var<storage, read_write> y: array<Value>;   // (rows, columns)

// backward and weight_gradient
@group(0) @binding(1) var<storage, read> dy: array<Value>;            // (rows, columns)
@group(0) @binding(2) var<storage, read> kept: array<Value>;          // (rows, columns): s
@group(0) @binding(4) var<storage, read> kept_stats: array<f32>;      // (rows, 2)
@group(0) @binding(5) var<storage, read> addend: array<Value>;        // (rows, columns)
@group(0) @binding(6) var<storage, read_write> ds: array<Value>;      // (rows, columns)
@group(0) @binding(5) var<storage, read_write> dweight: array<Value>; // (chunks, columns)
@group(0) @binding(6) var<storage, read_write> dbias: array<Value>;   // (chunks, columns)

// Value i of s: `first_of_s` for the first access, which also computes and stores it if SUM is set, `of_s` for later ones.
fn first_of_s(i: u32, writes: bool) -> Value {
//! if SUM
    let v = x[i] + residual[i];
    if (writes) { s[i] = v; }
    return v;
//! else
    return x[i];
//! end
}
fn of_s(i: u32) -> Value {
//! if SUM
    return s[i];
//! else
    return x[i];
//! end
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * WORKGROUP_ROWS + local / ROW_THREADS;
    let lane = local % ROW_THREADS;
    let first = min(row, params.rows - 1u) * params.columns;
    let writes = row < params.rows;

    var mean = 0.0;
    var squares = Value();
//! if RMS
    for (var c = lane; c < params.columns; c += ROW_THREADS) {
        let v = first_of_s(first + c, writes);
        squares += v * v;
    }
//! else
    var sum = Value();
    for (var c = lane; c < params.columns; c += ROW_THREADS) { sum += first_of_s(first + c, writes); }
    mean = row_sum(sum_of(sum), local) / f32(params.columns * VECTOR);
    for (var c = lane; c < params.columns; c += ROW_THREADS) {
        let v = of_s(first + c) - mean;
        squares += v * v;
    }
//! end
    let scale = inverseSqrt(row_sum(sum_of(squares), local) / f32(params.columns * VECTOR) + params.epsilon);
    if (!writes) { return; }
    for (var c = lane; c < params.columns; c += ROW_THREADS) {
        var n = (of_s(first + c) - mean) * scale * weight[c];
//! if 1u - RMS
        n += bias[c];
//! end
        y[first + c] = n;
    }
    if (lane == 0u) {
        stats[2u * row] = mean;
        stats[2u * row + 1u] = scale;
    }
}

// ds = (g - mean(g) - n · mean(g · n)) · scale + addend, where n = (s - mean) · scale and g = dy · weight. RMSNorm subtracts no mean in
// the forward pass, so mean(g) is absent.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * WORKGROUP_ROWS + local / ROW_THREADS;
    let lane = local % ROW_THREADS;
    let read_row = min(row, params.rows - 1u);
    let first = read_row * params.columns;
    let mean = kept_stats[2u * read_row];
    let scale = kept_stats[2u * read_row + 1u];

    var sum = Value();
    var product = Value();
    for (var c = lane; c < params.columns; c += ROW_THREADS) {
        let g = dy[first + c] * weight[c];
        sum += g;
        product += g * (kept[first + c] - mean) * scale;
    }
    var mean_g = 0.0;
//! if 1u - RMS
    mean_g = row_sum(sum_of(sum), local) / f32(params.columns * VECTOR);
//! end
    let mean_gn = row_sum(sum_of(product), local) / f32(params.columns * VECTOR);
    if (row >= params.rows) { return; }
    for (var c = lane; c < params.columns; c += ROW_THREADS) {
        let n = (kept[first + c] - mean) * scale;
        var v = (dy[first + c] * weight[c] - mean_g - n * mean_gn) * scale;
        if (params.has_addend != 0u) { v += addend[first + c]; }
        ds[first + c] = v;
    }
}

// dweight[chunk] = Σ dy · n and, for LayerNorm, dbias[chunk] = Σ dy over the rows of the chunk
@compute @workgroup_size(WORKGROUP)
fn weight_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = group.x * WORKGROUP + local;
    if (column >= params.columns) { return; }
    var w = Value();
    var b = Value();
    for (var row = group.y * params.chunk; row < min((group.y + 1u) * params.chunk, params.rows); row++) {
        let i = row * params.columns + column;
        let d = dy[i];
        w += d * (kept[i] - kept_stats[2u * row]) * kept_stats[2u * row + 1u];
        b += d;
    }
    dweight[group.y * params.columns + column] = w;
//! if 1u - RMS
    dbias[group.y * params.columns + column] = b;
//! end
}
