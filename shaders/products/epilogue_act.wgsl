//! use activation

// What happens to element i of x·Wᵀ + bias before it is stored: its value is kept for the backward pass, then activated.
override ACTIVATION: u32 = 0u;
const PAIRS: u32 = 0u;
const DERIVED: u32 = 0u;

@group(0) @binding(4) var<storage, read_write> pre: array<f32>; // (rows, stride)

fn epilogue(i: u32, v: f32) -> f32 {
    pre[i] = v;
    return activate(ACTIVATION, v);
}
