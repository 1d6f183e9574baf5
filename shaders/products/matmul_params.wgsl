// What every variant of the products of a linear layer is told.
struct Params {
    rows: u32,
    inputs: u32,
    outputs: u32,
    stride: u32, // from one row of y, pre or dy to the next, in elements
    column: u32, // where the outputs begin in such a row, and in the bias
    chunk: u32, // weight_gradient: rows a chunk
    has_bias: u32,
    has_addend: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
