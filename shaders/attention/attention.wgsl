//! use attention_params

// Causal or full attention that keeps only the log-sum-exp (Dao et al. 2022): an invocation holds whole rows of HEAD numbers in
// registers and walks over the others TILE at a time, which the workgroup shares through its memory. The walk over a tile is a loop:
// drivers compile it many times faster than one that is written out.

override LANES: u32 = 64u;  // rows that one workgroup owns
override TILE: u32 = 16u;   // rows that the lanes share at a time

var<workgroup> first_rows: array<vec4<f32>, TILE * HEAD4>;
var<workgroup> second_rows: array<vec4<f32>, TILE * HEAD4>;

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let batch = group.z;
    let length = params.length;
    let query = group.x * LANES + lane;
    let row = batch * length + min(query, length - 1u);
    let shared_head = head * params.key_value_heads / params.heads;
    let first_key = key_column(shared_head);
    let first_value = value_column(shared_head);
    let keys = min(lengths[batch], length);
    let end = seen_before((group.x + 1u) * LANES, keys);

    var q: array<vec4<f32>, HEAD4>;
    var sum: array<vec4<f32>, HEAD4>;
    @unroll for (var d = 0u; d < HEAD4; d++) {
        q[d] = qkv[row * row_width() + head * HEAD4 + d] * params.scale;
        sum[d] = vec4(0.0);
    }
    var largest = LOWEST;
    var total = 0.0;
    for (var start = 0u; start < end; start += TILE) {
        workgroupBarrier();
        for (var i = lane; i < TILE * HEAD4; i += LANES) {
            let shared_row = (batch * length + min(start + i / HEAD4, length - 1u)) * row_width();
            first_rows[i] = qkv[shared_row + first_key + i % HEAD4];
            second_rows[i] = qkv[shared_row + first_value + i % HEAD4];
        }
        workgroupBarrier();
        var p: array<f32, TILE>;
        var tile_largest = largest;
        for (var t = 0u; t < TILE; t++) {
            var products = vec4(0.0);
            @unroll for (var d = 0u; d < HEAD4; d++) {
                products += q[d] * first_rows[t * HEAD4 + d];
            }
            let score = products.x + products.y + products.z + products.w;
            p[t] = select(LOWEST, score, sees(query, start + t, keys));
            tile_largest = max(tile_largest, p[t]);
        }
        let shrink = exp(largest - tile_largest);
        largest = tile_largest;
        total *= shrink;
        @unroll for (var d = 0u; d < HEAD4; d++) { sum[d] *= shrink; }
        for (var t = 0u; t < TILE; t++) {
            var weight = select(0.0, exp(p[t] - largest), sees(query, start + t, keys));
            total += weight;
            if (DROPOUT != 0u) { weight *= keep(batch, head, query, start + t); }
            @unroll for (var d = 0u; d < HEAD4; d++) {
                sum[d] += weight * second_rows[t * HEAD4 + d];
            }
        }
    }
    if (query >= length) { return; }
    // A query without any key gives zeros, and a log-sum-exp that makes all its probabilities zero.
    let empty = total == 0.0;
    let inverse = select(1.0 / total, 0.0, empty);
    @unroll for (var d = 0u; d < HEAD4; d++) { y[(row * params.heads + head) * HEAD4 + d] = sum[d] * inverse; }
    log_sum_exp[(batch * params.heads + head) * length + query] = select(largest + log(total), 1.0e30, empty);
}

