//! The three products of a linear layer, y = x·Wᵀ, dx = dy·W and dW = dyᵀ·x, and the choice of their kernels.

use super::layer::{Linear, Part};
use super::reduce::{add_partials, busy_chunks, column_sum};
use super::{Activation, Rope, parts_per_dispatch, row_threads};
use crate::graph::{Argument, DType, Graph, Kernel, Matrix, Tensor, read, update, write};

crate::params!(Params {
    rows: u32,
    inputs: u32,
    outputs: u32,
    stride: u32,
    column: u32,
    chunk: u32,
    has_bias: u32,
    has_addend: u32,
    first_row: u32,
    length: u32,
    rotated: u32,
});

impl Params {
    /// Of one product, without a bias and an addend.
    fn new([rows, inputs, outputs]: [u32; 3], stride: u32, column: u32) -> Params {
        Params { rows, inputs, outputs, stride, column, chunk: rows, has_bias: 0, has_addend: 0, first_row: 0, length: 0, rotated: 0 }
    }
}

/// What happens to x·Wᵀ + bias before it is stored.
#[derive(Clone, Copy)]
pub enum Epilogue {
    /// Nothing.
    Plain,
    /// It is activated, and its value before is kept.
    Activated(Activation),
    /// The first half of the columns is activated and multiplied by the second. Only where [`pairs`] allows it.
    Gated {
        /// Applied to the first half.
        activation: Activation,
        /// Whether both halves are kept.
        keep: bool,
    },
    /// Queries and keys are rotated by their positions. Only where [`pairs`] allows it.
    Rotated(Rope),
}

/// Whether the products of a layer can combine pairs of columns, and its input gradient the columns of a row, before they store them.
pub fn pairs(g: &mut Graph, rows: u32, layer: &Linear) -> bool {
    let weights: Vec<_> = layer.parts(g).iter().map(|part| part.weight).collect();
    let fits = |weight: &Tensor| {
        let (outputs, inputs) = (g.shape(*weight).rows(), g.shape(*weight).last());
        let aligned = inputs.is_multiple_of(4) && outputs.is_multiple_of(8);
        aligned && ["matmul_gpu", "matmul_matrix"].contains(&variant(g, "forward", aligned, [rows, outputs], None).file)
    };
    layer.low_rank.is_empty() && weights.len() == layer.weights.len() && weights.iter().all(fits)
}

/// The kernel for a device and a product with `rows` rows and `columns` columns. Every choice is made here. The fast kernels load vectors
/// of four along the rows of both matrices, which must be `aligned`. `input` is that of the layer, if it is an operand.
fn variant(g: &Graph, entry: &'static str, aligned: bool, [rows, columns]: [u32; 2], input: Option<Tensor>) -> Kernel {
    let traits = g.traits();
    let matrix = g.matrix().filter(|_| aligned && rows > 1 && !traits.cpu && !traits.avoids("matmul_matrix"));
    if let Some(Matrix { size, regions }) = matrix {
        let shrink = input.is_some_and(|x| g.info(x).dtype == DType::F32);
        return Kernel::new("matmul_matrix", entry).with("SIZE", size).with("REGIONS", regions).with("SHRINK", shrink);
    }
    match (aligned, traits.cpu, traits.cpu_subgroup()) {
        (true, true, lanes) if lanes > 0 && !traits.avoids("matmul_cpu") => {
            // Rows of a tile past the end of the product are wasted work, so a product with few rows gets tiles with few rows.
            let tile = [8, 16].into_iter().find(|&t| rows <= t && t % lanes == 0).unwrap_or(32);
            Kernel::new("matmul_cpu", entry).with("SUBGROUP", lanes).with("TILE_ROWS", tile)
        }
        (true, ..) if rows == 1 && entry == "forward" && !traits.avoids("matmul_row") => {
            Kernel::new("matmul_row", entry).with("ROW_THREADS", row_threads(traits))
        }
        (true, false, _) if !traits.avoids("matmul_gpu") => {
            // Tiles of 128 × 128 do more with each load, but only pay if there are enough of them to fill the device.
            let large = u64::from(rows) * u64::from(columns) >= 128 * 128 * 256;
            Kernel::new("matmul_gpu", entry).with("QUADS", 1 + large as u32)
        }
        _ => Kernel::new("matmul_any", entry),
    }
}

