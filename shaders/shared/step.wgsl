// The values that change from step to step; `gpu::Step` mirrors them in Rust.
struct Step {
    seed: u32,          // of all dropout masks
    counter: u32,       // differs from batch to batch
    target_weight: f32, // one over the number of targets in the step
    learning_rate: f32,
    backward_scale: f32, // gradients are multiplied by this and by the metrics' loss_scale; the optimizer divides by both
}
@group(1) @binding(0) var<uniform> step_values: Step;
