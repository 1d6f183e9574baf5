// What a step tells the host, and what the optimizer keeps between steps; `train::Metrics` is its twin in Rust.
struct Metrics {
    loss: f32,           // mean over the targets of the step
    gradient_norm: f32,  // before clipping
    gradient_scale: f32, // what the optimizer multiplies gradients with, to clip them and undo backward_scale
    finite: u32,         // 1 where loss and gradients are finite: the step counts
    updates: u32,        // steps that counted: Adam's t
    skipped: u32,        // steps that did not
    skipped_in_a_row: u32,
    unused: u32,
}
