// What is loaded and stored at once: VECTOR neighbours in a row, four where rows are multiples of four and else one. Kernels that compute
// little take their time for loads and stores, and on a CPU device one of four numbers costs half as much for each of them.
override VECTOR: u32 = 1u;
//! if VECTOR - 1u
alias Value = vec4<f32>;
//! else
alias Value = f32;
//! end

// The sum of its numbers.
fn sum_of(v: Value) -> f32 {
//! if VECTOR - 1u
    return v.x + v.y + v.z + v.w;
//! else
    return v;
//! end
}
