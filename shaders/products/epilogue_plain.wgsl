// What happens to element i of x·Wᵀ + bias before it is stored: nothing.
fn epilogue(i: u32, v: f32) -> f32 {
    return v;
}
