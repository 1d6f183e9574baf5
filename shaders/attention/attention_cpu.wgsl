//! use attention_params
//! image qkv, dy, kept_y
enable subgroups;

// The attention of attention.wgsl for a Vulkan driver that runs on the CPU (lavapipe) and maps each invocation to a lane of a vector
// register. Needs a subgroup size of SUBGROUP.
//
// A workgroup is one subgroup; a lane owns LANE_ROWS rows in registers, and all lanes walk over the rows of the other side, TILE at a time.
// Such a driver loads lane by lane, texels too, and loading a value costs several times as much as multiplying by it. So the lanes split a
// tile between them (lane l loads part l / TILE of row l % TILE), pass values on by broadcast, and use each value for LANE_ROWS rows.
// More rows need fewer loads per product, until the code for a tile no longer fits in the instruction cache, at about 1000 products.
// Rows past the end read the last one and are not written.
//
// Each turn of a loop fetches or writes one row and shifts the others by one. Unrolled over the rows, with keys separate from values, this
// would take the driver longer to compile than everything else.

override SUBGROUP: u32 = 8u; // lanes of a subgroup: 4, 8 or 16
override LANE_ROWS: u32 = 2u;   // rows that a lane owns, SUBGROUP apart
override TILE: u32 = 2u;  // rows that the lanes share at a time: a power of two up to SUBGROUP that makes LOADS a whole number
const BLOCK: u32 = SUBGROUP * LANE_ROWS; // rows of a workgroup
const LOADS: u32 = HEAD4 * TILE / SUBGROUP; // vec4 in a lane's part of a shared row; vec4 d is in part d / LOADS

@compute @workgroup_size(SUBGROUP)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let batch = group.z;
    let length = params.length;
    let query = group.x * BLOCK + lane;
    let shared_head = head * params.key_value_heads / params.heads;
    let part = lane / TILE * LOADS;
    let first_key = key_column(shared_head) + part;
    let first_value = value_column(shared_head) + part;
    let keys = min(lengths[batch], length);
    let end = seen_before((group.x + 1u) * BLOCK, keys);

    var q: array<array<vec4<f32>, HEAD4>, LANE_ROWS>;
    for (var turn = 0u; turn < LANE_ROWS; turn++) {
        @unroll for (var r = 1u; r < LANE_ROWS; r++) { q[r - 1u] = q[r]; }
        let first = (batch * length + min(query + turn * SUBGROUP, length - 1u)) * row_width() + head * HEAD4;
        @unroll for (var d = 0u; d < HEAD4; d++) { q[LANE_ROWS - 1u][d] = qkv[first + d] * params.scale; }
    }
    var sum: array<array<vec4<f32>, HEAD4>, LANE_ROWS>;
    var total: array<f32, LANE_ROWS>;
    var largest: array<f32, LANE_ROWS>;
    @unroll for (var r = 0u; r < LANE_ROWS; r++) { largest[r] = LOWEST; }
    for (var start = 0u; start < end; start += TILE) {
        let shared_row = (batch * length + min(start + lane % TILE, length - 1u)) * row_width();
        var k: array<vec4<f32>, LOADS>;
        var v: array<vec4<f32>, LOADS>;
        @unroll for (var d = 0u; d < LOADS; d++) {
            k[d] = qkv[shared_row + first_key + d];
            v[d] = qkv[shared_row + first_value + d];
        }
        var weight: array<array<f32, TILE>, LANE_ROWS>; // the scores at first
        var tile_largest = largest;
        @unroll for (var t = 0u; t < TILE; t++) {
            var products: array<vec4<f32>, LANE_ROWS>;
            @unroll for (var d = 0u; d < HEAD4; d++) {
                let b = subgroupBroadcast(k[d % LOADS], t + d / LOADS * TILE);
                @unroll for (var r = 0u; r < LANE_ROWS; r++) { products[r] += q[r][d] * b; }
            }
            @unroll for (var r = 0u; r < LANE_ROWS; r++) {
                let score = products[r].x + products[r].y + products[r].z + products[r].w;
                weight[r][t] = select(LOWEST, score, sees(query + r * SUBGROUP, start + t, keys));
                tile_largest[r] = max(tile_largest[r], weight[r][t]);
            }
        }
        var shrink: array<f32, LANE_ROWS>;
        @unroll for (var r = 0u; r < LANE_ROWS; r++) {
            shrink[r] = exp(largest[r] - tile_largest[r]);
            largest[r] = tile_largest[r];
            total[r] *= shrink[r];
            @unroll for (var t = 0u; t < TILE; t++) {
                let p = select(0.0, exp(weight[r][t] - largest[r]), sees(query + r * SUBGROUP, start + t, keys));
                total[r] += p;
                weight[r][t] = p;
                if (DROPOUT != 0u) { weight[r][t] *= keep(batch, head, query + r * SUBGROUP, start + t); }
            }
        }
        @unroll for (var d = 0u; d < HEAD4; d++) {
            @unroll for (var r = 0u; r < LANE_ROWS; r++) { sum[r][d] *= shrink[r]; }
            @unroll for (var t = 0u; t < TILE; t++) {
                let b = subgroupBroadcast(v[d % LOADS], t + d / LOADS * TILE);
                @unroll for (var r = 0u; r < LANE_ROWS; r++) { sum[r][d] += weight[r][t] * b; }
            }
        }
    }
    for (var turn = 0u; turn < LANE_ROWS; turn++) {
        let row = query + turn * SUBGROUP;
        if (row < length) {
            // A query that sees no key gives zeros, and a log-sum-exp that makes all its probabilities zero.
            let empty = total[0] == 0.0;
            let inverse = select(1.0 / total[0], 0.0, empty);
            let to = ((batch * length + row) * params.heads + head) * HEAD4;
            @unroll for (var d = 0u; d < HEAD4; d++) { y[to + d] = sum[0][d] * inverse; }
            log_sum_exp[(batch * params.heads + head) * length + row] = select(largest[0] + log(total[0]), 1.0e30, empty);
        }
        @unroll for (var r = 1u; r < LANE_ROWS; r++) {
            sum[r - 1u] = sum[r];
            total[r - 1u] = total[r];
            largest[r - 1u] = largest[r];
        }
    }
}

