//! The bottleneck adapter (Houlsby 2019), fused or written out.

use super::{Activation, Dropout, Linear, add, dispatch_in_parts, dropout, linear, linear_activated, multiply};
use crate::graph::{Argument, Graph, Kernel, Tensor, read, update, write};

crate::params!(Params {
    rows: u32,
    hidden: u32,
    bottleneck: u32,
    columns: u32,
    scaling: f32,
    threshold: u32,
    keep_scale: f32,
    site: u32,
    has_biases: u32,
    has_addend: u32,
    first: u32,
});

/// The weights and configuration of y = x + scaling · dropout(Up · σ(Down · x + b_down) + b_up).
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    /// Down (bottleneck, hidden).
    pub down: Tensor,
    /// Up (hidden, bottleneck).
    pub up: Tensor,
    /// b_down (bottleneck) and b_up (hidden).
    pub biases: Option<(Tensor, Tensor)>,
    /// σ.
    pub activation: Activation,
    /// The factor of the branch.
    pub scaling: f32,
    /// The share of the branch that dropout sets to zero.
    pub dropout: f32,
}

/// The adapter applied to x (…, hidden): one kernel forward, one backward for x, and the products for the weights. On a CPU device whose
/// lanes share values, the adapter is [`written_out`]: the products of `matmul` are faster there than the fused ones, which need workgroup
/// memory.
pub fn adapter(g: &mut Graph, x: Tensor, layer: &Adapter) -> Tensor {
    let unfused = g.traits().cpu_subgroup() > 0 || g.traits().avoids("adapter");
    if unfused { written_out(g, x, layer) } else { fused(g, x, layer) }
}

/// The adapter composed of smaller ops.
pub fn written_out(g: &mut Graph, x: Tensor, layer: &Adapter) -> Tensor {
    let &Adapter { down, up, biases, activation, .. } = layer;
    let narrow = linear_activated(g, x, &Linear::new(down, biases.map(|b| b.0)), activation);
    let branch = linear(g, narrow, &Linear::new(up, biases.map(|b| b.1)));
    let branch = dropout(g, branch, layer.dropout);
    let branch = if layer.scaling == 1.0 { branch } else { multiply(g, branch, layer.scaling) };
    add(g, x, branch)
}

