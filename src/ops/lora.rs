//! LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"): a linear layer with trained low-rank updates.

use super::layer::{Linear, LowRank, LowRankGroup, MOST_TARGETS};
use super::product::product;
use super::reduce::{add_partials, busy_chunks};
use super::{dispatch_in_parts, dropout, sum, vector};
use crate::graph::{Graph, Kernel, Tensor, read, update, write};

crate::params!(Params {
    rows: u32,
    stride: u32,
    width: u32,
    offset: u32,
    rank: u32,
    outputs: u32,
    end_0: u32,
    end_1: u32,
    shift_0: u32,
    shift_1: u32,
    shift_2: u32,
    scaling_0: f32,
    scaling_1: f32,
    scaling_2: f32,
    chunk: u32,
    first: u32,
});

/// x·Wᵀ + b and, in the columns of each target, + s·(dropout(x)·Aᵀ)·Bᵀ: x (…, inputs) to (…, outputs).
///
/// One product with the stacked A serves all targets. Those with B have kernels of their own, since a product's output would be a separate
/// tensor with the targets' columns only.
pub fn lora(g: &mut Graph, x: Tensor, layer: &Linear, low_rank: &LowRank) -> Tensor {
    let before = product(g, x, layer);
    updated(g, x, before, low_rank)
}

/// The output of a layer with input x, `before` the update, and then with it.
pub(super) fn updated(g: &mut Graph, x: Tensor, before: Tensor, low_rank: &LowRank) -> Tensor {
    let dropped = dropout(g, x, low_rank.dropout);
    let a = Linear::new(low_rank.a, None);
    let z = g.scoped("lora", |g| product(g, dropped, &a));
    // The same memory under a second name: the update is in place, but its gradient is recorded before that of the layer.
    let y = g.view(before, "lora", 0, g.shape(before).clone());
    let mut offset = 0;
    let mut products = Vec::new();
    for group in &low_rank.groups {
        products.push(Product::new(g, y, z, offset, group));
        offset += g.shape(group.b).last() * group.targets.len() as u32;
    }
    assert_eq!(offset, g.shape(low_rank.a).rows(), "lora: the ranks of the targets do not add up to the rows of A");
    products.iter().for_each(|product| product.forward(g, y, z));

    let inputs: Vec<_> = [before, z].into_iter().chain(low_rank.groups.iter().map(|group| group.b)).collect();
    g.on_backward(y, &inputs, move |g, dy| {
        g.contribute(before, |g, addend| sum(g, addend, dy));
        products.iter().for_each(|product| product.weight_gradient(g, dy, z));
        g.contribute(z, |g, addend| {
            let dz = g.like("dz", z);
            products.iter().for_each(|product| product.input_gradient(g, dy, dz));
            sum(g, addend, dz)
        });
    });
    y
}

/// The products of a group with its B.
#[derive(Clone, Copy)]
struct Product {
    b: Tensor,
    p: Params,
    targets: u32,
    /// The outputs in fours, each target's rounded up.
    quads: u32,
    /// Whether four outputs are one vector of y.
    aligned: bool,
    /// How many elements of z the kernels take at once.
    vector: u32,
}

