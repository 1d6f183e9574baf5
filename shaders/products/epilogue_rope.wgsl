// What happens to a pair of columns of x·Wᵀ + bias, which are queries, keys and values, before it is stored: it is rotated as in rope.wgsl.
override HEAD: u32 = 64u;    // elements of a head
override ROTARY: u32 = HEAD; // how many of them rotate, from the first on
override ADJACENT: u32 = 0u; // pairs are (2i, 2i + 1), else (i, i + ROTARY / 2)
const HALF: u32 = ROTARY / 2u;
const HEAD_PAIRS: u32 = HEAD / 2u;
const PAIRS: u32 = 1u;
const DERIVED: u32 = 0u;

@group(0) @binding(4) var<storage, read> table: array<f32>; // (positions, ROTARY): cosines, then sines

// What does not rotate is paired with its neighbour.
fn pair_columns(pair: u32) -> vec2<u32> {
    let head = pair / HEAD_PAIRS * HEAD;
    let i = pair % HEAD_PAIRS;
    if (ADJACENT == 0u && i < HALF) { return vec2(head + i, head + i + HALF); }
    return vec2(head + 2u * i, head + 2u * i + 1u);
}

fn pair_epilogue(row: u32, pair: u32, v: vec2<f32>) {
    let columns = params.column + pair_columns(pair);
    let i = pair % HEAD_PAIRS;
    var rotated = v;
    if (i < HALF && columns.x < params.rotated) {
        let angle = (params.first_row + row) % params.length * ROTARY + i;
        let cosine = table[angle];
        let sine = table[angle + HALF];
        rotated = vec2(v.x * cosine - v.y * sine, v.y * cosine + v.x * sine);
    }
    y[row * params.stride + columns.x] = rotated.x;
    y[row * params.stride + columns.y] = rotated.y;
}
