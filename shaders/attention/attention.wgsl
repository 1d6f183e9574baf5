//! use attention_params, grid

// Attention for GPUs, causal or full, that keeps only the log-sum-exp (Dao 2024, "FlashAttention-2").
//
// A workgroup owns a block of 32 rows of one side and walks over the other side in tiles of 32 rows. Of the 32 × 32 scores between them,
// thread (x, y) owns rows 4y to 4y + 3 of the block against rows x and x + 16 of the tile; of the sums, it owns the same rows in columns
// 4x to 4x + 3 of every 64. No thread ever holds a whole row: both operands of a product pass through workgroup memory, 32 columns at a
// time for scores and 64 for sums. Weights also pass from one product to the next through workgroup memory, as vectors of four rows of the
// block. Rows past the end repeat the last one and are not written. Softmax is in base 2, which devices compute natively.

const ACROSS: u32 = 16u;
const DOWN: u32 = 8u;
const THREADS: u32 = 128u;
const BLOCK: u32 = 32u;
const TILE: u32 = 32u;
const CHUNK: u32 = 8u; // vec4 of a row that are staged at a time for scores
const CHUNK_END: u32 = HEAD4 + 7u;
const CHUNKS: u32 = CHUNK_END / CHUNK;
const FOURS_END: u32 = HEAD4 + 15u;
const FOURS: u32 = FOURS_END / ACROSS; // vec4 columns of the sums that a thread owns
// The same for backward_keys, which has two sums: more would spill registers. The other columns belong to other workgroups.
override PART: u32 = 1u;
override SHARED: u32 = 0u; // 1: several query heads share a key and value head

@group(0) @binding(6) var<storage, read_write> dkv: array<vec4<f32>>; // (batch, length, heads, 2, HEAD): for each query head
@group(0) @binding(3) var<storage, read> kept_dkv: array<vec4<f32>>;  // the same

const HALF: u32 = 256u; // where the tile's operand is staged, after the block's
var<workgroup> staged: array<vec4<f32>, 512>;  // (2, CHUNK, 32) by `slot`, or (TILE, ACROSS)
var<workgroup> weights: array<vec4<f32>, 256>; // (TILE, DOWN): weights of one row of the tile and four of the block
var<workgroup> shares: array<vec4<f32>, 128>;  // (DOWN, ACROSS): each thread's part of a result for four rows of the block

const LOG2_E = 1.4426950408889634;
const LN_2 = 0.6931471805599453;

// Neighbouring threads store the columns of a row and load the rows of a column. XORing the row with the column puts both on different
// banks.
fn slot(column: u32, row: u32) -> u32 {
    return column * 32u + (row ^ column);
}

// qkv and dy are staged by functions of their own, since an entry point has to bind every buffer that it can reach, and `forward` has no dy.

// Stages one chunk of 32 rows of qkv from `first` on; chunks are counted from `column` on.
fn stage_qkv(to: u32, batch: u32, first: u32, column: u32, chunk: u32, thread: u32) {
    for (var i = thread; i < HALF; i += THREADS) {
        let row = batch * params.length + min(first + i / CHUNK, params.length - 1u);
        let at = chunk * CHUNK + i % CHUNK;
        var v = vec4(0.0);
        if (at < HEAD4) { v = qkv[row * row_width() + column + at]; }
        staged[to + slot(i % CHUNK, i / CHUNK)] = v;
    }
}

// The same for dy.
fn stage_dy(to: u32, batch: u32, first: u32, head: u32, chunk: u32, thread: u32) {
    for (var i = thread; i < HALF; i += THREADS) {
        let row = batch * params.length + min(first + i / CHUNK, params.length - 1u);
        let at = chunk * CHUNK + i % CHUNK;
        var v = vec4(0.0);
        if (at < HEAD4) { v = dy[(row * params.heads + head) * HEAD4 + at]; }
        staged[to + slot(i % CHUNK, i / CHUNK)] = v;
    }
}

// The same of dy, after the block's operand. A thread also adds its part of Σ dy · y for the two rows that it stages a part of.
fn stage_dy_and_delta(share: ptr<function, vec2<f32>>, batch: u32, first: u32, head: u32, chunk: u32, thread: u32) {
    @unroll for (var j = 0u; j < 2u; j++) {
        let i = thread + j * THREADS;
        let row = batch * params.length + min(first + i / CHUNK, params.length - 1u);
        let at = chunk * CHUNK + i % CHUNK;
        var v = vec4(0.0);
        if (at < HEAD4) {
            let four = (row * params.heads + head) * HEAD4 + at;
            v = dy[four];
            let products = v * kept_y[four];
            (*share)[j] += products.x + products.y + products.z + products.w;
        }
        staged[HALF + slot(i % CHUNK, i / CHUNK)] = v;
    }
}

