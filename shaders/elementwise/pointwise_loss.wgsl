//! use grid, metrics, step, loss_sum

// The loss of predictions that are judged one by one: the squared error of a score, or the binary cross-entropy of a label's logit.

override LOGISTIC: u32 = 0u; // 1: binary cross-entropy

const IGNORED: u32 = 0xffffffffu;

struct Params {
    len: u32,
    has_addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;              // (len)
@group(0) @binding(2) var<storage, read> targets: array<u32>;        // (len): the bits of an f32, or IGNORED
@group(0) @binding(3) var<storage, read_write> slopes: array<f32>;   // (len): d loss / dx, before weighting
@group(0) @binding(4) var<storage, read_write> metrics: Metrics;

@group(0) @binding(1) var<storage, read> kept_slopes: array<f32>;    // (len)
@group(0) @binding(2) var<storage, read> addend: array<f32>;         // (len)
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;       // (len)
@group(0) @binding(4) var<storage, read> kept_metrics: Metrics;

// The slopes, and metrics.loss += Σ loss · target_weight. One workgroup.
@compute @workgroup_size(64)
fn forward(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var i = local; i < params.len; i += 64u) {
        let wanted = bitcast<f32>(targets[i]);
        var slope = 0.0;
        if (targets[i] != IGNORED) {
//! if LOGISTIC
            // The exponential of a number that is not positive does not overflow.
            let e = exp(-abs(x[i]));
            sum += max(x[i], 0.0) - x[i] * wanted + log(1.0 + e);
            slope = select(e, 1.0, x[i] >= 0.0) / (1.0 + e) - wanted;
//! else
            sum += (x[i] - wanted) * (x[i] - wanted);
            slope = 2.0 * (x[i] - wanted);
//! end
        }
        slopes[i] = slope;
    }
    add_to_loss(local, sum);
}

// dx = slope · target_weight · backward_scale · loss_scale + addend
@compute @workgroup_size(FLAT)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.len) { return; }
    var v = kept_slopes[i] * (step_values.target_weight * step_values.backward_scale * kept_metrics.loss_scale);
    if (params.has_addend != 0u) { v += addend[i]; }
    dx[i] = v;
}
