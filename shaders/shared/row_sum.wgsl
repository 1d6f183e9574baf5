// LANES invocations of a workgroup share each row of a matrix: one on a CPU device, where a lane processes its row alone; many on a GPU,
// where the lanes combine their partial results through workgroup memory in a fixed order.
override LANES: u32 = 1u;
//! if LANES - 1u
const GROUP: u32 = 64u;
//! else
const GROUP: u32 = 16u; // a batch has few rows, and a CPU may have many cores
//! end
const ROWS: u32 = GROUP / LANES;

//! if LANES - 1u
var<workgroup> lane_values: array<f32, GROUP>;
//! end

// The sum of v over the lanes of a row, returned to each of them.
fn row_sum(v: f32, local: u32) -> f32 {
//! if LANES - 1u
    workgroupBarrier();
    lane_values[local] = v;
    workgroupBarrier();
    let first = local / LANES * LANES;
    var total = 0.0;
    for (var i = 0u; i < LANES; i++) { total += lane_values[first + i]; }
    return total;
//! else
    return v;
//! end
}

// The largest v over the lanes of a row, returned to each of them.
fn row_max(v: f32, local: u32) -> f32 {
//! if LANES - 1u
    workgroupBarrier();
    lane_values[local] = v;
    workgroupBarrier();
    let first = local / LANES * LANES;
    var largest = lane_values[first];
    for (var i = 1u; i < LANES; i++) { largest = max(largest, lane_values[first + i]); }
    return largest;
//! else
    return v;
//! end
}
