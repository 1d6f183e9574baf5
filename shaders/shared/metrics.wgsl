// What a step reports to the host, and what the optimizer keeps between steps; `gpu::Metrics` mirrors it in Rust.
struct Metrics {
    loss: f32,             // mean over the targets of the step
    gradient_norm: f32,    // before clipping
    gradient_scale: f32,   // what the optimizer multiplies gradients by, to clip them and to undo their scaling
    finite: u32,           // 1 if loss and gradients are finite: the step counts
    updates: u32,          // steps that counted: Adam's t
    skipped: u32,          // steps that did not
    skipped_in_a_row: u32, // since the last update, except those that lowered the loss scale
    loss_scale: f32,       // of the next step (optimizer.wgsl); 1 if gradients are f32
    growth_tracker: u32,   // steps in a row that counted at this loss scale
}
