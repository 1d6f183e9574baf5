//! use grid

// Rotary position embedding (Su et al. 2021): every query and key head of packed qkv is turned, pair by pair, by an angle that grows
// with the token's position. A pair (a, b) becomes (a · cos - b · sin, b · cos + a · sin); values are copied. Cosines and sines come from
// a table that the host made in f64: WGSL promises neither beyond ±π, and angles reach the thousands.

override HEAD: u32 = 64u;    // numbers of a head
override ROTARY: u32 = HEAD; // how many of them turn, from the first on; even
override ADJACENT: u32 = 0u; // pairs are (2i, 2i + 1), else (i, i + ROTARY / 2)
const HALF: u32 = ROTARY / 2u;

struct Params {
    len: u32,
    width: u32,      // of a row of qkv
    turned: u32,     // how much of it queries and keys take
    length: u32,     // tokens of a row of the batch
    positions: u32,  // rows of the table
    direction: f32,  // 1, or -1 for the gradient: the transpose of a rotation turns back
    has_start: u32,
    has_addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;       // (batch · length, width)
@group(0) @binding(2) var<storage, read> table: array<f32>;   // (positions, ROTARY): HALF cosines, then HALF sines
@group(0) @binding(3) var<storage, read> start: array<u32>;   // (batch): the position of each row's first token
@group(0) @binding(4) var<storage, read> addend: array<f32>;  // (batch · length, width)
@group(0) @binding(5) var<storage, read_write> y: array<f32>; // (batch · length, width)

// y = x turned + addend
@compute @workgroup_size(FLAT)
fn turn(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_index(group, groups, lane);
    if (i >= params.len) { return; }
    let column = i % params.width;
    let d = column % HEAD;
    var v = x[i];
    if (column < params.turned && d < ROTARY) {
        let token = i / params.width;
        var position = token % params.length;
        if (params.has_start != 0u) { position += start[token / params.length]; }
        let angles = min(position, params.positions - 1u) * ROTARY;
//! if ADJACENT
        let pair = d / 2u;
        let is_first = d % 2u == 0u;
        let other = x[select(i - 1u, i + 1u, is_first)];
//! else
        let pair = d % HALF;
        let is_first = d < HALF;
        let other = x[select(i - HALF, i + HALF, is_first)];
//! end
        let sine = params.direction * table[angles + HALF + pair];
        v = v * table[angles + pair] + select(sine, -sine, is_first) * other;
    }
    if (params.has_addend != 0u) { v += addend[i]; }
    y[i] = v;
}