// The gradient of the queries, and delta for the other kernel: ds = p · (keep · dy·v - delta), dq = scale · Σ ds · k
@compute @workgroup_size(LANES)
fn backward_queries(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let batch = group.z;
    let length = params.length;
    let query = group.x * LANES + lane;
    let row = batch * length + min(query, length - 1u);
    let shared_head = head * params.key_value_heads / params.heads;
    let first_key = key_column(shared_head);
    let first_value = value_column(shared_head);
    let keys = min(lengths[batch], length);
    let end = seen_before((group.x + 1u) * LANES, keys);

    var q: array<vec4<f32>, HEAD4>;
    var g: array<vec4<f32>, HEAD4>;
    var dq: array<vec4<f32>, HEAD4>;
    var products = vec4(0.0);
    @unroll for (var d = 0u; d < HEAD4; d++) {
        q[d] = qkv[row * row_width() + head * HEAD4 + d] * params.scale;
        g[d] = dy[(row * params.heads + head) * HEAD4 + d];
        products += g[d] * kept_y[(row * params.heads + head) * HEAD4 + d];
        dq[d] = vec4(0.0);
    }
    let row_delta = products.x + products.y + products.z + products.w;
    let place = (batch * params.heads + head) * length + min(query, length - 1u);
    let row_log_sum_exp = kept_log_sum_exp[place];
    for (var start = 0u; start < end; start += TILE) {
        workgroupBarrier();
        for (var i = lane; i < TILE * HEAD4; i += LANES) {
            let shared_row = (batch * length + min(start + i / HEAD4, length - 1u)) * row_width();
            first_rows[i] = qkv[shared_row + first_key + i % HEAD4];
            second_rows[i] = qkv[shared_row + first_value + i % HEAD4];
        }
        workgroupBarrier();
        for (var t = 0u; t < TILE; t++) {
            var scores = vec4(0.0);
            var dp = vec4(0.0);
            @unroll for (var d = 0u; d < HEAD4; d++) {
                scores += q[d] * first_rows[t * HEAD4 + d];
                dp += g[d] * second_rows[t * HEAD4 + d];
            }
            var keep_factor = 1.0;
            if (DROPOUT != 0u) { keep_factor = keep(batch, head, query, start + t); }
            let score = scores.x + scores.y + scores.z + scores.w;
            let p = select(0.0, exp(score - row_log_sum_exp), sees(query, start + t, keys));
            let ds = p * (keep_factor * (dp.x + dp.y + dp.z + dp.w) - row_delta) * params.scale;
            @unroll for (var d = 0u; d < HEAD4; d++) {
                dq[d] += ds * first_rows[t * HEAD4 + d];
            }
        }
    }
    if (query >= length) { return; }
    @unroll for (var d = 0u; d < HEAD4; d++) { dqkv[row * row_width() + head * HEAD4 + d] = dq[d]; }
    delta[place] = row_delta;
}

// The gradients of one key and value head: dv = Σ p · keep · dy, dk = Σ ds · q · scale, over the queries of all heads that share it
@compute @workgroup_size(LANES)
fn backward_keys(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let shared_head = group.y;
    let batch = group.z;
    let length = params.length;
    let key = group.x * LANES + lane;
    let row = batch * length + min(key, length - 1u);
    let first_key = key_column(shared_head);
    let first_value = value_column(shared_head);
    let keys = min(lengths[batch], length);
    let sharing = params.heads / params.key_value_heads;

    var k: array<vec4<f32>, HEAD4>;
    var v: array<vec4<f32>, HEAD4>;
    var dk: array<vec4<f32>, HEAD4>;
    var dv: array<vec4<f32>, HEAD4>;
    @unroll for (var d = 0u; d < HEAD4; d++) {
        k[d] = qkv[row * row_width() + first_key + d] * params.scale;
        v[d] = qkv[row * row_width() + first_value + d];
        dk[d] = vec4(0.0);
        dv[d] = vec4(0.0);
    }
    // Under a causal mask, queries before the workgroup's first key see none of its keys.
    var begin = 0u;
    if (CAUSAL != 0u) { begin = group.x * LANES / TILE * TILE; }
    for (var head = shared_head * sharing; head < (shared_head + 1u) * sharing; head++) {
        for (var start = begin; start < length; start += TILE) {
            workgroupBarrier();
            for (var i = lane; i < TILE * HEAD4; i += LANES) {
                let shared_row = batch * length + min(start + i / HEAD4, length - 1u);
                first_rows[i] = qkv[shared_row * row_width() + head * HEAD4 + i % HEAD4];
                second_rows[i] = dy[(shared_row * params.heads + head) * HEAD4 + i % HEAD4];
            }
            workgroupBarrier();
            for (var t = 0u; t < TILE; t++) {
                let query = start + t;
                let place = (batch * params.heads + head) * length + min(query, length - 1u);
                var scores = vec4(0.0);
                var dp = vec4(0.0);
                @unroll for (var d = 0u; d < HEAD4; d++) {
                    scores += k[d] * first_rows[t * HEAD4 + d];
                    dp += v[d] * second_rows[t * HEAD4 + d];
                }
                var keep_factor = 1.0;
                if (DROPOUT != 0u) { keep_factor = keep(batch, head, query, key); }
                let score = scores.x + scores.y + scores.z + scores.w;
                let p = select(0.0, exp(score - kept_log_sum_exp[place]), query < length && sees(query, key, keys));
                let ds = p * (keep_factor * (dp.x + dp.y + dp.z + dp.w) - kept_delta[place]) * params.scale;
                @unroll for (var d = 0u; d < HEAD4; d++) {
                    dk[d] += ds * first_rows[t * HEAD4 + d];
                    dv[d] += p * keep_factor * second_rows[t * HEAD4 + d];
                }
            }
        }
    }
    if (key >= length) { return; }
    @unroll for (var d = 0u; d < HEAD4; d++) {
        dqkv[row * row_width() + first_key + d] = dk[d];
        dqkv[row * row_width() + first_value + d] = dv[d];
    }
}