// The gradient of the queries, and delta for the other kernel: ds = p · (keep · dy·v - delta), dq = scale · Σ ds · k
@compute @workgroup_size(SUBGROUP)
fn backward_queries(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let batch = group.z;
    let length = params.length;
    let query = group.x * BLOCK + lane;
    let shared_head = head * params.key_value_heads / params.heads;
    let part = lane / TILE * LOADS;
    let first_key = key_column(shared_head) + part;
    let first_value = value_column(shared_head) + part;
    let keys = min(lengths[batch], length);
    let end = seen_before((group.x + 1u) * BLOCK, keys);

    var q: array<array<vec4<f32>, HEAD4>, LANE_ROWS>;
    var g: array<array<vec4<f32>, HEAD4>, LANE_ROWS>;
    var row_delta: array<f32, LANE_ROWS>;
    var row_log_sum_exp: array<f32, LANE_ROWS>;
    for (var turn = 0u; turn < LANE_ROWS; turn++) {
        @unroll for (var r = 1u; r < LANE_ROWS; r++) {
            q[r - 1u] = q[r];
            g[r - 1u] = g[r];
            row_delta[r - 1u] = row_delta[r];
            row_log_sum_exp[r - 1u] = row_log_sum_exp[r];
        }
        let row = min(query + turn * SUBGROUP, length - 1u);
        let first = (batch * length + row) * row_width() + head * HEAD4;
        let first_y = ((batch * length + row) * params.heads + head) * HEAD4;
        var products = vec4(0.0);
        @unroll for (var d = 0u; d < HEAD4; d++) {
            q[LANE_ROWS - 1u][d] = qkv[first + d] * params.scale;
            g[LANE_ROWS - 1u][d] = dy[first_y + d];
            products += g[LANE_ROWS - 1u][d] * kept_y[first_y + d];
        }
        row_delta[LANE_ROWS - 1u] = products.x + products.y + products.z + products.w;
        let place = (batch * params.heads + head) * length + row;
        row_log_sum_exp[LANE_ROWS - 1u] = kept_log_sum_exp[place];
        if (query + turn * SUBGROUP < length) { delta[place] = row_delta[LANE_ROWS - 1u]; }
    }
    var dq: array<array<vec4<f32>, HEAD4>, LANE_ROWS>;
    for (var start = 0u; start < end; start += TILE) {
        let shared_row = (batch * length + min(start + lane % TILE, length - 1u)) * row_width();
        var k: array<vec4<f32>, LOADS>;
        var v: array<vec4<f32>, LOADS>;
        @unroll for (var d = 0u; d < LOADS; d++) {
            k[d] = qkv[shared_row + first_key + d];
            v[d] = qkv[shared_row + first_value + d];
        }
        var ds: array<array<f32, TILE>, LANE_ROWS>;
        @unroll for (var t = 0u; t < TILE; t++) {
            var scores: array<vec4<f32>, LANE_ROWS>;
            var dp: array<vec4<f32>, LANE_ROWS>;
            @unroll for (var d = 0u; d < HEAD4; d++) {
                let b = subgroupBroadcast(k[d % LOADS], t + d / LOADS * TILE);
                let c = subgroupBroadcast(v[d % LOADS], t + d / LOADS * TILE);
                @unroll for (var r = 0u; r < LANE_ROWS; r++) {
                    scores[r] += q[r][d] * b;
                    dp[r] += g[r][d] * c;
                }
            }
            @unroll for (var r = 0u; r < LANE_ROWS; r++) {
                let row = query + r * SUBGROUP;
                var keep_factor = 1.0;
                if (DROPOUT != 0u) { keep_factor = keep(batch, head, row, start + t); }
                let score = scores[r].x + scores[r].y + scores[r].z + scores[r].w;
                let p = select(0.0, exp(score - row_log_sum_exp[r]), sees(row, start + t, keys));
                ds[r][t] = p * (keep_factor * (dp[r].x + dp[r].y + dp[r].z + dp[r].w) - row_delta[r]) * params.scale;
            }
        }
        @unroll for (var d = 0u; d < HEAD4; d++) {
            @unroll for (var t = 0u; t < TILE; t++) {
                let b = subgroupBroadcast(k[d % LOADS], t + d / LOADS * TILE);
                @unroll for (var r = 0u; r < LANE_ROWS; r++) { dq[r][d] += ds[r][t] * b; }
            }
        }
    }
    for (var turn = 0u; turn < LANE_ROWS; turn++) {
        let row = query + turn * SUBGROUP;
        if (row < length) {
            let to = (batch * length + row) * row_width() + head * HEAD4;
            @unroll for (var d = 0u; d < HEAD4; d++) { dqkv[to + d] = dq[0][d]; }
        }
        @unroll for (var r = 1u; r < LANE_ROWS; r++) { dq[r - 1u] = dq[r]; }
    }
}

