//! use grid, weight_{FORMAT}

// Looks up rows of a table by token, or by place in the sequence if POSITIONS is set. A table that does not fit in one binding is
// processed in slices of rows; each slice adds its rows to the result of the slices before it.

override POSITIONS: u32 = 0u;
override START: u32 = 0u;     // with POSITIONS: `first_place` comes before the tokens

struct Params {
    rows: u32,   // batch × length
    columns: u32,
    length: u32,
    has_addend: u32,
    start: u32,  // the first row of the slice of the table
    count: u32,  // its rows
    first: u32,  // with POSITIONS: the place of a sequence's first token
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;         // (rows)
@group(0) @binding(1) var<storage, read> first_place: array<u32>;    // (1)
@group(0) @binding(3) var<storage, read> addend: array<f32>;         // (rows, columns)
@group(0) @binding(4) var<storage, read_write> y: array<f32>;        // (rows, columns)

@group(0) @binding(2) var<storage, read> order: array<u32>;          // (rows): the rows sorted by token
@group(0) @binding(3) var<storage, read> dy: array<f32>;             // (rows, columns)
@group(0) @binding(4) var<storage, read_write> dtable: array<f32>;   // (vocabulary or context, columns)

// y = table[token] + addend
@compute @workgroup_size(FLAT)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.rows * params.columns) { return; }
    let row = i / params.columns;
//! if START
    let entry = min(min(first_place[0], params.count) + params.first + row % params.length, params.count - 1u);
//! else
//! if POSITIONS
    let entry = params.first + row % params.length;
//! else
    let entry = tokens[row];
//! end
//! end
    var v = 0.0;
    if (entry >= params.start && entry - params.start < params.count) {
        v = weight1((entry - params.start) * params.columns + i % params.columns);
    }
    if (params.has_addend != 0u) { v += addend[i]; }
    y[i] = v;
}

// dtable[token] += Σ dy over the rows of that token, in order. The invocation at the first of them adds them all.
@compute @workgroup_size(FLAT)
fn token_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    if (i >= params.rows * params.columns) { return; }
    let column = i % params.columns;
    var at = i / params.columns;
    let token = tokens[order[at]];
    if (token < params.start || token - params.start >= params.count) { return; }
    if (at > 0u) {
        if (tokens[order[at - 1u]] == token) { return; }
    }
    let place = (token - params.start) * params.columns + column;
    var sum = dtable[place];
    for (; at < params.rows; at++) {
        let row = order[at];
        if (tokens[row] != token) { break; }
        sum += dy[row * params.columns + column];
    }
    dtable[place] = sum;
}

// dtable[place] += Σ dy over the batch
@compute @workgroup_size(FLAT)
fn position_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_index(group, lane);
    let size = params.length * params.columns;
    if (i >= size) { return; }
    let place = params.first * params.columns + i;
    var sum = dtable[place];
    for (var at = i; at < params.rows * params.columns; at += size) { sum += dy[at]; }
    dtable[place] = sum;
}
