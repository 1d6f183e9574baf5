//! use grid, value

// Rotary position embedding (Su et al. 2021): every query and key head of the packed qkv is rotated, pair by pair, by an angle that grows
// with the token's position. A pair (a, b) becomes (a · cos - b · sin, b · cos + a · sin); values are copied. Cosines and sines come from
// a table that the host computes in f64: WGSL guarantees the accuracy of neither beyond ±π, and angles reach the thousands.

override HEAD: u32 = 64u;    // elements of a head; even
override ROTARY: u32 = HEAD; // how many of them rotate, beginning with the first; even
override ADJACENT: u32 = 0u; // 1: pairs are (2i, 2i + 1); 0: pairs are (i, i + ROTARY / 2)
override TAKES: u32 = 1u;    // heads that one invocation rotates with one load of the angles
const PAIRS: u32 = HEAD / 2u / VECTOR;  // pairs of Values in a head
const HALF: u32 = ROTARY / 2u / VECTOR; // those that rotate

struct Params {
    len: u32,        // tokens · ceil(heads / TAKES) · PAIRS
    heads: u32,      // heads of a token: queries, keys and values
    turned: u32,     // heads that rotate: queries and keys
    length: u32,     // tokens in a row of the batch
    positions: u32,  // rows of the table
    direction: f32,  // 1, or -1 for the gradient: the transpose of a rotation turns back
    has_start: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Value>;       // (batch · length, heads · HEAD)
@group(0) @binding(2) var<storage, read> table: array<Value>;   // (positions, ROTARY): cosines, then sines
@group(0) @binding(3) var<storage, read> start: array<u32>;     // (batch): the position of each row's first token
@group(0) @binding(4) var<storage, read_write> y: array<Value>; // (batch · length, heads · HEAD)

@compute @workgroup_size(FLAT)
fn turn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.len) { return; }
    let pair = i % PAIRS;
    let shares = (params.heads + TAKES - 1u) / TAKES;
    let token = i / PAIRS / shares;
    let first = i / PAIRS % shares * TAKES;

    let turns = pair < HALF;
    var position = token % params.length;
    if (params.has_start != 0u) { position += start[token / params.length]; }
    let angle = min(position, params.positions - 1u) * 2u * HALF + min(pair, HALF - 1u);
    let cosine = table[angle];
    let sine = params.direction * table[angle + HALF];
    // Elements that do not rotate are copied in adjacent pairs.
    let apart = turns && ADJACENT == 0u;
    let here = select(2u * pair, pair, apart);
    let there = here + select(1u, HALF, apart);
    for (var head = first; head < min(first + TAKES, params.heads); head++) {
        let start_of_head = (token * params.heads + head) * 2u * PAIRS;
        var a = x[start_of_head + here];
        var b = x[start_of_head + there];
        if (turns && head < params.turned) {
//! if ADJACENT * VECTOR / 4u
            // Two vectors of four neighbours hold four pairs.
            let evens = vec4(a.xz, b.xz);
            let odds = vec4(a.yw, b.yw);
            let p = evens * cosine - odds * sine;
            let q = odds * cosine + evens * sine;
            a = vec4(p.x, q.x, p.y, q.y);
            b = vec4(p.z, q.z, p.w, q.w);
//! else
            let p = a * cosine - b * sine;
            b = b * cosine + a * sine;
            a = p;
//! end
        }
        y[start_of_head + here] = a;
        y[start_of_head + there] = b;
    }
}
