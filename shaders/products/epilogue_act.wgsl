//! use activation

// What becomes of element i of x·Wᵀ + bias before it is stored: it is kept for the backward pass and activated.
override ACTIVATION: u32 = 0u;

@group(0) @binding(4) var<storage, read_write> pre: array<f32>; // (rows, stride)

fn epilogue(i: u32, v: f32) -> f32 {
    pre[i] = v;
    return activate(ACTIVATION, v);
}