fn tiles(kernel: &Kernel, name: [&str; 2], rows: u32, columns: u32) -> [u32; 2] {
    [columns.div_ceil(kernel.constant(name[1])), rows.div_ceil(kernel.constant(name[0]))]
}

/// The operations of a product: a multiplication and an addition for each row, input and output.
fn operations(rows: u32, inputs: u32, outputs: u32) -> u64 {
    [rows, inputs, outputs].map(u64::from).into_iter().fold(2, u64::saturating_mul)
}

/// Cuts the `rows` rows of an output, each of which takes `operations`, into slices (start, count) of one dispatch each. A slice has whole
/// tiles, so every element is computed exactly as without slices, and begins at a multiple of 256 bytes in each of `tensors`.
fn row_slices(g: &Graph, rows: u32, tile: u32, operations: u64, tensors: &[Tensor]) -> Vec<(u32, u32)> {
    let row_bytes = tensors.iter().map(|&t| g.info(t).dtype.bytes(g.shape(t).last().into()));
    // All are powers of two, so the largest is a multiple of the others.
    let step = row_bytes.map(|bytes| 256 >> bytes.trailing_zeros().min(8)).fold(tile, u32::max);
    let most = parts_per_dispatch(g.traits(), rows.div_ceil(step).into(), operations.saturating_mul(step.into())) * u64::from(step);
    let most = most.min(rows.into()) as u32;
    (0..rows).step_by(most as usize).map(|start| (start, most.min(rows - start))).collect()
}

/// `count` rows of a tensor from row `start` on.
fn rows_of(g: &mut Graph, tensor: Tensor, start: u32, count: u32) -> Tensor {
    let (rows, last) = (g.shape(tensor).rows(), g.shape(tensor).last());
    if rows == count { tensor } else { g.view(tensor, "rows", u64::from(start) * u64::from(last), [count, last]) }
}

/// y = epilogue(x·Wᵀ + bias) for x (rows, inputs) and the stacked W of a layer (outputs, inputs); y (rows, stride), stride ≥ outputs, or half as
/// wide where a gate is applied. The second tensor is what the epilogue keeps (rows, stride).
pub fn forward(g: &mut Graph, x: Tensor, layer: &Linear, stride: u32, epilogue: Epilogue) -> (Tensor, Option<Tensor>) {
    let (inputs, rows) = (g.shape(x).last(), g.shape(x).rows());
    let shape = g.shape(x).with_last(stride);
    let (y, pre) = match epilogue {
        Epilogue::Plain | Epilogue::Rotated(_) => (g.activation("y", shape), None),
        Epilogue::Activated(_) => (g.activation("y", shape.clone()), Some(g.activation("pre", shape))),
        // See `ops::gated` for why it is f32.
        Epilogue::Gated { keep, .. } => (g.single("gated", shape.with_last(stride / 2)), keep.then(|| g.activation("pre", shape))),
    };
    let (length, rotated) = match epilogue {
        Epilogue::Rotated(rope) => (g.shape(x).axes()[1] as u32, (rope.heads + rope.key_value_heads) * rope.head_size),
        _ => (0, 0),
    };
    for Part { weight, column, .. } in layer.parts(g) {
        let outputs = g.shape(weight).rows();
        assert_eq!(inputs, g.shape(weight).last(), "linear: x is {} but the weight is {}", g.shape(x), g.shape(weight));
        let kernel = variant(g, "forward", inputs.is_multiple_of(4) && stride.is_multiple_of(4), [rows, outputs], Some(x));
        let kernel = kernel.with("FORMAT", g.info(weight).dtype.word());
        let kernel = match epilogue {
            Epilogue::Plain => kernel.with("EPILOGUE", "plain"),
            Epilogue::Activated(kind) => kernel.with("EPILOGUE", "act").with("ACTIVATION", kind.number()),
            Epilogue::Gated { activation, keep } => {
                kernel.with("EPILOGUE", "gated").with("ACTIVATION", activation.number()).with("KEEP", keep)
            }
            Epilogue::Rotated(rope) => rope.set(kernel.with("EPILOGUE", "rope"), g.shape(rope.table).last()),
        };
        let has_bias = layer.bias.is_some() as u32;
        let sliced: Vec<Tensor> = [x, y].into_iter().chain(pre).collect();
        for (start, rows) in row_slices(g, rows, kernel.constant("FORWARD_ROWS"), operations(1, inputs, outputs), &sliced) {
            let [x, y] = [x, y].map(|t| rows_of(g, t, start, rows));
            let pre = pre.map(|t| rows_of(g, t, start, rows));
            let p = Params { length, rotated, first_row: start, ..Params::new([rows, inputs, outputs], stride, column) };
            let p = Params { has_bias, ..p };
            let mut arguments: Vec<Argument> = vec![read(x), read(weight), read(layer.bias.unwrap_or(x))];
            arguments.extend(pre.map(write));
            if let Epilogue::Rotated(rope) = epilogue {
                arguments.push(read(rope.table));
            }
            arguments.push(write(y));
            let [across, down] = tiles(&kernel, ["FORWARD_ROWS", "FORWARD_COLUMNS"], rows, outputs);
            g.dispatch(kernel.clone(), p, arguments, [across, down, 1]);
            g.operations(operations(rows, inputs, outputs));
        }
    }
    (y, pre)
}

