// The unit of loads and stores: VECTOR consecutive elements of a row, four if the row length is a multiple of four, else one. Kernels with
// little arithmetic spend their time on loads and stores, and on a CPU device a vector of four halves their cost per element.
override VECTOR: u32 = 1u;
//! if VECTOR - 1u
alias Value = vec4<f32>;
//! else
alias Value = f32;
//! end

// The sum of its elements.
fn sum_of(v: Value) -> f32 {
//! if VECTOR - 1u
    return v.x + v.y + v.z + v.w;
//! else
    return v;
//! end
}
