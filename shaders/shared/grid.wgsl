// Elementwise kernels: 64 invocations per workgroup, one element each.
const FLAT: u32 = 64u;

fn flat_index(group: vec3<u32>, lane: u32) -> u32 {
    return group.x * FLAT + lane;
}
