//! use activation

// What happens to a pair of columns of x·Wᵀ + bias, a gate in the first half of the columns and its up in the second, before it is stored:
// y = activate(gate) · up (Shazeer 2020, "GLU variants"). Both are kept for the backward pass.
override ACTIVATION: u32 = 0u;
override KEEP: u32 = 1u;
const PAIRS: u32 = 1u;
const DERIVED: u32 = 0u;

//! if KEEP
@group(0) @binding(4) var<storage, read_write> pre: array<f32>; // (rows, stride)
//! end

fn pair_columns(pair: u32) -> vec2<u32> {
    return vec2(pair, pair + params.outputs / 2u);
}

// y is (rows, stride / 2).
fn pair_epilogue(row: u32, pair: u32, v: vec2<f32>) {
//! if KEEP
    let columns = pair_columns(pair);
    pre[row * params.stride + columns.x] = v.x;
    pre[row * params.stride + columns.y] = v.y;
//! end
    y[row * (params.stride / 2u) + pair] = activate(ACTIVATION, v.x) * v.y;
}
