//! The three products of a linear layer, and which kernel computes them: y = x·Wᵀ, dx = dy·W, dW = dyᵀ·x.

use super::layer::{Linear, Part};
use super::reduce::{add_partials, column_sum};
use super::{Activation, row_lanes};
use crate::graph::{Argument, DType, Graph, Kernel, MAX_ELEMENTS, Tensor, Traits, read, update, write};

crate::params!(Params { rows: u32, inputs: u32, outputs: u32, stride: u32, column: u32, chunk: u32, has_bias: u32, has_addend: u32 });

/// The variant for a device and a product with `rows` rows and `columns` columns: the one table. The fast kernels load vectors of four
/// along both matrices' rows, which must be `aligned`.
fn variant(traits: &Traits, entry: &'static str, aligned: bool, [rows, columns]: [u32; 2]) -> Kernel {
    match (aligned, traits.cpu, traits.lanes()) {
        (true, true, lanes) if lanes > 0 => {
            // Rows past the end of the product are computed in vain, so a low product gets low tiles.
            let tile = [8, 16].into_iter().find(|&t| rows <= t && t % lanes == 0).unwrap_or(32);
            Kernel::new("matmul_cpu", entry).with("SUBGROUP", lanes).with("ROWS", tile)
        }
        (true, ..) if rows == 1 && entry == "forward" => Kernel::new("matmul_row", entry).with("LANES", row_lanes(traits)),
        (true, false, _) => {
            // Tiles of 128² do more with each load, but only as long as there are enough of them for all of the device.
            let large = u64::from(rows) * u64::from(columns) >= 128 * 128 * 256;
            Kernel::new("matmul_gpu", entry).with("GROUPS", 1 + large as u32)
        }
        _ => Kernel::new("matmul_any", entry),
    }
}

fn tiles(kernel: &Kernel, name: [&str; 2], rows: u32, columns: u32) -> [u32; 2] {
    [columns.div_ceil(kernel.constant(name[1])), rows.div_ceil(kernel.constant(name[0]))]
}

/// A multiplication and an addition for each element of each row of each product.
fn operations(rows: u32, inputs: u32, outputs: u32) -> u64 {
    [rows, inputs, outputs].map(u64::from).into_iter().fold(2, u64::saturating_mul)
}

/// y = x·Wᵀ + bias for x (rows, inputs) and the W of a layer (outputs, inputs), whose parts stand one below the other; y (rows, stride)
/// with stride ≥ outputs. With `activation` the result is activated, and the second tensor is the value before.
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
        let p = Params { rows, inputs, outputs, stride, column, chunk: rows, has_bias, has_addend: 0 };
        let mut arguments: Vec<Argument> = vec![read(x), read(weight), read(layer.bias.unwrap_or(x))];
        arguments.extend(pre.map(write));
        arguments.push(write(y));
        let [across, down] = tiles(&kernel, ["FORWARD_ROWS", "FORWARD_COLUMNS"], rows, outputs);
        g.dispatch(kernel, p, arguments, [across, down, 1]);
        g.operations(operations(rows, inputs, outputs));
    }
    (y, pre)
}

/// dx = dy·W + addend for dy (rows, stride), of which the columns past W's outputs are zero; dx is like x (rows, inputs).
pub fn input_gradient(g: &mut Graph, dy: Tensor, x: Tensor, layer: &Linear, addend: Option<Tensor>) -> Tensor {
    let (rows, stride) = (g.shape(dy).rows(), g.shape(dy).last());
    let mut sum = addend;
    for part in layer.parts(g) {
        let Part { weight, column, .. } = part;
        let (inputs, outputs) = (g.shape(weight).last(), g.shape(weight).rows());
        let aligned = inputs.is_multiple_of(4) && part.aligned(outputs, stride);
        let kernel = variant(g.traits(), "input_gradient", aligned, [rows, inputs]);
        let kernel = kernel.with("FORMAT", g.info(weight).dtype.word()).with("EPILOGUE", "plain");
        let dx = g.like("dx", x);
        let p = Params { rows, inputs, outputs, stride, column, chunk: rows, has_bias: 0, has_addend: sum.is_some() as u32 };
        let [across, down] = tiles(&kernel, ["INPUT_GRADIENT_ROWS", "INPUT_GRADIENT_COLUMNS"], rows, inputs);
        g.dispatch(kernel, p, [read(dy), read(weight), read(sum.unwrap_or(dy)), write(dx)], [across, down, 1]);
        g.operations(operations(rows, inputs, outputs));
        sum = Some(dx);
    }
    sum.expect("a layer has a weight")
}

/// The gradients of a layer's weights and bias, where they train, from dy (rows, stride) and x (rows, inputs).
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

/// dW += dyᵀ·x for some columns of dy (rows, stride) and x (rows, inputs), into a range of the gradient arena (outputs, inputs). Where
/// the matrix has too few tiles to keep the device busy, the rows are split into chunks whose products are added in a second pass.
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
    let p = Params { rows, inputs, outputs, stride, column: part.column, chunk, has_bias: 0, has_addend: 0 };
    if chunks == 1 {
        g.dispatch(kernel.with("ACCUMULATE", true), p, [read(dy), read(x), update(dw)], [across, down, 1]);
        g.operations(operations(rows, inputs, outputs));
    } else {
        let partials = g.single("partials", [chunks, outputs, inputs]);
        g.dispatch(kernel, p, [read(dy), read(x), write(partials)], [across, down, chunks]);
        g.operations(operations(rows, inputs, outputs));
        add_partials(g, partials, dw);
    }
}
