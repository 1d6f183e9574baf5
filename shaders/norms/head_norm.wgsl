//! use row_sum, value

// RMSNorm (Zhang, Sennrich 2019) of every query and key head of packed qkv, as in Qwen3: y = x / sqrt(mean(x²) + epsilon) · weight,
// where all query heads share one weight and all key heads another. Values are copied. ROW_THREADS invocations share a head as their row.

struct Params {
    rows: u32,   // tokens · parts
    parts: u32,  // heads of a token: heads + 2 · key_value_heads
    heads: u32,  // of queries: the first parts
    normed: u32, // heads of queries and keys; the parts after them are values
    size: u32,   // of a head, in Values
    epsilon: f32,
    chunk: u32,  // weight_gradient: tokens that one invocation adds up
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Value>;            // (tokens, parts · size): queries, keys, values
@group(0) @binding(2) var<storage, read> query_weight: array<Value>; // (size)
@group(0) @binding(3) var<storage, read> key_weight: array<Value>;   // (size)

// forward
@group(0) @binding(4) var<storage, read_write> scales: array<f32>; // (tokens, parts): 1 / sqrt(mean(x²) + epsilon)
@group(0) @binding(5) var<storage, read_write> y: array<Value>;    // (tokens, parts · size)

// backward and weight_gradient
@group(0) @binding(4) var<storage, read> kept_scales: array<f32>;    // (tokens, parts)
@group(0) @binding(5) var<storage, read> dy: array<Value>;           // (tokens, parts · size)
@group(0) @binding(6) var<storage, read_write> dx: array<Value>;     // (tokens, parts · size)
@group(0) @binding(6) var<storage, read_write> dquery: array<Value>; // (chunks, heads · size)
@group(0) @binding(7) var<storage, read_write> dkey: array<Value>;   // (chunks, (normed - heads) · size)

fn weight_of(part: u32, c: u32) -> Value {
    if (part < params.heads) { return query_weight[c]; }
    return key_weight[c];
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = group.x * WORKGROUP_ROWS + local / ROW_THREADS;
    let lane = local % ROW_THREADS;
    let row = min(at, params.rows - 1u);
    let first = row * params.size;
    let part = row % params.parts;

    var squares = Value();
    for (var c = lane; c < params.size; c += ROW_THREADS) {
        let v = x[first + c];
        squares += v * v;
    }
    let scale = inverseSqrt(row_sum(sum_of(squares), local) / f32(params.size * VECTOR) + params.epsilon);
    if (at >= params.rows) { return; }
    for (var c = lane; c < params.size; c += ROW_THREADS) {
        var v = x[first + c];
        if (part < params.normed) { v *= scale * weight_of(part, c); }
        y[first + c] = v;
    }
    if (lane == 0u) { scales[row] = scale; }
}

// dx = (g - n · mean(g · n)) · scale, where n = x · scale and g = dy · weight; dx = dy for values
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = group.x * WORKGROUP_ROWS + local / ROW_THREADS;
    let lane = local % ROW_THREADS;
    let row = min(at, params.rows - 1u);
    let first = row * params.size;
    let part = row % params.parts;
    let scale = kept_scales[row];

    var product = Value();
    for (var c = lane; c < params.size; c += ROW_THREADS) { product += dy[first + c] * weight_of(part, c) * x[first + c] * scale; }
    let mean_gn = row_sum(sum_of(product), local) / f32(params.size * VECTOR);
    if (at >= params.rows) { return; }
    for (var c = lane; c < params.size; c += ROW_THREADS) {
        var v = dy[first + c];
        if (part < params.normed) { v = (v * weight_of(part, c) - x[first + c] * scale * mean_gn) * scale; }
        dx[first + c] = v;
    }
}

// dquery[chunk] and dkey[chunk] = Σ dy · n over the tokens of the chunk, still separate for each head
@compute @workgroup_size(WORKGROUP)
fn weight_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = group.x * WORKGROUP + local;
    let queries = params.heads * params.size;
    let both = params.normed * params.size;
    if (column >= both) { return; }
    let part = column / params.size;
    let tokens = params.rows / params.parts;
    var w = Value();
    for (var token = group.y * params.chunk; token < min((group.y + 1u) * params.chunk, tokens); token++) {
        let i = token * params.parts * params.size + column;
        w += dy[i] * x[i] * kept_scales[token * params.parts + part];
    }
    if (column < queries) {
        dquery[group.y * queries + column] = w;
    } else {
        dkey[group.y * (both - queries) + column - queries] = w;
    }
}
