//! use row_sum, step, metrics

// Cross-entropy over a vocabulary that passes in slices: an online log-sum-exp forward (Milakov and Gimelshein 2018), and backward from
// the slice of logits that is at hand again.

const IGNORED: u32 = 0xffffffffu;

struct Params {
    rows: u32,
    width: u32,  // words in this slice
    stride: u32, // from one row of logits to the next
    start: u32,  // the first word of this slice
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<u32>;              // (rows), IGNORED where there is none
@group(0) @binding(2) var<storage, read> logits: array<f32>;               // (rows, stride)
@group(0) @binding(3) var<storage, read_write> states: array<f32>;         // (rows, 3): maximum, sum, target's logit
@group(0) @binding(2) var<storage, read> kept_states: array<f32>;          // (rows, 3)
@group(0) @binding(3) var<storage, read_write> log_sum_exp: array<f32>;    // (rows)
@group(0) @binding(4) var<storage, read_write> metrics: Metrics;
@group(0) @binding(2) var<storage, read> kept_log_sum_exp: array<f32>;     // (rows)
@group(0) @binding(3) var<storage, read_write> dlogits: array<f32>;        // (rows, stride): logits before

// Takes one slice into the running maximum and sum of each row.
@compute @workgroup_size(GROUP)
fn slice(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * ROWS + local / LANES;
    let lane = local % LANES;
    let read_row = min(row, params.rows - 1u);
    let first = read_row * params.stride;
    var largest = -3.0e38;
    for (var c = lane; c < params.width; c += LANES) { largest = max(largest, logits[first + c]); }
    largest = row_max(largest, local);
    var before = -3.0e38;
    if (params.start > 0u) { before = states[3u * read_row]; }
    largest = max(largest, before);
    var sum = 0.0;
    for (var c = lane; c < params.width; c += LANES) { sum += exp(logits[first + c] - largest); }
    sum = row_sum(sum, local);
    if (row >= params.rows || lane != 0u) { return; }
    var at_target = 0.0;
    if (params.start > 0u) {
        sum += states[3u * row + 1u] * exp(before - largest);
        at_target = states[3u * row + 2u];
    }
    let target_word = targets[row];
    if (target_word != IGNORED && target_word >= params.start && target_word < params.start + params.width) {
        at_target = logits[first + target_word - params.start];
    }
    states[3u * row] = largest;
    states[3u * row + 1u] = sum;
    states[3u * row + 2u] = at_target;
}

// The rows' log-sum-exp, and metrics.loss += Σ (log-sum-exp - target's logit) · loss_scale. One workgroup.
var<workgroup> partial_losses: array<f32, 64>;
@compute @workgroup_size(64)
fn finish(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var row = local; row < params.rows; row += 64u) {
        let value = kept_states[3u * row] + log(kept_states[3u * row + 1u]);
        log_sum_exp[row] = value;
        if (targets[row] != IGNORED) { sum += value - kept_states[3u * row + 2u]; }
    }
    partial_losses[local] = sum;
    workgroupBarrier();
    if (local == 0u) {
        var total = 0.0;
        for (var i = 0u; i < 64u; i++) { total += partial_losses[i]; }
        metrics.loss += total * step_values.loss_scale;
    }
}

// dlogits = (softmax - [word is the target]) · loss_scale, in place; 0 for rows without target and past the slice's width.
@compute @workgroup_size(GROUP)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * ROWS + local / LANES;
    if (row >= params.rows) { return; }
    let target_word = targets[row];
    let scale = select(step_values.loss_scale, 0.0, target_word == IGNORED);
    for (var c = local % LANES; c < params.stride; c += LANES) {
        let i = row * params.stride + c;
        var v = 0.0;
        if (c < params.width) {
            v = exp(dlogits[i] - kept_log_sum_exp[row]);
            if (params.start + c == target_word) { v -= 1.0; }
            v *= scale;
        }
        dlogits[i] = v;
    }
}
