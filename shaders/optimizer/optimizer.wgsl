//! use grid, step, metrics

// The gradient's norm, and Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019) over one flat arena,
// whose ranges begin and end at multiples of 64 elements.

const CHUNK: u32 = 8192u; // elements that one workgroup of sum_squares adds up

struct Params {
    len: u32,              // vectors of four
    chunks: u32,
    max_norm: f32,         // 0: no clipping
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,  // computed in double precision: in f32, 1 - 0.999 has a relative error of 5e-5
    one_minus_beta2: f32,
    log_beta1: f32,
    log_beta2: f32,
    epsilon: f32,
    weight_decay: f32,     // Adam: added to the gradient; AdamW: subtracted from the weight
    decoupled: u32,        // 1: AdamW
    first_chunk: u32,
    growth_interval: u32,  // of the loss scale; 0: it is fixed
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients: array<vec4<f32>>;       // (len)
@group(0) @binding(2) var<storage, read_write> partial_squares: array<f32>; // (chunks)
@group(0) @binding(1) var<storage, read> squares: array<f32>;               // (chunks)
@group(0) @binding(2) var<storage, read_write> metrics: Metrics;
@group(0) @binding(2) var<storage, read> kept_metrics: Metrics;
@group(0) @binding(3) var<storage, read_write> first_moment: array<vec4<f32>>;  // (len)
@group(0) @binding(4) var<storage, read_write> second_moment: array<vec4<f32>>; // (len)
@group(0) @binding(5) var<storage, read_write> values: array<vec4<f32>>;        // (len)

var<workgroup> lane_sums: array<f32, 64>;

// The sum of v over the workgroup, for lane 0.
fn group_sum(v: f32, lane: u32) -> f32 {
    lane_sums[lane] = v;
    workgroupBarrier();
    var total = 0.0;
    if (lane == 0u) {
        for (var i = 0u; i < 64u; i++) { total += lane_sums[i]; }
    }
    return total;
}

// partial_squares[chunk] = Σ gradients² over CHUNK elements
@compute @workgroup_size(64)
fn sum_squares(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let chunk = group.x;
    var sum = 0.0;
    let first = chunk * CHUNK / 4u;
    for (var i = first + lane; i < min(first + CHUNK / 4u, params.len); i += 64u) {
        let g = gradients[i];
        sum += dot(g, g);
    }
    let total = group_sum(sum, lane);
    if (lane == 0u && first < params.len) { partial_squares[params.first_chunk + chunk] = total; }
}

// WGSL lets a compiler assume that there is no NaN or infinity, so this checks the bits of the exponent.
fn is_finite(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u;
}

// The loss scale follows the rule of PyTorch's GradScaler: a step whose gradient overflows is skipped and halves the scale;
// growth_interval steps in a row without an overflow double it.
//
// At the lowest scale a token's own gradient is multiplied by 1/1024 (`train::LossScaler`), so it overflows f16 only past 6.7e7. Training
// has then diverged, and a lower scale would not save it.
const LOWEST_SCALE: f32 = 1.0;

fn grow_scale() {
    if (params.growth_interval == 0u) { return; }
    metrics.growth_tracker += 1u;
    if (metrics.growth_tracker < params.growth_interval) { return; }
    metrics.growth_tracker = 0u;
    let doubled = 2.0 * metrics.loss_scale;
    if (is_finite(doubled)) { metrics.loss_scale = doubled; }
}

// The norm, the factor that clips it, whether this step counts, and the next loss scale. One workgroup.
@compute @workgroup_size(64)
fn finish_norm(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < params.chunks; i += 64u) { sum += squares[i]; }
    let total = group_sum(sum, lane);
    if (lane != 0u) { return; }
    let backward_scale = step_values.backward_scale * metrics.loss_scale;
    let norm = sqrt(total) / backward_scale;
    metrics.gradient_norm = norm;
    var scale = 1.0;
    if (params.max_norm > 0.0) { scale = min(1.0, params.max_norm / (norm + 1.0e-6)); }
    metrics.gradient_scale = scale / backward_scale;
    if (is_finite(total) && is_finite(metrics.loss)) {
        metrics.finite = 1u;
        metrics.updates += 1u;
        metrics.skipped_in_a_row = 0u;
        grow_scale();
    } else {
        metrics.finite = 0u;
        metrics.skipped += 1u;
        metrics.growth_tracker = 0u;
        // If the loss is not finite, the forward pass overflowed, and the scale plays no part in that.
        if (is_finite(metrics.loss) && metrics.loss_scale > LOWEST_SCALE) {
            metrics.loss_scale *= 0.5;
        } else {
            metrics.skipped_in_a_row += 1u;
        }
    }
}

// 1 - beta^t from the logarithm of beta: for small t, the plain difference would lose most of its digits.
fn one_minus_power(log_beta: f32, t: f32) -> f32 {
    let x = log_beta * t;
    if (x > -0.25) {
        // -(e^x - 1) by its series; the first term left out is below 2e-9 of the sum
        return -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0))))));
    }
    return 1.0 - exp(x);
}

@compute @workgroup_size(FLAT)
fn adam(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.len || kept_metrics.finite == 0u) { return; }
    let t = f32(kept_metrics.updates);
    let learning_rate = step_values.learning_rate;
    var value = values[i];
    var gradient = gradients[i] * kept_metrics.gradient_scale;
    if (params.decoupled != 0u) {
        value -= learning_rate * params.weight_decay * value;
    } else {
        gradient += params.weight_decay * value;
    }
    let m = params.beta1 * first_moment[i] + params.one_minus_beta1 * gradient;
    let v = params.beta2 * second_moment[i] + params.one_minus_beta2 * gradient * gradient;
    first_moment[i] = m;
    second_moment[i] = v;
    let m_hat = m / one_minus_power(params.log_beta1, t);
    let v_hat = v / one_minus_power(params.log_beta2, t);
    values[i] = value - learning_rate * m_hat / (sqrt(v_hat) + params.epsilon);
}