// Stages 64 columns of a tile of qkv, row by row, from vec4 16 · `four` after `column` on.
fn stage_qkv_rows(batch: u32, first: u32, column: u32, four: u32, thread: u32) {
    for (var i = thread; i < TILE * ACROSS; i += THREADS) {
        let row = batch * params.length + min(first + i / ACROSS, params.length - 1u);
        let at = four * ACROSS + i % ACROSS;
        var v = vec4(0.0);
        if (at < HEAD4) { v = qkv[row * row_width() + column + at]; }
        staged[i] = v;
    }
}

// The same for dy.
fn stage_dy_rows(batch: u32, first: u32, head: u32, four: u32, thread: u32) {
    for (var i = thread; i < TILE * ACROSS; i += THREADS) {
        let row = batch * params.length + min(first + i / ACROSS, params.length - 1u);
        let at = four * ACROSS + i % ACROSS;
        var v = vec4(0.0);
        if (at < HEAD4) { v = dy[(row * params.heads + head) * HEAD4 + at]; }
        staged[i] = v;
    }
}

// scores[c][r] += block row 4y + r · tile row x + 16c, over the staged columns.
fn add_scores(scores: ptr<function, array<vec4<f32>, 2>>, x: u32, y: u32) {
    @unroll for (var d = 0u; d < CHUNK; d++) {
        let first = staged[HALF + slot(d, x)];
        let second = staged[HALF + slot(d, x + ACROSS)];
        @unroll for (var r = 0u; r < 4u; r++) {
            let own = staged[slot(d, 4u * y + r)];
            @unroll for (var j = 0u; j < 4u; j++) {
                (*scores)[0][r] += own[j] * first[j];
                (*scores)[1][r] += own[j] * second[j];
            }
        }
    }
}

// sum[r] += Σ weight(block row 4y + r, tile row) · the tile row's columns, over the staged tile.
fn add_product(sum: ptr<function, array<vec4<f32>, 4>>, x: u32, y: u32) {
    for (var start = 0u; start < TILE; start += 8u) {
        @unroll for (var t = 0u; t < 8u; t++) {
            let weight = weights[(start + t) * DOWN + y];
            let columns = staged[(start + t) * ACROSS + x];
            @unroll for (var r = 0u; r < 4u; r++) { (*sum)[r] += weight[r] * columns; }
        }
    }
}

@compute @workgroup_size(ACROSS, DOWN)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let head = group.y;
    let batch = group.z;
    let length = params.length;
    let first_query = group.x * BLOCK;
    let own_query = first_query + 4u * local.y;
    let shared_head = head * params.key_value_heads / params.heads;
    let keys = min(lengths[batch], length);
    let end = seen_before(first_query + BLOCK, keys);
    let scale = params.scale * LOG2_E;

    var sum: array<array<vec4<f32>, 4>, FOURS>;
    @unroll for (var f = 0u; f < FOURS; f++) {
        @unroll for (var r = 0u; r < 4u; r++) { sum[f][r] = vec4(0.0); }
    }
    var largest = vec4(LOWEST);
    var total = vec4(0.0); // over the thread's own keys
    for (var start = 0u; start < end; start += TILE) {
        var scores: array<vec4<f32>, 2>;
        scores[0] = vec4(0.0);
        scores[1] = vec4(0.0);
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            stage_qkv(0u, batch, first_query, head * HEAD4, chunk, thread);
            stage_qkv(HALF, batch, start, key_column(shared_head), chunk, thread);
            workgroupBarrier();
            add_scores(&scores, local.x, local.y);
        }
        @unroll for (var c = 0u; c < 2u; c++) {
            let key = start + local.x + c * ACROSS;
            @unroll for (var r = 0u; r < 4u; r++) {
                scores[c][r] = select(LOWEST, scores[c][r] * scale, sees(own_query + r, key, keys));
            }
        }
        shares[local.y * ACROSS + local.x] = max(scores[0], scores[1]);
        workgroupBarrier();
        let before = largest;
        @unroll for (var i = 0u; i < ACROSS; i++) { largest = max(largest, shares[local.y * ACROSS + i]); }
        let shrink = exp2(before - largest);
        total *= shrink;
        @unroll for (var c = 0u; c < 2u; c++) {
            let key = start + local.x + c * ACROSS;
            var weight = select(vec4(0.0), exp2(scores[c] - largest), scores[c] > vec4(LOWEST));
            total += weight;
            if (DROPOUT != 0u) {
                @unroll for (var r = 0u; r < 4u; r++) { weight[r] *= keep(batch, head, own_query + r, key); }
            }
            weights[(local.x + c * ACROSS) * DOWN + local.y] = weight;
        }
        @unroll for (var f = 0u; f < FOURS; f++) {
            if (f > 0u) { workgroupBarrier(); }
            stage_qkv_rows(batch, start, value_column(shared_head), f, thread);
            workgroupBarrier();
            @unroll for (var r = 0u; r < 4u; r++) { sum[f][r] *= shrink[r]; }
            var part = sum[f];
            add_product(&part, local.x, local.y);
            sum[f] = part;
        }
    }
    workgroupBarrier();
    shares[local.y * ACROSS + local.x] = total;
    workgroupBarrier();
    total = vec4(0.0);
    @unroll for (var i = 0u; i < ACROSS; i++) { total += shares[local.y * ACROSS + i]; }
    @unroll for (var r = 0u; r < 4u; r++) {
        let query = own_query + r;
        if (query < length) {
            // A query that sees no key gives zeros, and a log-sum-exp that makes all its probabilities zero.
            let empty = total[r] == 0.0;
            let inverse = select(1.0 / total[r], 0.0, empty);
            @unroll for (var f = 0u; f < FOURS; f++) {
                let column = f * ACROSS + local.x;
                if (column < HEAD4) {
                    y[((batch * length + query) * params.heads + head) * HEAD4 + column] = sum[f][r] * inverse;
                }
            }
            if (local.x == 0u) {
                let value = select((largest[r] + log2(total[r])) * LN_2, 1.0e30, empty);
                log_sum_exp[(batch * params.heads + head) * length + query] = value;
            }
        }
    }
}

