//! use random

// Causal or full attention that keeps only the log-sum-exp (Dao et al. 2022): an invocation holds whole rows of HEAD numbers in
// registers and walks over the others TILE at a time. The TILE rows are shared by the lanes of a subgroup through broadcasts where SHARE
// is set (CPU devices: no barrier), else through workgroup memory. A broadcast's lane is a constant, so there the walk over a tile is
// written out; elsewhere it stays a loop, which drivers compile many times faster.
//
// qkv is packed: (batch, length, (heads + 2 · key_value_heads) · HEAD), queries first, then keys, then values.

override HEAD: u32 = 64u;   // numbers of a head, a multiple of 4
override SHARE: u32 = 0u;   // lanes of a subgroup, or 0
override LANES: u32 = 64u;  // rows that one workgroup owns; SHARE where that is set
override TILE: u32 = 16u;   // rows that the lanes share at a time; SHARE where that is set
override CAUSAL: u32 = 1u;
override DROPOUT: u32 = 0u;
const HEAD4: u32 = HEAD / 4u;

struct Params {
    length: u32,
    heads: u32,
    key_value_heads: u32,
    scale: f32,         // 1 / sqrt(HEAD)
    threshold: u32,     // dropout: the share to drop, in units of 2^-32
    keep_scale: f32,    // dropout: 1 / (1 - share)
    site: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> lengths: array<u32>;                // (batch): keys from there on are padding

// forward
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;          // (batch, length, heads · HEAD)
@group(0) @binding(4) var<storage, read_write> log_sum_exp: array<f32>;      // (batch, heads, length)

// backward
@group(0) @binding(3) var<storage, read> kept_y: array<vec4<f32>>;           // (batch, length, heads · HEAD)
@group(0) @binding(4) var<storage, read> kept_log_sum_exp: array<f32>;       // (batch, heads, length)
@group(0) @binding(5) var<storage, read> dy: array<vec4<f32>>;               // (batch, length, heads · HEAD)
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;            // (batch, heads, length): Σ dy · y
@group(0) @binding(3) var<storage, read> kept_delta: array<f32>;             // (batch, heads, length)
@group(0) @binding(7) var<storage, read_write> dqkv: array<vec4<f32>>;       // as qkv

//! if SHARE
//! else
var<workgroup> first_rows: array<vec4<f32>, TILE * HEAD4>;
var<workgroup> second_rows: array<vec4<f32>, TILE * HEAD4>;
//! end

const LOWEST = -1.0e30;

fn row_width() -> u32 {
    return (params.heads + 2u * params.key_value_heads) * HEAD4;
}

// The dropout factor of one probability.
fn keep(batch: u32, head: u32, query: u32, key: u32) -> f32 {
    return dropout_factor((batch * params.heads + head) * params.length + query, key, params.site, params.threshold, params.keep_scale);
}

// Whether a query sees a key.
fn sees(query: u32, key: u32, keys: u32) -> bool {
    return key < keys && (CAUSAL == 0u || key <= query);
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let batch = group.z;
    let length = params.length;
    let query = group.x * LANES + lane;
    let row = batch * length + min(query, length - 1u);
    let shared_head = head * params.key_value_heads / params.heads;
    let first_key = (params.heads + shared_head) * HEAD4;
    let first_value = (params.heads + params.key_value_heads + shared_head) * HEAD4;
    let keys = min(lengths[batch], length);
    var end = keys;
    if (CAUSAL != 0u) { end = min(end, (group.x + 1u) * LANES); }

    var q: array<vec4<f32>, HEAD4>;
    var sum: array<vec4<f32>, HEAD4>;
    @unroll for (var d = 0u; d < HEAD4; d++) {
        q[d] = qkv[row * row_width() + head * HEAD4 + d] * params.scale;
        sum[d] = vec4(0.0);
    }
    var largest = LOWEST;
    var total = 0.0;
    for (var start = 0u; start < end; start += TILE) {
//! if SHARE
        let shared_row = (batch * length + min(start + lane, length - 1u)) * row_width();
        var k: array<vec4<f32>, HEAD4>;
        var v: array<vec4<f32>, HEAD4>;
        @unroll for (var d = 0u; d < HEAD4; d++) {
            k[d] = qkv[shared_row + first_key + d];
            v[d] = qkv[shared_row + first_value + d];
        }
//! else
        workgroupBarrier();
        for (var i = lane; i < TILE * HEAD4; i += LANES) {
            let shared_row = (batch * length + min(start + i / HEAD4, length - 1u)) * row_width();
            first_rows[i] = qkv[shared_row + first_key + i % HEAD4];
            second_rows[i] = qkv[shared_row + first_value + i % HEAD4];
        }
        workgroupBarrier();
//! end
        var p: array<f32, TILE>;
        var tile_largest = largest;
//! if SHARE
        @unroll for (var t = 0u; t < TILE; t++) {
//! else
        for (var t = 0u; t < TILE; t++) {
//! end
            var products = vec4(0.0);
            @unroll for (var d = 0u; d < HEAD4; d++) {
//! if SHARE
                products += q[d] * subgroupBroadcast(k[d], t);
//! else
                products += q[d] * first_rows[t * HEAD4 + d];
//! end
            }
            let score = products.x + products.y + products.z + products.w;
            p[t] = select(LOWEST, score, sees(query, start + t, keys));
            tile_largest = max(tile_largest, p[t]);
        }
        let shrink = exp(largest - tile_largest);
        largest = tile_largest;
        total *= shrink;
        @unroll for (var d = 0u; d < HEAD4; d++) { sum[d] *= shrink; }
//! if SHARE
        @unroll for (var t = 0u; t < TILE; t++) {
//! else
        for (var t = 0u; t < TILE; t++) {
//! end
            var weight = select(0.0, exp(p[t] - largest), sees(query, start + t, keys));
            total += weight;
            if (DROPOUT != 0u) { weight *= keep(batch, head, query, start + t); }
            @unroll for (var d = 0u; d < HEAD4; d++) {
//! if SHARE
                sum[d] += weight * subgroupBroadcast(v[d], t);
//! else
                sum[d] += weight * second_rows[t * HEAD4 + d];
//! end
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
    let first_key = (params.heads + shared_head) * HEAD4;
    let first_value = (params.heads + params.key_value_heads + shared_head) * HEAD4;
    let keys = min(lengths[batch], length);
    var end = keys;
    if (CAUSAL != 0u) { end = min(end, (group.x + 1u) * LANES); }

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
//! if SHARE
        let shared_row = (batch * length + min(start + lane, length - 1u)) * row_width();
        var k: array<vec4<f32>, HEAD4>;
        var v: array<vec4<f32>, HEAD4>;
        @unroll for (var d = 0u; d < HEAD4; d++) {
            k[d] = qkv[shared_row + first_key + d];
            v[d] = qkv[shared_row + first_value + d];
        }
//! else
        workgroupBarrier();
        for (var i = lane; i < TILE * HEAD4; i += LANES) {
            let shared_row = (batch * length + min(start + i / HEAD4, length - 1u)) * row_width();
            first_rows[i] = qkv[shared_row + first_key + i % HEAD4];
            second_rows[i] = qkv[shared_row + first_value + i % HEAD4];
        }
        workgroupBarrier();
//! end
//! if SHARE
        @unroll for (var t = 0u; t < TILE; t++) {
//! else
        for (var t = 0u; t < TILE; t++) {
//! end
            var scores = vec4(0.0);
            var dp = vec4(0.0);
            @unroll for (var d = 0u; d < HEAD4; d++) {
//! if SHARE
                scores += q[d] * subgroupBroadcast(k[d], t);
                dp += g[d] * subgroupBroadcast(v[d], t);
//! else
                scores += q[d] * first_rows[t * HEAD4 + d];
                dp += g[d] * second_rows[t * HEAD4 + d];
//! end
            }
            var keep_factor = 1.0;
            if (DROPOUT != 0u) { keep_factor = keep(batch, head, query, start + t); }
            let score = scores.x + scores.y + scores.z + scores.w;
            let p = select(0.0, exp(score - row_log_sum_exp), sees(query, start + t, keys));
            let ds = p * (keep_factor * (dp.x + dp.y + dp.z + dp.w) - row_delta) * params.scale;
            @unroll for (var d = 0u; d < HEAD4; d++) {
//! if SHARE
                dq[d] += ds * subgroupBroadcast(k[d], t);
//! else
                dq[d] += ds * first_rows[t * HEAD4 + d];
//! end
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
    let first_key = (params.heads + shared_head) * HEAD4;
    let first_value = (params.heads + params.key_value_heads + shared_head) * HEAD4;
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
//! if SHARE
            let shared_row = batch * length + min(start + lane, length - 1u);
            var q: array<vec4<f32>, HEAD4>;
            var g: array<vec4<f32>, HEAD4>;
            @unroll for (var d = 0u; d < HEAD4; d++) {
                q[d] = qkv[shared_row * row_width() + head * HEAD4 + d];
                g[d] = dy[(shared_row * params.heads + head) * HEAD4 + d];
            }
//! else
            workgroupBarrier();
            for (var i = lane; i < TILE * HEAD4; i += LANES) {
                let shared_row = batch * length + min(start + i / HEAD4, length - 1u);
                first_rows[i] = qkv[shared_row * row_width() + head * HEAD4 + i % HEAD4];
                second_rows[i] = dy[(shared_row * params.heads + head) * HEAD4 + i % HEAD4];
            }
            workgroupBarrier();
//! end
//! if SHARE
            @unroll for (var t = 0u; t < TILE; t++) {
//! else
            for (var t = 0u; t < TILE; t++) {
//! end
                let query = start + t;
                let place = (batch * params.heads + head) * length + min(query, length - 1u);
                var scores = vec4(0.0);
                var dp = vec4(0.0);
                @unroll for (var d = 0u; d < HEAD4; d++) {
//! if SHARE
                    scores += k[d] * subgroupBroadcast(q[d], t);
                    dp += v[d] * subgroupBroadcast(g[d], t);
//! else
                    scores += k[d] * first_rows[t * HEAD4 + d];
                    dp += v[d] * second_rows[t * HEAD4 + d];
//! end
                }
                var keep_factor = 1.0;
                if (DROPOUT != 0u) { keep_factor = keep(batch, head, query, key); }
                let score = scores.x + scores.y + scores.z + scores.w;
                let p = select(0.0, exp(score - kept_log_sum_exp[place]), query < length && sees(query, key, keys));
                let ds = p * (keep_factor * (dp.x + dp.y + dp.z + dp.w) - kept_delta[place]) * params.scale;
                @unroll for (var d = 0u; d < HEAD4; d++) {
//! if SHARE
                    dk[d] += ds * subgroupBroadcast(q[d], t);
                    dv[d] += p * keep_factor * subgroupBroadcast(g[d], t);
//! else
                    dk[d] += ds * first_rows[t * HEAD4 + d];
                    dv[d] += p * keep_factor * second_rows[t * HEAD4 + d];
//! end
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
