//! The bottleneck adapter (Houlsby 2019), fused or written out.

use super::activation::activation_forward;
use super::{Activation, Dropout, Linear, add, dispatch_in_parts, dropout, linear, linear_activated, matmul, multiply};
use crate::graph::{Argument, Graph, Kernel, Tensor, read, write};

crate::params!(Params {
    rows: u32,
    hidden: u32,
    bottleneck: u32,
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
    if g.traits().cpu_subgroup() > 0 { written_out(g, x, layer) } else { fused(g, x, layer) }
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

/// The adapter as one kernel forward and one backward.
pub fn fused(g: &mut Graph, x: Tensor, layer: &Adapter) -> Tensor {
    let layer = *layer;
    let Adapter { down, up, biases, activation, scaling, .. } = layer;
    let (rows, hidden, bottleneck) = (g.shape(x).rows(), g.shape(x).last(), g.shape(down).rows());
    let fits = g.shape(down).last() == hidden && g.shape(up).rows() == hidden && g.shape(up).last() == bottleneck;
    assert!(fits, "adapter: x is {}, down {}, up {}", g.shape(x), g.shape(down), g.shape(up));

    let dropout = Dropout::new(g, layer.dropout);
    let form = Form::new(hidden, bottleneck);
    let groups = [rows.div_ceil(form.tokens()), 1, 1];
    let kernel = move |entry| form.kernel(entry).with("ACTIVATION", activation.number()).with("DROPOUT", dropout.is_some());
    let p = Params {
        rows,
        hidden,
        bottleneck,
        scaling,
        threshold: dropout.map_or(0, |d| d.threshold),
        keep_scale: dropout.map_or(1.0, |d| d.scale),
        site: dropout.map_or(0, |d| d.site),
        has_biases: biases.is_some() as u32,
        has_addend: 0,
        first: 0,
    };
    let narrow = g.shape(x).with_last(bottleneck);
    let (z, y) = (g.activation("z", narrow.clone()), g.like("adapter", x));
    let (down_bias, up_bias) = biases.unwrap_or((down, up));
    let operations = [rows, hidden, bottleneck].map(u64::from).into_iter().fold(4, u64::saturating_mul);
    let arguments = [read(x), read(down_bias), read(down), read(up), read(up_bias), write(z), write(y)];
    dispatch_in_parts(g, kernel("forward"), |first| Params { first, ..p }, &arguments, groups, operations);

    let mut inputs = vec![x, down, up];
    inputs.extend(biases.iter().flat_map(|&(a, b)| [a, b]));
    g.on_backward(y, &inputs, move |g, dy| {
        let dz = g.activation("dz", narrow);
        let weights_train = g.needs_gradient(up);
        let scaled = dropout.is_some() || scaling != 1.0;
        let outer = if scaled && weights_train { Some(g.like("outer", x)) } else { None };
        let record = |g: &mut Graph, before: Option<Tensor>, dx: Option<Tensor>| {
            let kernel = kernel("backward").with("WITH_INPUT_GRADIENT", dx.is_some()).with("WITH_OUTER_GRADIENT", outer.is_some());
            let mut arguments: Vec<Argument> = vec![read(dy), read(z)];
            if let Some(dx) = dx {
                arguments.extend([read(down), read(up), read(before.unwrap_or(dy)), write(dz), write(dx)]);
            } else {
                arguments.extend([read(up), write(dz)]);
            }
            arguments.extend(outer.map(write));
            let has_addend = before.is_some() as u32;
            let operations = if dx.is_some() { operations } else { operations / 2 };
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
        if weights_train {
            let outer = outer.unwrap_or(dy);
            let narrow = activation_forward(g, z, activation);
            for (dy, x, weight, bias) in [(dz, x, down, biases.map(|b| b.0)), (outer, narrow, up, biases.map(|b| b.1))] {
                matmul::layer_gradients(g, dy, x, &Linear::new(weight, bias));
            }
        }
    });
    y
}

/// How the kernel's work is laid out for one width.
#[derive(Clone, Copy)]
struct Form {
    bottleneck: u32,
    aligned: bool,
    lanes: u32,
    per: u32,
    groups: u32,
}

impl Form {
    fn new(hidden: u32, bottleneck: u32) -> Form {
        let aligned = hidden.is_multiple_of(4) && bottleneck.is_multiple_of(4);
        let rounded = bottleneck.next_multiple_of(4);
        // The number of tokens whose narrow products fit in the 16 KiB of workgroup memory that every device has.
        let fitting = 4096 / rounded;
        assert!(fitting >= 8, "adapter: a bottleneck of {bottleneck} exceeds 512");
        let groups = if fitting >= 32 { 8 } else { fitting / 4 };
        Form { bottleneck: rounded, aligned, lanes: 16, per: 4, groups }
    }

    fn tokens(&self) -> u32 {
        self.per * self.groups
    }

    fn kernel(&self, entry: &'static str) -> Kernel {
        Kernel::new("adapter", entry)
            .with("BOTTLENECK", self.bottleneck)
            .with("ALIGNED", self.aligned)
            .with("ACROSS", self.lanes)
            .with("OWN_TOKENS", self.per)
            .with("DOWN", self.groups)
    }
}