// The gradients of queries, keys and values. Neither half needs anything from the other, so both run at once.
@compute @workgroup_size(ACROSS, DOWN)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let blocks = (params.length + BLOCK - 1u) / BLOCK;
    if (group.x < blocks) {
        backward_queries(group, local.xy, thread);
    } else {
        backward_keys(vec3(group.x - blocks, group.yz), local.xy, thread);
    }
}

// ds = p · (keep · dy·v - delta) where delta = Σ dy · y, dq = scale · Σ ds · k
fn backward_queries(group: vec3<u32>, local: vec2<u32>, thread: u32) {
    let head = group.y;
    let batch = group.z;
    let length = params.length;
    let first_query = group.x * BLOCK;
    let own_query = first_query + 4u * local.y;
    let shared_head = head * params.key_value_heads / params.heads;
    let keys = min(lengths[batch], length);
    let end = seen_before(first_query + BLOCK, keys);
    let place = (batch * params.heads + head) * length;

    var share = vec4(0.0);
    var normaliser = vec4(0.0);
    @unroll for (var r = 0u; r < 4u; r++) {
        let query = min(own_query + r, length - 1u);
        let first = ((batch * length + query) * params.heads + head) * HEAD4;
        normaliser[r] = kept_log_sum_exp[place + query] * LOG2_E;
        @unroll for (var f = 0u; f < FOURS; f++) {
            let column = f * ACROSS + local.x;
            if (column < HEAD4) {
                let products = dy[first + column] * kept_y[first + column];
                share[r] += products.x + products.y + products.z + products.w;
            }
        }
    }
    shares[local.y * ACROSS + local.x] = share;
    workgroupBarrier();
    var row_delta = vec4(0.0);
    @unroll for (var i = 0u; i < ACROSS; i++) { row_delta += shares[local.y * ACROSS + i]; }

    var dq: array<array<vec4<f32>, 4>, FOURS>;
    @unroll for (var f = 0u; f < FOURS; f++) {
        @unroll for (var r = 0u; r < 4u; r++) { dq[f][r] = vec4(0.0); }
    }
    for (var start = 0u; start < end; start += TILE) {
        var scores: array<vec4<f32>, 2>;
        var dp: array<vec4<f32>, 2>;
        @unroll for (var c = 0u; c < 2u; c++) {
            scores[c] = vec4(0.0);
            dp[c] = vec4(0.0);
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            stage_qkv(0u, batch, first_query, head * HEAD4, chunk, thread);
            stage_qkv(HALF, batch, start, key_column(shared_head), chunk, thread);
            workgroupBarrier();
            add_scores(&scores, local.x, local.y);
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            stage_dy(0u, batch, first_query, head, chunk, thread);
            stage_qkv(HALF, batch, start, value_column(shared_head), chunk, thread);
            workgroupBarrier();
            add_scores(&dp, local.x, local.y);
        }
        @unroll for (var c = 0u; c < 2u; c++) {
            let key = start + local.x + c * ACROSS;
            var ds = vec4(0.0);
            @unroll for (var r = 0u; r < 4u; r++) {
                let query = own_query + r;
                var kept = dp[c][r];
                if (DROPOUT != 0u) { kept *= keep(batch, head, query, key); }
                let p = select(0.0, exp2(scores[c][r] * (params.scale * LOG2_E) - normaliser[r]), sees(query, key, keys));
                ds[r] = p * (kept - row_delta[r]) * params.scale;
            }
            weights[(local.x + c * ACROSS) * DOWN + local.y] = ds;
        }
        @unroll for (var f = 0u; f < FOURS; f++) {
            workgroupBarrier();
            stage_qkv_rows(batch, start, key_column(shared_head), f, thread);
            workgroupBarrier();
            var part = dq[f];
            add_product(&part, local.x, local.y);
            dq[f] = part;
        }
    }
    @unroll for (var r = 0u; r < 4u; r++) {
        let query = own_query + r;
        if (query < length) {
            @unroll for (var f = 0u; f < FOURS; f++) {
                let column = f * ACROSS + local.x;
                if (column < HEAD4) { dqkv[(batch * length + query) * row_width() + head * HEAD4 + column] = dq[f][r]; }
            }
        }
    }
}

