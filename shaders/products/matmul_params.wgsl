// The parameters of all kernels for the products of a linear layer.
struct Params {
    rows: u32,
    inputs: u32,
    outputs: u32,
    stride: u32, // from one row of y, pre or dy to the next, in elements
    column: u32, // where the outputs begin in such a row, and in the bias
    chunk: u32, // weight_gradient: rows per chunk
    has_bias: u32,
    has_addend: u32,
    first_row: u32, // epilogue_rope: the number of the first row, if several dispatches share the rows
    length: u32,    // epilogue_rope: rows of a sequence
    rotated: u32,   // epilogue_rope: the columns of queries and keys
}

@group(0) @binding(0) var<uniform> params: Params;
