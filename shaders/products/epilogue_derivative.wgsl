//! use activation

// What happens to the gradient of an activated product before it is stored: it becomes that of the product. Where a gate precedes its up,
// as in epilogue_gated.wgsl, both get theirs.
override ACTIVATION: u32 = 0u;
override GATED: u32 = 0u;
const PAIRS: u32 = 0u;
const DERIVED: u32 = 1u;

@group(0) @binding(3) var<storage, read> kept_pre: array<vec4<f32>>;        // (rows, inputs / 4), or (rows, 2, inputs / 4): gate and up
@group(0) @binding(4) var<storage, read_write> dpre: array<vec4<f32>>; // the same

fn epilogue(i: u32, v: f32) -> f32 {
    return v;
}

// Four columns of a row; `fours` make a row of the gradient.
fn store_derived(row: u32, column: u32, fours: u32, d: vec4<f32>) {
//! if GATED
    let at = 2u * row * fours + column;
    let gate = kept_pre[at];
    dpre[at] = d * kept_pre[at + fours] * derivative(ACTIVATION, gate);
    dpre[at + fours] = d * activate(ACTIVATION, gate);
//! else
    let at = row * fours + column;
    dpre[at] = d * derivative(ACTIVATION, kept_pre[at]);
//! end
}
