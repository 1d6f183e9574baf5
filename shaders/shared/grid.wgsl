// Elementwise kernels: 64 invocations a workgroup, the workgroups folded into x and y so that no dimension passes the limit.
const FLAT: u32 = 64u;

fn flat_index(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group.y * groups.x + group.x) * FLAT + lane;
}
