//! The three products of a linear layer, y = x·Wᵀ, dx = dy·W and dW = dyᵀ·x, and the choice of their kernels.

use super::layer::{Linear, Part};
use super::reduce::{add_partials, column_sum};
use super::{Activation, parts_per_dispatch, row_threads};
use crate::graph::{Argument, DType, Graph, Kernel, MAX_ELEMENTS, Tensor, Traits, read, update, write};

crate::params!(Params { rows: u32, inputs: u32, outputs: u32, stride: u32, column: u32, chunk: u32, has_bias: u32, has_addend: u32 });

/// The kernel for a device and a product with `rows` rows and `columns` columns. Every choice is made here. The fast kernels load vectors
/// of four along the rows of both matrices, which must be `aligned`.
fn variant(traits: &Traits, entry: &'static str, aligned: bool, [rows, columns]: [u32; 2]) -> Kernel {
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

/// y = x·Wᵀ + bias for x (rows, inputs) and a layer's W (outputs, inputs), whose parts are stacked; y is (rows, stride) with
/// stride ≥ outputs. With an `activation`, the result is activated, and the second tensor holds the values before it.
pub fn forward(g: &mut Graph, x: Tensor, layer: &Linear, stride: u32, activation: Option<Activation>) -> (Tensor, Option<Tensor>) {
    let (inputs, rows) = (g.shape(x).last(), g.shape(x).rows());
    let shape = g.shape(x).with_last(stride);
    let y = g.activation("y", shape.clone());
    let pre = activation.map(|_| g.activation("pre", shape));
    for Part { weight, column, .. } in layer.parts(g) {
        let outputs = g.shape(weight).rows();
        assert_eq!(inputs, g.shape(weight).last(), "linear: x is {} but the weight is {}", g.shape(x), g.shape(weight));
        let kernel = variant(g.traits(), "forward", inputs.is_multiple_of(4) && stride.is_multiple_of(4), [rows, outputs]);
        let kernel = kernel.with("FORMAT", g.info(weight).dtype.word());
        let kernel = match activation {
            None => kernel.with("EPILOGUE", "plain"),
            Some(kind) => kernel.with("EPILOGUE", "act").with("ACTIVATION", kind.number()),
        };
        let has_bias = layer.bias.is_some() as u32;
        for (start, rows) in row_slices(g, rows, kernel.constant("FORWARD_ROWS"), operations(1, inputs, outputs), &[x, y]) {
            let [x, y] = [x, y].map(|t| rows_of(g, t, start, rows));
            let pre = pre.map(|t| rows_of(g, t, start, rows));
            let p = Params { rows, inputs, outputs, stride, column, chunk: rows, has_bias, has_addend: 0 };
            let mut arguments: Vec<Argument> = vec![read(x), read(weight), read(layer.bias.unwrap_or(x))];
            arguments.extend(pre.map(write));
            arguments.push(write(y));
            let [across, down] = tiles(&kernel, ["FORWARD_ROWS", "FORWARD_COLUMNS"], rows, outputs);
            g.dispatch(kernel.clone(), p, arguments, [across, down, 1]);
            g.operations(operations(rows, inputs, outputs));
        }
    }
    (y, pre)
}

/// dx = dy·W + addend for dy (rows, stride), whose columns past W's outputs are zero; dx has the shape and format of x (rows, inputs).
pub fn input_gradient(g: &mut Graph, dy: Tensor, x: Tensor, layer: &Linear, addend: Option<Tensor>) -> Tensor {
    let (rows, stride) = (g.shape(dy).rows(), g.shape(dy).last());
    let mut sum = addend;
    for part in layer.parts(g) {
        let Part { weight, column, .. } = part;
        let (inputs, outputs) = (g.shape(weight).last(), g.shape(weight).rows());
        let aligned = inputs.is_multiple_of(4) && part.aligned(outputs, stride);
        let kernel = variant(g.traits(), "input_gradient", aligned, [rows, inputs]);
        let kernel = kernel.with("FORMAT", g.info(weight).dtype.word()).with("EPILOGUE", "plain");
        let whole_dx = g.like("dx", x);
        let tensors = [dy, sum.unwrap_or(dy), whole_dx];
        let has_addend = sum.is_some() as u32;
        for (start, rows) in row_slices(g, rows, kernel.constant("INPUT_GRADIENT_ROWS"), operations(1, inputs, outputs), &tensors) {
            let [dy, addend, dx] = tensors.map(|t| rows_of(g, t, start, rows));
            let p = Params { rows, inputs, outputs, stride, column, chunk: rows, has_bias: 0, has_addend };
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
        variant(g.traits(), "weight_gradient", aligned, [outputs, inputs]).with("FORMAT", DType::F32.word()).with("EPILOGUE", "plain");
    let [across, down] = tiles(&kernel, ["WEIGHT_GRADIENT_ROWS", "WEIGHT_GRADIENT_COLUMNS"], outputs, inputs);
    let busy: u64 = if g.traits().cpu { 8 } else { 256 };
    let fitting = g.traits().max_binding.min(4 * MAX_ELEMENTS) / (4 * g.shape(dw).len());
    let chunks = busy.div_ceil(u64::from(across) * u64::from(down)).min(rows.div_ceil(64).into()).min(fitting).max(1) as u32;
    let chunk = rows.div_ceil(chunks);
    let chunks = rows.div_ceil(chunk);
    // Each slice of the matrix has its own partial products, with the same chunks as the whole matrix.
    for (start, outputs) in row_slices(g, outputs, kernel.constant("WEIGHT_GRADIENT_ROWS"), operations(rows, inputs, 1), &[dw]) {
        let dw = rows_of(g, dw, start, outputs);
        let p = Params { rows, inputs, outputs, stride, column: part.column + start, chunk, has_bias: 0, has_addend: 0 };
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
