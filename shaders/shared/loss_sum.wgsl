// Adds what the 64 invocations of the only workgroup have found to the loss of the step, which `metrics` holds.

var<workgroup> partial_losses: array<f32, 64>;

fn add_to_loss(local: u32, sum: f32) {
    partial_losses[local] = sum;
    workgroupBarrier();
    if (local == 0u) {
        var total = 0.0;
        for (var i = 0u; i < 64u; i++) { total += partial_losses[i]; }
        metrics.loss += total * step_values.target_weight;
    }
}