// What one query head adds to the gradients of its keys and values: dv = Σ p · keep · dy, dk = Σ ds · q · scale. Goes to dkv if other heads
// share them, else to dqkv.
fn backward_keys(group: vec3<u32>, local: vec2<u32>, thread: u32) {
    let head = group.y;
    let batch = group.z;
    let length = params.length;
    let blocks = (length + BLOCK - 1u) / BLOCK;
    let first_key = group.x % blocks * BLOCK;
    let first_four = group.x / blocks * PART;
    let own_key = first_key + 4u * local.y;
    let shared_head = head * params.key_value_heads / params.heads;
    let keys = min(lengths[batch], length);
    let place = (batch * params.heads + head) * length;

    var dk: array<array<vec4<f32>, 4>, PART>;
    var dv: array<array<vec4<f32>, 4>, PART>;
    @unroll for (var f = 0u; f < PART; f++) {
        @unroll for (var r = 0u; r < 4u; r++) {
            dk[f][r] = vec4(0.0);
            dv[f][r] = vec4(0.0);
        }
    }
    // Under a causal mask, queries before the block see none of its keys.
    var begin = 0u;
    if (CAUSAL != 0u) { begin = first_key; }
    for (var start = begin; start < length; start += TILE) {
        var scores: array<vec4<f32>, 2>;
        var dp: array<vec4<f32>, 2>;
        @unroll for (var c = 0u; c < 2u; c++) {
            scores[c] = vec4(0.0);
            dp[c] = vec4(0.0);
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            stage_qkv(0u, batch, first_key, key_column(shared_head), chunk, thread);
            stage_qkv(HALF, batch, start, head * HEAD4, chunk, thread);
            workgroupBarrier();
            add_scores(&scores, local.x, local.y);
        }
        var share = vec2(0.0); // of the deltas of two queries
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            stage_qkv(0u, batch, first_key, value_column(shared_head), chunk, thread);
            stage_dy_and_delta(&share, batch, start, head, chunk, thread);
            workgroupBarrier();
            add_scores(&dp, local.x, local.y);
        }
        shares[thread] = vec4(share, 0.0, 0.0);
        workgroupBarrier();
        var deltas = vec2(0.0);
        @unroll for (var i = 0u; i < CHUNK; i++) { deltas += shares[local.x * CHUNK + i].xy; }
        // From here on, `scores` holds the gradients of the scores.
        @unroll for (var c = 0u; c < 2u; c++) {
            let query = start + local.x + c * ACROSS;
            let at = place + min(query, length - 1u);
            let normaliser = kept_log_sum_exp[at] * LOG2_E;
            var weight = vec4(0.0);
            @unroll for (var r = 0u; r < 4u; r++) {
                let key = own_key + r;
                let seen = query < length && sees(query, key, keys);
                let p = select(0.0, exp2(scores[c][r] * (params.scale * LOG2_E) - normaliser), seen);
                var keep_factor = 1.0;
                if (DROPOUT != 0u) { keep_factor = keep(batch, head, query, key); }
                weight[r] = p * keep_factor;
                scores[c][r] = p * (keep_factor * dp[c][r] - deltas[c]) * params.scale;
            }
            weights[(local.x + c * ACROSS) * DOWN + local.y] = weight;
        }
        @unroll for (var f = 0u; f < PART; f++) {
            workgroupBarrier();
            stage_dy_rows(batch, start, head, first_four + f, thread);
            workgroupBarrier();
            var part = dv[f];
            add_product(&part, local.x, local.y);
            dv[f] = part;
        }
        workgroupBarrier();
        @unroll for (var c = 0u; c < 2u; c++) { weights[(local.x + c * ACROSS) * DOWN + local.y] = scores[c]; }
        @unroll for (var f = 0u; f < PART; f++) {
            if (f > 0u) { workgroupBarrier(); }
            stage_qkv_rows(batch, start, head * HEAD4, first_four + f, thread);
            workgroupBarrier();
            var part = dk[f];
            add_product(&part, local.x, local.y);
            dk[f] = part;
        }
    }
    @unroll for (var r = 0u; r < 4u; r++) {
        let key = own_key + r;
        if (key < length) {
            @unroll for (var f = 0u; f < PART; f++) {
                let column = (first_four + f) * ACROSS + local.x;
                if (column < HEAD4) {
//! if SHARED
                    let to = ((batch * length + key) * params.heads + head) * 2u * HEAD4 + column;
                    dkv[to] = dk[f][r];
                    dkv[to + HEAD4] = dv[f][r];
//! else
                    let row = (batch * length + key) * row_width() + column;
                    dqkv[row + key_column(shared_head)] = dk[f][r];
                    dqkv[row + value_column(shared_head)] = dv[f][r];
//! end
                }
            }
        }
    }
}

