// ROW_THREADS invocations of a workgroup share each row of a matrix: one on a CPU device, where a lane processes its row alone; many on a GPU,
// where the lanes combine their partial results through workgroup memory in a fixed order.
override ROW_THREADS: u32 = 1u;
//! if ROW_THREADS - 1u
const WORKGROUP: u32 = 64u;
//! else
const WORKGROUP: u32 = 16u; // a batch has few rows, and a CPU may have many cores
//! end
const WORKGROUP_ROWS: u32 = WORKGROUP / ROW_THREADS;

//! if ROW_THREADS - 1u
var<workgroup> lane_values: array<f32, WORKGROUP>;
//! end

// The sum of v over the lanes of a row, returned to each of them.
fn row_sum(v: f32, local: u32) -> f32 {
//! if ROW_THREADS - 1u
    workgroupBarrier();
    lane_values[local] = v;
    workgroupBarrier();
    let first = local / ROW_THREADS * ROW_THREADS;
    var total = 0.0;
    for (var i = 0u; i < ROW_THREADS; i++) { total += lane_values[first + i]; }
    return total;
//! else
    return v;
//! end
}

// The largest v over the lanes of a row, returned to each of them.
fn row_max(v: f32, local: u32) -> f32 {
//! if ROW_THREADS - 1u
    workgroupBarrier();
    lane_values[local] = v;
    workgroupBarrier();
    let first = local / ROW_THREADS * ROW_THREADS;
    var largest = lane_values[first];
    for (var i = 1u; i < ROW_THREADS; i++) { largest = max(largest, lane_values[first + i]); }
    return largest;
//! else
    return v;
//! end
}
