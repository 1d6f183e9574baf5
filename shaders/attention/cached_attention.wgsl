//! use grid

// Attention of one sequence's tokens from a given position on, over a cache of the keys and values of all tokens up to each one.
//
// A workgroup computes one head of one query. Its lanes take the keys in turn. Each lane keeps a running softmax (Milakov, Gimelshein
// 2018), and these are merged at the end, in lane order. The cache stores the positions of a head next to each other, since keys at
// strides of a power of two would compete for the same sets of a CPU's cache.

override HEAD: u32 = 64u;   // elements of a head; a multiple of 4
override WORKGROUP: u32 = 32u;  // at least CHUNK
override CHUNK: u32 = 16u;  // vec4 of a head that the lanes merge at a time
const HEAD4: u32 = HEAD / 4u;

struct Params {
    length: u32,
    context: u32,
    heads: u32,
    key_value_heads: u32,
    scale: f32,  // 1 / sqrt(HEAD)
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;            // (length, (heads + 2 · key_value_heads) · HEAD)
@group(0) @binding(2) var<storage, read> start: array<u32>;                // (1): the position of the first row

// append
@group(0) @binding(3) var<storage, read_write> keys: array<vec4<f32>>;     // (key_value_heads, context, HEAD)
@group(0) @binding(4) var<storage, read_write> values: array<vec4<f32>>;   // (key_value_heads, context, HEAD)

// attend
@group(0) @binding(3) var<storage, read> cached_keys: array<vec4<f32>>;    // (key_value_heads, context, HEAD)
@group(0) @binding(4) var<storage, read> cached_values: array<vec4<f32>>;  // (key_value_heads, context, HEAD)
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;        // (length, heads · HEAD)

var<workgroup> maxima: array<f32, WORKGROUP>;
var<workgroup> totals: array<f32, WORKGROUP>;
var<workgroup> sums: array<vec4<f32>, WORKGROUP * CHUNK>;

const LOWEST = -1.0e30;

// The position of a row, capped at `context`, where nothing is cached.
fn position(row: u32) -> u32 {
    return min(min(start[0], params.context) + row, params.context);
}

// keys[position] and values[position] = those of the row
@compute @workgroup_size(FLAT)
fn append(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let width = params.key_value_heads * HEAD4;
    let i = flat_index(group, lane);
    let row = i / width;
    if (row >= params.length) { return; }
    let to = position(row);
    if (to >= params.context) { return; }
    let first = row * (params.heads * HEAD4 + 2u * width) + params.heads * HEAD4 + i % width;
    let place = (i % width / HEAD4 * params.context + to) * HEAD4 + i % HEAD4;
    keys[place] = qkv[first];
    values[place] = qkv[first + width];
}

// y = softmax(q · k / sqrt(HEAD)) · v over the keys up to the query's position
@compute @workgroup_size(WORKGROUP)
fn attend(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.x;
    let query = group.y;
    if (head >= params.heads) { return; }
    let width = params.key_value_heads * HEAD4;
    let first = head * params.key_value_heads / params.heads * params.context;
    let end = min(position(query) + 1u, params.context);

    var q: array<vec4<f32>, HEAD4>;
    var sum: array<vec4<f32>, HEAD4>;
    @unroll for (var d = 0u; d < HEAD4; d++) {
        q[d] = qkv[query * (params.heads * HEAD4 + 2u * width) + head * HEAD4 + d] * params.scale;
        sum[d] = vec4(0.0);
    }
    var largest = LOWEST;
    var total = 0.0;
    for (var key = lane; key < end; key += WORKGROUP) {
        let row = (first + key) * HEAD4;
        var products = vec4(0.0);
        @unroll for (var d = 0u; d < HEAD4; d++) { products += q[d] * cached_keys[row + d]; }
        let score = products.x + products.y + products.z + products.w;
        let before = largest;
        largest = max(largest, score);
        let shrink = exp(before - largest);
        let weight = exp(score - largest);
        total = total * shrink + weight;
        @unroll for (var d = 0u; d < HEAD4; d++) { sum[d] = sum[d] * shrink + weight * cached_values[row + d]; }
    }

    // A lane without a key has sums of zero, and LOWEST as its maximum.
    maxima[lane] = largest;
    workgroupBarrier();
    var highest = LOWEST;
    for (var l = 0u; l < WORKGROUP; l++) { highest = max(highest, maxima[l]); }
    let shrink = exp(largest - highest);
    totals[lane] = total * shrink;
    @unroll for (var c = 0u; c < HEAD4 / CHUNK; c++) {
        @unroll for (var d = 0u; d < CHUNK; d++) { sums[lane * CHUNK + d] = sum[c * CHUNK + d] * shrink; }
        workgroupBarrier();
        if (lane < CHUNK) {
            var joined = vec4(0.0);
            var whole = 0.0;
            for (var l = 0u; l < WORKGROUP; l++) {
                joined += sums[l * CHUNK + lane];
                whole += totals[l];
            }
            y[(query * params.heads + head) * HEAD4 + c * CHUNK + lane] = joined / whole;
        }
        workgroupBarrier();
    }
}