/// The gradient with respect to `pre`, what a layer's input was before its activation, from dy (rows, stride): dpre = (dy·W) · σ'(pre), or the
/// gradients of gate and up where `pre` (rows, 2·inputs) holds both. Only where [`pairs`] allows it.
pub fn pre_gradient(g: &mut Graph, dy: Tensor, pre: Tensor, layer: &Linear, activation: Activation) -> Tensor {
    let (rows, stride) = (g.shape(dy).rows(), g.shape(dy).last());
    let &[weight] = layer.weights.as_slice() else { panic!("the layer after an activation is one matrix") };
    let (inputs, outputs) = (g.shape(weight).last(), g.shape(weight).rows());
    let gated = g.shape(pre).last() == 2 * inputs;
    let kernel = variant(g, "input_gradient", true, [rows, inputs], None).with("FORMAT", g.info(weight).dtype.word());
    let kernel = kernel.with("EPILOGUE", "derivative").with("ACTIVATION", activation.number()).with("GATED", gated).with("VECTOR", 4);
    let whole = g.like("dpre", pre);
    let tensors = [dy, pre, whole];
    for (start, rows) in row_slices(g, rows, kernel.constant("INPUT_GRADIENT_ROWS"), operations(1, inputs, outputs), &tensors) {
        let [dy, pre, dpre] = tensors.map(|t| rows_of(g, t, start, rows));
        let p = Params::new([rows, inputs, outputs], stride, 0);
        let [across, down] = tiles(&kernel, ["INPUT_GRADIENT_ROWS", "INPUT_GRADIENT_COLUMNS"], rows, inputs);
        g.dispatch(kernel.clone(), p, [read(dy), read(weight), read(pre), write(dpre)], [across, down, 1]);
        g.operations(operations(rows, inputs, outputs));
    }
    whole
}

