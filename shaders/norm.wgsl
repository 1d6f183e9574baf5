//! use row_sum

// LayerNorm (Ba, Kiros, Hinton 2016) of a sum: s = x + residual, y = (s - mean(s)) / sqrt(var(s) + epsilon) · weight + bias.

struct Params {
    rows: u32,
    columns: u32,
    epsilon: f32,
    has_residual: u32,
    has_addend: u32,
    chunk: u32, // weight_gradient: rows that one invocation adds up
}

@group(0) @binding(0) var<uniform> params: Params;

// forward
@group(0) @binding(1) var<storage, read> x: array<f32>;            // (rows, columns)
@group(0) @binding(2) var<storage, read> residual: array<f32>;     // (rows, columns)
@group(0) @binding(3) var<storage, read> weight: array<f32>;       // (columns)
@group(0) @binding(4) var<storage, read> bias: array<f32>;         // (columns)
@group(0) @binding(5) var<storage, read_write> s: array<f32>;      // (rows, columns)
@group(0) @binding(6) var<storage, read_write> stats: array<f32>;  // (rows, 2): mean and 1 / deviation
@group(0) @binding(7) var<storage, read_write> y: array<f32>;      // (rows, columns)

// backward and weight_gradient
@group(0) @binding(1) var<storage, read> dy: array<f32>;           // (rows, columns)
@group(0) @binding(2) var<storage, read> kept: array<f32>;         // (rows, columns): s
@group(0) @binding(4) var<storage, read> kept_stats: array<f32>;   // (rows, 2)
@group(0) @binding(5) var<storage, read> addend: array<f32>;       // (rows, columns)
@group(0) @binding(6) var<storage, read_write> ds: array<f32>;     // (rows, columns)
@group(0) @binding(5) var<storage, read_write> dweight: array<f32>; // (chunks, columns)
@group(0) @binding(6) var<storage, read_write> dbias: array<f32>;   // (chunks, columns)

@compute @workgroup_size(GROUP)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * ROWS + local / LANES;
    let lane = local % LANES;
    let first = min(row, params.rows - 1u) * params.columns;
    let writes = row < params.rows;

    var sum = 0.0;
    for (var c = lane; c < params.columns; c += LANES) {
        var v = x[first + c];
        if (params.has_residual != 0u) { v += residual[first + c]; }
        if (writes) { s[first + c] = v; }
        sum += v;
    }
    let mean = row_sum(sum, local) / f32(params.columns);
    var squares = 0.0;
    for (var c = lane; c < params.columns; c += LANES) {
        var v = x[first + c];
        if (params.has_residual != 0u) { v += residual[first + c]; }
        squares += (v - mean) * (v - mean);
    }
    let scale = inverseSqrt(row_sum(squares, local) / f32(params.columns) + params.epsilon);
    if (!writes) { return; }
    for (var c = lane; c < params.columns; c += LANES) {
        var v = x[first + c];
        if (params.has_residual != 0u) { v += residual[first + c]; }
        y[first + c] = (v - mean) * scale * weight[c] + bias[c];
    }
    if (lane == 0u) {
        stats[2u * row] = mean;
        stats[2u * row + 1u] = scale;
    }
}

// ds = (g - mean(g) - n · mean(g · n)) · scale + addend, where n = (s - mean) · scale and g = dy · weight
@compute @workgroup_size(GROUP)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * ROWS + local / LANES;
    let lane = local % LANES;
    let read_row = min(row, params.rows - 1u);
    let first = read_row * params.columns;
    let mean = kept_stats[2u * read_row];
    let scale = kept_stats[2u * read_row + 1u];

    var sum = 0.0;
    var product = 0.0;
    for (var c = lane; c < params.columns; c += LANES) {
        let g = dy[first + c] * weight[c];
        sum += g;
        product += g * (kept[first + c] - mean) * scale;
    }
    let mean_g = row_sum(sum, local) / f32(params.columns);
    let mean_gn = row_sum(product, local) / f32(params.columns);
    if (row >= params.rows) { return; }
    for (var c = lane; c < params.columns; c += LANES) {
        let n = (kept[first + c] - mean) * scale;
        var v = (dy[first + c] * weight[c] - mean_g - n * mean_gn) * scale;
        if (params.has_addend != 0u) { v += addend[first + c]; }
        ds[first + c] = v;
    }
}

// dweight[chunk] = Σ dy · n and dbias[chunk] = Σ dy over the rows of the chunk
@compute @workgroup_size(GROUP)
fn weight_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = group.x * GROUP + local;
    if (column >= params.columns) { return; }
    var w = 0.0;
    var b = 0.0;
    for (var row = group.y * params.chunk; row < min((group.y + 1u) * params.chunk, params.rows); row++) {
        let i = row * params.columns + column;
        w += dy[i] * (kept[i] - kept_stats[2u * row]) * kept_stats[2u * row + 1u];
        b += dy[i];
    }
    dweight[group.y * params.columns + column] = w;
    dbias[group.y * params.columns + column] = b;
}