// The gradients of one key and value head: dv = Σ p · keep · dy, dk = Σ ds · q · scale, over the queries of all heads that share it
@compute @workgroup_size(SUBGROUP)
fn backward_keys(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let shared_head = group.y;
    let batch = group.z;
    let length = params.length;
    let key = group.x * BLOCK + lane;
    let part = lane / TILE * LOADS;
    let first_key = key_column(shared_head);
    let first_value = value_column(shared_head);
    let keys = min(lengths[batch], length);
    let sharing = params.heads / params.key_value_heads;

    // The keys of the rows, then their values.
    var kv: array<array<vec4<f32>, HEAD4>, 2u * LANE_ROWS>;
    for (var turn = 0u; turn < 2u * LANE_ROWS; turn++) {
        @unroll for (var r = 1u; r < 2u * LANE_ROWS; r++) { kv[r - 1u] = kv[r]; }
        let is_key = turn < LANE_ROWS;
        let row = batch * length + min(key + turn % LANE_ROWS * SUBGROUP, length - 1u);
        let first = row * row_width() + select(first_value, first_key, is_key);
        let factor = select(1.0, params.scale, is_key);
        @unroll for (var d = 0u; d < HEAD4; d++) { kv[2u * LANE_ROWS - 1u][d] = qkv[first + d] * factor; }
    }
    var dkv: array<array<vec4<f32>, HEAD4>, 2u * LANE_ROWS>;
    // Under a causal mask, queries before the workgroup's first key see none of its keys.
    var begin = 0u;
    if (CAUSAL != 0u) { begin = group.x * BLOCK; }
    for (var head = shared_head * sharing; head < (shared_head + 1u) * sharing; head++) {
        for (var start = begin; start < length; start += TILE) {
            let query = min(start + lane % TILE, length - 1u);
            let shared_row = batch * length + query;
            let first = shared_row * row_width() + head * HEAD4 + part;
            let first_y = (shared_row * params.heads + head) * HEAD4 + part;
            var q: array<vec4<f32>, LOADS>;
            var g: array<vec4<f32>, LOADS>;
            @unroll for (var d = 0u; d < LOADS; d++) {
                q[d] = qkv[first + d];
                g[d] = dy[first_y + d];
            }
            let place = (batch * params.heads + head) * length + query;
            let shared_log_sum_exp = kept_log_sum_exp[place];
            let shared_delta = kept_delta[place];
            var weight: array<array<f32, TILE>, LANE_ROWS>;
            var ds: array<array<f32, TILE>, LANE_ROWS>;
            @unroll for (var t = 0u; t < TILE; t++) {
                var scores: array<vec4<f32>, LANE_ROWS>;
                var dp: array<vec4<f32>, LANE_ROWS>;
                @unroll for (var d = 0u; d < HEAD4; d++) {
                    let b = subgroupBroadcast(q[d % LOADS], t + d / LOADS * TILE);
                    let c = subgroupBroadcast(g[d % LOADS], t + d / LOADS * TILE);
                    @unroll for (var r = 0u; r < LANE_ROWS; r++) {
                        scores[r] += kv[r][d] * b;
                        dp[r] += kv[LANE_ROWS + r][d] * c;
                    }
                }
                let row_log_sum_exp = subgroupBroadcast(shared_log_sum_exp, t);
                let row_delta = subgroupBroadcast(shared_delta, t);
                @unroll for (var r = 0u; r < LANE_ROWS; r++) {
                    let row = key + r * SUBGROUP;
                    var keep_factor = 1.0;
                    if (DROPOUT != 0u) { keep_factor = keep(batch, head, start + t, row); }
                    let score = scores[r].x + scores[r].y + scores[r].z + scores[r].w;
                    let p = select(0.0, exp(score - row_log_sum_exp), start + t < length && sees(start + t, row, keys));
                    weight[r][t] = p * keep_factor;
                    ds[r][t] = p * (keep_factor * (dp[r].x + dp[r].y + dp[r].z + dp[r].w) - row_delta) * params.scale;
                }
            }
            @unroll for (var d = 0u; d < HEAD4; d++) {
                @unroll for (var t = 0u; t < TILE; t++) {
                    let b = subgroupBroadcast(q[d % LOADS], t + d / LOADS * TILE);
                    let c = subgroupBroadcast(g[d % LOADS], t + d / LOADS * TILE);
                    @unroll for (var r = 0u; r < LANE_ROWS; r++) {
                        dkv[r][d] += ds[r][t] * b;
                        dkv[LANE_ROWS + r][d] += weight[r][t] * c;
                    }
                }
            }
        }
    }
    for (var turn = 0u; turn < 2u * LANE_ROWS; turn++) {
        let row = key + turn % LANE_ROWS * SUBGROUP;
        if (row < length) {
            let to = (batch * length + row) * row_width() + select(first_value, first_key, turn < LANE_ROWS);
            @unroll for (var d = 0u; d < HEAD4; d++) { dqkv[to + d] = dkv[0][d]; }
        }
        @unroll for (var r = 1u; r < 2u * LANE_ROWS; r++) { dkv[r - 1u] = dkv[r]; }
    }
}