/// dx = dy·W + addend for dy (rows, stride), whose columns past W's outputs are zero; dx has the shape and format of x (rows, inputs).
pub fn input_gradient(g: &mut Graph, dy: Tensor, x: Tensor, layer: &Linear, addend: Option<Tensor>) -> Tensor {
    let (rows, stride) = (g.shape(dy).rows(), g.shape(dy).last());
    let mut sum = addend;
    for part in layer.parts(g) {
        let Part { weight, column, .. } = part;
        let (inputs, outputs) = (g.shape(weight).last(), g.shape(weight).rows());
        let aligned = inputs.is_multiple_of(4) && part.aligned(outputs, stride);
        let kernel = variant(g, "input_gradient", aligned, [rows, inputs], None);
        let kernel = kernel.with("FORMAT", g.info(weight).dtype.word()).with("EPILOGUE", "plain");
        let whole_dx = g.like("dx", x);
        let tensors = [dy, sum.unwrap_or(dy), whole_dx];
        let has_addend = sum.is_some() as u32;
        for (start, rows) in row_slices(g, rows, kernel.constant("INPUT_GRADIENT_ROWS"), operations(1, inputs, outputs), &tensors) {
            let [dy, addend, dx] = tensors.map(|t| rows_of(g, t, start, rows));
            let p = Params { has_addend, ..Params::new([rows, inputs, outputs], stride, column) };
            let [across, down] = tiles(&kernel, ["INPUT_GRADIENT_ROWS", "INPUT_GRADIENT_COLUMNS"], rows, inputs);
            g.dispatch(kernel.clone(), p, [read(dy), read(weight), read(addend), write(dx)], [across, down, 1]);
            g.operations(operations(rows, inputs, outputs));
        }
        sum = Some(whole_dx);
    }
    sum.expect("a layer has a weight")
}

/// The gradients of a layer's weights and bias, if they train, from dy (rows, stride) and x (rows, inputs).
pub fn layer_gradients(g: &mut Graph, dy: Tensor, x: Tensor, layer: &Linear) {
    for part in layer.parts(g) {
        if let Some(dw) = g.weight_gradient(part.weight) {
            weight_gradient(g, dy, &part, x, dw);
        }
    }
    if let Some(db) = layer.bias.and_then(|b| g.weight_gradient(b)) {
        column_sum(g, dy, db);
    }
}

/// dW += dyᵀ·x for some columns of dy (rows, stride) and x (rows, inputs), into a range of the gradient arena (outputs, inputs). If the
/// matrix has too few tiles to keep the device busy, the rows are split into chunks whose products are added in a second pass.
fn weight_gradient(g: &mut Graph, dy: Tensor, part: &Part, x: Tensor, dw: Tensor) {
    let (inputs, outputs) = (g.shape(dw).last(), g.shape(dw).rows());
    let (rows, stride) = (g.shape(dy).rows(), g.shape(dy).last());
    let aligned = inputs.is_multiple_of(4) && part.aligned(outputs, stride);
    let kernel =
        variant(g, "weight_gradient", aligned, [outputs, inputs], Some(x)).with("FORMAT", DType::F32.word()).with("EPILOGUE", "plain");
    let [across, down] = tiles(&kernel, ["WEIGHT_GRADIENT_ROWS", "WEIGHT_GRADIENT_COLUMNS"], outputs, inputs);
    let (chunk, chunks) = busy_chunks(g, rows, [across, down], dw);
    // Each slice of the matrix has its own partial products, with the same chunks as the whole matrix.
    for (start, outputs) in row_slices(g, outputs, kernel.constant("WEIGHT_GRADIENT_ROWS"), operations(rows, inputs, 1), &[dw]) {
        let dw = rows_of(g, dw, start, outputs);
        let p = Params { chunk, ..Params::new([rows, inputs, outputs], stride, part.column + start) };
        let [across, down] = tiles(&kernel, ["WEIGHT_GRADIENT_ROWS", "WEIGHT_GRADIENT_COLUMNS"], outputs, inputs);
        if chunks == 1 {
            g.dispatch(kernel.clone().with("ACCUMULATE", true), p, [read(dy), read(x), update(dw)], [across, down, 1]);
            g.operations(operations(rows, inputs, outputs));
        } else {
            let partials = g.single("partials", [chunks, outputs, inputs]);
            g.dispatch(kernel.clone(), p, [read(dy), read(x), write(partials)], [across, down, chunks]);
            g.operations(operations(rows, inputs, outputs));
            add_partials(g, partials, dw);
        }
    }
}