/// The adapter as one kernel forward, one backward for x and one for all weights.
pub fn fused(g: &mut Graph, x: Tensor, layer: &Adapter) -> Tensor {
    let layer = *layer;
    let Adapter { down, up, biases, activation, scaling, .. } = layer;
    let (rows, hidden, bottleneck) = (g.shape(x).rows(), g.shape(x).last(), g.shape(down).rows());
    let fits = g.shape(down).last() == hidden && g.shape(up).rows() == hidden && g.shape(up).last() == bottleneck;
    assert!(fits, "adapter: x is {}, down {}, up {}", g.shape(x), g.shape(down), g.shape(up));

    let dropout = Dropout::new(g, layer.dropout);
    let aligned = hidden.is_multiple_of(4) && bottleneck.is_multiple_of(4);
    let common = move |file, entry| Kernel::new(file, entry).with("ALIGNED", aligned).with("DROPOUT", dropout.is_some());
    let tile = Tile::new(bottleneck);
    let kernel = move |entry| tile.set(common("adapter", entry)).with("ACTIVATION", activation.number()).with("VECTOR", 4);
    let (groups, columns) = tile.workgroups(rows, hidden);
    let p = Params {
        rows,
        hidden,
        bottleneck,
        columns,
        scaling,
        threshold: dropout.map_or(0, |d| d.threshold),
        keep_scale: dropout.map_or(1.0, |d| d.scale),
        site: dropout.map_or(0, |d| d.site),
        has_biases: biases.is_some() as u32,
        has_addend: 0,
        first: 0,
    };
    let narrow = g.shape(x).with_last(bottleneck);
    let y = g.like("adapter", x);
    let kept = g.training().then(|| ["z", "activated"].map(|name| g.activation(name, narrow.clone())));
    let (down_bias, up_bias) = biases.unwrap_or((down, up));
    let operations = [rows, hidden, bottleneck].map(u64::from).into_iter().fold(4, u64::saturating_mul);
    let mut arguments = vec![read(x), read(down), read(up), read(down_bias), read(up_bias), write(y)];
    arguments.extend(kept.into_iter().flatten().map(write));
    dispatch_in_parts(g, kernel("forward").with("KEEP", kept.is_some()), |first| Params { first, ..p }, &arguments, groups, operations);

    let Some([z, activated]) = kept else { return y };
    let mut inputs = vec![x, down, up];
    inputs.extend(biases.iter().flat_map(|&(a, b)| [a, b]));
    g.on_backward(y, &inputs, move |g, dy| {
        let dz = g.activation("dz", narrow);
        let record = |g: &mut Graph, before: Option<Tensor>, dx: Option<Tensor>| {
            let mut arguments: Vec<Argument> = vec![read(dy)];
            arguments.extend(dx.map(|_| read(down)));
            arguments.extend([read(up), read(z)]);
            arguments.extend(dx.map(|_| read(before.unwrap_or(dy))));
            arguments.push(write(dz));
            arguments.extend(dx.map(write));
            let (has_addend, with_input) = (before.is_some() as u32, dx.is_some());
            let operations = if with_input { operations } else { operations / 2 };
            let groups = if with_input { groups } else { [groups[0], 1, 1] };
            let kernel = kernel("backward").with("WITH_INPUT_GRADIENT", with_input);
            dispatch_in_parts(g, kernel, |first| Params { has_addend, first, ..p }, &arguments, groups, operations);
        };
        if g.needs_gradient(x) {
            g.contribute(x, |g, before| {
                let dx = g.like("dx", x);
                record(g, before, Some(dx));
                dx
            });
        } else {
            record(g, None, None);
        }
        let gradients = [down, up].map(|weight| g.weight_gradient(weight));
        let [Some(ddown), Some(dup)] = gradients else { return };
        let biases = biases.and_then(|(down, up)| Some([g.weight_gradient(down)?, g.weight_gradient(up)?]));
        let kernel = common("adapter_weights", "backward").with("BIASES", biases.is_some());
        let mut arguments = vec![read(x), read(activated), read(dy), read(dz)];
        arguments.extend(biases.into_iter().flatten().map(update));
        arguments.extend([update(ddown), update(dup)]);
        let tile = kernel.constant("TILE");
        let tiles = 2 * hidden.div_ceil(tile) * bottleneck.div_ceil(tile);
        dispatch_in_parts(g, kernel, |first| Params { first, ..p }, &arguments, [tiles, 1, 1], operations);
    });
    y
}

/// What one workgroup of the fused kernels computes.
#[derive(Clone, Copy)]
struct Tile {
    /// The bottleneck, rounded up.
    width: u32,
    /// Slices of 64 threads.
    slices: u32,
    /// Tokens per thread.
    own_tokens: u32,
}

impl Tile {
    /// The tile whose narrow product fits, with its operands, in the 16 KiB of workgroup memory that every device has.
    fn new(bottleneck: u32) -> Tile {
        let width = bottleneck.next_multiple_of(64);
        let (slices, own_tokens) = match width {
            64 => (4, 4),
            128 => (2, 4),
            129..=256 => (2, 2),
            257..=512 => (2, 1),
            _ => panic!("adapter: a bottleneck of {bottleneck} exceeds 512"),
        };
        Tile { width, slices, own_tokens }
    }

    fn set(&self, kernel: Kernel) -> Kernel {
        kernel.with("BOTTLENECK", self.width).with("SLICES", self.slices).with("OWN_TOKENS", self.own_tokens)
    }

    /// The workgroups for `rows` tokens, and the columns of the wide product that each computes. If the tokens make too few, up to four
    /// share the columns of the same tokens, and each computes the narrow product for itself.
    fn workgroups(&self, rows: u32, hidden: u32) -> ([u32; 3], u32) {
        const ENOUGH: u32 = 64;
        const SHARES: u32 = 4;
        let blocks = rows.div_ceil(4 * self.own_tokens);
        let strip = 64 * self.slices;
        let strips = hidden.div_ceil(strip);
        let shares = strips.min((ENOUGH / blocks).clamp(1, SHARES));
        let columns = strips.div_ceil(shares) * strip;
        ([blocks, hidden.div_ceil(columns), 1], columns)
    }
}