// The gradients of keys and values: the sums over the query heads that share them, in order. If qkv was rotated, the gradients of queries and
// keys are rotated back, to be those of what precedes the rotation.
override ROTARY: u32 = 0u;   // elements of a head that were rotated, from the first on; a multiple of 8
override ADJACENT: u32 = 0u; // as in rope.wgsl
const HALF4: u32 = ROTARY / 8u;

//! if ROTARY
@group(0) @binding(4) var<storage, read> table: array<vec4<f32>>; // (positions, ROTARY / 4): cosines, then sines
//! end

// Four columns of the gradient of a part of the row: a query head, a key head or a value head.
fn summed(token: u32, part: u32, four: u32) -> vec4<f32> {
//! if ROTARY
    if (part < params.heads) { return dqkv[token * row_width() + part * HEAD4 + four]; }
//! end
    let is_value = (part - params.heads) / params.key_value_heads;
    let shared_head = (part - params.heads) % params.key_value_heads;
    let sharing = params.heads / params.key_value_heads;
    var sum = vec4(0.0);
    for (var head = shared_head * sharing; head < (shared_head + 1u) * sharing; head++) {
        sum += kept_dkv[((token * params.heads + head) * 2u + is_value) * HEAD4 + four];
    }
    return sum;
}

@compute @workgroup_size(FLAT)
fn sum_heads(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    let four = i % HEAD4;
    var parts = 2u * params.key_value_heads;
    var part = i / HEAD4;
//! if ROTARY
    parts += params.heads;
    let row = part / parts;
    part %= parts;
//! else
    let row = part / parts;
    part = part % parts + params.heads;
//! end
    if (row >= params.length) { return; }
    let token = group.z * params.length + row;
    let at = token * row_width() + part * HEAD4 + four;
//! if ROTARY
    let rotates = part < params.heads + params.key_value_heads && four < 2u * HALF4;
    if (rotates && ADJACENT == 0u) {
        // The first of a pair does the work of both.
        if (four >= HALF4) { return; }
        let cosine = table[row * 2u * HALF4 + four];
        let sine = table[row * 2u * HALF4 + HALF4 + four];
        let a = summed(token, part, four);
        let b = summed(token, part, four + HALF4);
        dqkv[at] = a * cosine + b * sine;
        dqkv[at + HALF4] = b * cosine - a * sine;
        return;
    }
    if (rotates) {
        let cosines = table[row * 2u * HALF4 + four / 2u];
        let sines = table[row * 2u * HALF4 + HALF4 + four / 2u];
        let cosine = select(cosines.xy, cosines.zw, four % 2u == 1u);
        let sine = select(sines.xy, sines.zw, four % 2u == 1u);
        let v = summed(token, part, four);
        let a = v.xz * cosine + v.yw * sine;
        let b = v.yw * cosine - v.xz * sine;
        dqkv[at] = vec4(a.x, b.x, a.y, b.y);
        return;
    }
//! end
    dqkv[at] = summed(token, part, four);
}