impl Product {
    fn new(g: &Graph, y: Tensor, z: Tensor, offset: u32, group: &LowRankGroup) -> Product {
        let LowRankGroup { b, targets } = group;
        let (outputs, rank) = (g.shape(*b).rows(), g.shape(*b).last());
        let (rows, stride, width) = (g.shape(y).rows(), g.shape(y).last(), g.shape(z).last());
        assert!((1..=MOST_TARGETS).contains(&targets.len()), "lora: a group of {} targets", targets.len());
        let mut ends = [outputs; MOST_TARGETS];
        let (mut shifts, mut scalings, mut start) = ([0; MOST_TARGETS], [0.0; MOST_TARGETS], 0);
        for (i, target) in targets.iter().enumerate() {
            let fits = target.column >= start && target.column + target.outputs <= stride;
            assert!(fits, "lora: {target:?} does not fit in a layer of {stride} outputs after {start} rows of B");
            (shifts[i], scalings[i]) = (target.column - start, target.scaling);
            start += target.outputs;
            ends[i] = start;
        }
        assert_eq!(start, outputs, "lora: the outputs of the targets do not add up to the rows of B");
        let vector = [width, offset, rank].into_iter().map(vector).min().expect("three extents");
        let [end_0, end_1, _] = ends;
        let ([shift_0, shift_1, shift_2], [scaling_0, scaling_1, scaling_2]) = (shifts, scalings);
        let (width, offset, rank) = (width / vector, offset / vector, rank / vector);
        let p = Params {
            rows,
            stride,
            width,
            offset,
            rank,
            outputs,
            end_0,
            end_1,
            shift_0,
            shift_1,
            shift_2,
            scaling_0,
            scaling_1,
            scaling_2,
            chunk: rows,
            first: 0,
        };
        let quads = targets.iter().map(|target| target.outputs.div_ceil(4)).sum();
        let aligned = stride.is_multiple_of(4) && targets.iter().all(|t| t.column.is_multiple_of(4) && t.outputs.is_multiple_of(4));
        Product { b: *b, p, targets: targets.len() as u32, quads, aligned, vector }
    }

    fn kernel(&self, entry: &'static str) -> Kernel {
        Kernel::new("lora", entry).with("VECTOR", self.vector).with("ALIGNED", self.aligned)
    }

    /// The operations of each product: a multiplication and an addition for each row, output and rank.
    fn operations(&self) -> u64 {
        [self.p.rows, self.p.outputs, self.p.rank, self.vector].map(u64::from).into_iter().fold(2, u64::saturating_mul)
    }

    /// y += s·z·Bᵀ.
    fn forward(&self, g: &mut Graph, y: Tensor, z: Tensor) {
        let kernel = self.kernel("forward");
        let groups = [self.quads.div_ceil(kernel.constant("WORKGROUP")), self.p.rows.div_ceil(kernel.constant("OWN_ROWS")), 1];
        let arguments = [read(z), read(self.b), update(y)];
        dispatch_in_parts(g, kernel, |first| Params { first, ..self.p }, &arguments, groups, self.operations());
    }

    /// dz = s·dy·B, in the columns of the group.
    fn input_gradient(&self, g: &mut Graph, dy: Tensor, dz: Tensor) {
        // A sum over few outputs is not worth sharing.
        let shared = if g.traits().cpu { 1 } else { 32 };
        let kernel = self.kernel("input_gradient").with("SHARED", shared);
        let blocks = u64::from(self.p.rows.div_ceil(kernel.constant("OWN_ROWS"))) * u64::from(self.p.rank * self.targets);
        let groups = [blocks.div_ceil(kernel.constant("GRADIENT_BLOCKS").into()) as u32, 1, 1];
        let arguments = [read(dy), read(self.b), write(dz)];
        dispatch_in_parts(g, kernel, |first| Params { first, ..self.p }, &arguments, groups, self.operations());
    }

    /// dB += s·dyᵀ·z, if B trains. If that keeps too few workgroups busy, the rows are split into chunks as in `matmul`.
    fn weight_gradient(&self, g: &mut Graph, dy: Tensor, z: Tensor) {
        let Some(db) = g.weight_gradient(self.b) else { return };
        let (rows, kernel) = (self.p.rows, self.kernel("weight_gradient"));
        let [across, down] = [self.quads.div_ceil(kernel.constant("WORKGROUP")), self.p.rank];
        let (chunk, chunks) = busy_chunks(g, rows, [across, down], db);
        let groups = [across, down, chunks];
        let params = |first| Params { chunk, first, ..self.p };
        if chunks == 1 {
            let arguments = [read(dy), read(z), update(db)];
            dispatch_in_parts(g, kernel.with("ACCUMULATE", true), params, &arguments, groups, self.operations());
        } else {
            let partials = g.single("partials", [chunks, self.p.outputs, g.shape(db).last()]);
            dispatch_in_parts(g, kernel, params, &[read(dy), read(z), write(partials)], groups, self.operations());
            add_partials(g, partials, db);
        }
    }
}
