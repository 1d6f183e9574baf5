//! use row_sum, step, metrics, loss_sum

// Cross-entropy over a vocabulary that is processed in slices: an online log-sum-exp forward (Milakov and Gimelshein 2018), and a backward
// pass from the logits of each slice, which are computed again if they are no longer in memory.

const IGNORED: u32 = 0xffffffffu;
const LOWEST = -3.0e38;

struct Params {
    rows: u32,
    width: u32,  // words in this slice
    stride: u32, // from one row of logits to the next, in vectors of four
    start: u32,  // the first word of this slice
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<u32>;           // (rows), IGNORED where there is none
@group(0) @binding(2) var<storage, read> logits: array<vec4<f32>>;      // (rows, stride)
@group(0) @binding(3) var<storage, read_write> states: array<f32>;      // (rows, 3): maximum, sum, target's logit
@group(0) @binding(2) var<storage, read> kept_states: array<f32>;       // (rows, 3)
@group(0) @binding(3) var<storage, read_write> log_sum_exp: array<f32>; // (rows)
@group(0) @binding(4) var<storage, read_write> metrics: Metrics;
@group(0) @binding(2) var<storage, read> kept_log_sum_exp: array<f32>;    // (rows)
@group(0) @binding(3) var<storage, read_write> dlogits: array<vec4<f32>>; // (rows, stride): first the logits
@group(0) @binding(4) var<storage, read> kept_metrics: Metrics;

// Words 4c to 4c + 3 of a slice, and which of them exist: a row is padded to a multiple of four.
fn words(c: u32) -> vec4<u32> {
    return 4u * c + vec4(0u, 1u, 2u, 3u);
}
fn are_words(c: u32) -> vec4<bool> {
    return words(c) < vec4(params.width);
}

// The factor of a sum of exponentials whose maximum grows. The 1 is exact: a driver's exp(0) may not be, and its error would accumulate.
fn shrink(before: f32, after: f32) -> f32 {
    return select(exp(before - after), 1.0, before == after);
}

// Merges one slice into the running maximum and sum of each row.
@compute @workgroup_size(WORKGROUP)
fn slice(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * WORKGROUP_ROWS + local / ROW_THREADS;
    let lane = local % ROW_THREADS;
    let first = min(row, params.rows - 1u) * params.stride;
    var largest = LOWEST;
    var sums = vec4(0.0);
    for (var c = lane; c < params.stride; c += ROW_THREADS) {
        let v = select(vec4(LOWEST), logits[first + c], are_words(c));
        let before = largest;
        largest = max(before, max(max(v.x, v.y), max(v.z, v.w)));
        sums = sums * shrink(before, largest) + exp(v - largest);
    }
    let own = largest;
    largest = row_max(own, local);
    var sum = row_sum((sums.x + sums.y + sums.z + sums.w) * shrink(own, largest), local);
    if (row >= params.rows || lane != 0u) { return; }
    var at_target = 0.0;
    if (params.start > 0u) {
        let before = states[3u * row];
        let both = max(before, largest);
        sum = sum * shrink(largest, both) + states[3u * row + 1u] * shrink(before, both);
        largest = both;
        at_target = states[3u * row + 2u];
    }
    let target_word = targets[row];
    if (target_word != IGNORED && target_word >= params.start && target_word < params.start + params.width) {
        let word = target_word - params.start;
        at_target = logits[first + word / 4u][word % 4u];
    }
    states[3u * row] = largest;
    states[3u * row + 1u] = sum;
    states[3u * row + 2u] = at_target;
}

// The rows' log-sum-exp, and metrics.loss += Σ (log-sum-exp - target's logit) · target_weight. One workgroup.
@compute @workgroup_size(64)
fn finish(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var row = local; row < params.rows; row += 64u) {
        let value = kept_states[3u * row] + log(kept_states[3u * row + 1u]);
        log_sum_exp[row] = value;
        if (targets[row] != IGNORED) { sum += value - kept_states[3u * row + 2u]; }
    }
    add_to_loss(local, sum);
}

// dlogits = (softmax - [word is the target]) · target_weight · backward_scale · loss_scale, in place; 0 for rows without a target and past
// the slice's width.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * WORKGROUP_ROWS + local / ROW_THREADS;
    if (row >= params.rows) { return; }
    let target_word = targets[row];
    let weight = step_values.target_weight * step_values.backward_scale * kept_metrics.loss_scale;
    let scale = select(weight, 0.0, target_word == IGNORED);
    let normaliser = kept_log_sum_exp[row];
    for (var c = local % ROW_THREADS; c < params.stride; c += ROW_THREADS) {
        let i = row * params.stride + c;
        let hit = select(vec4(0.0), vec4(1.0), words(c) + params.start == vec4(target_word));
        dlogits[i] = select(vec4(0.0), (exp(dlogits[i] - normaliser) - hit) * scale, are_words(c));
    }
}
