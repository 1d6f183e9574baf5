//! Where an adapter is inserted in a block, and what it computes. The formulas are those of the `adapters` library (`Adapter` and
//! `ParallelAdapter` in its `methods/modeling.py`), for blocks with a norm after the residual sum (post-norm) or without (pre-norm).

use std::collections::HashMap;

use super::setup::Declaring;
use super::{BottleneckConfig, Scaling, name_in_memory};
use crate::graph::{Graph, Piece, Tensor};
use crate::ops::{self, Adapter, Linear, Norm};

/// The weights of one adapter.
pub(in crate::model) struct Graft {
    config: BottleneckConfig,
    norm_before: Option<Norm>,
    down: (Tensor, Tensor),
    up: (Tensor, Tensor),
    scaling: Option<Tensor>,
    norm_after: Option<Norm>,
}

/// The residual stream after a sublayer: one tensor, or two whose sum is fused into the next norm.
#[derive(Clone, Copy)]
pub(in crate::model) struct Stream {
    x: Tensor,
    more: Option<Tensor>,
}

impl Stream {
    pub fn new(x: Tensor) -> Stream {
        Stream { x, more: None }
    }

    /// Returns the sum.
    pub fn sum(self, g: &mut Graph) -> Tensor {
        self.more.map_or(self.x, |more| ops::add(g, self.x, more))
    }

    /// Returns the sum and its norm.
    pub fn normed(self, g: &mut Graph, norm: &Norm) -> (Tensor, Tensor) {
        match self.more {
            Some(more) => ops::residual_norm(g, self.x, more, norm),
            None => (self.x, ops::norm(g, self.x, norm)),
        }
    }
}

/// LayerNorm's epsilon in the library's own norms: PyTorch's default.
const EPSILON: f32 = 1e-5;

impl Graft {
    /// Adds the weights of the adapter at `place` in the layer called `at`, number `layer`.
    ///
    /// # Panics
    /// If the configuration has not been checked for the model.
    pub(super) fn new(p: &mut Declaring, config: &BottleneckConfig, (at, layer): (&str, u32), place: &str, hidden: u32) -> Graft {
        let ends = config.parameters(layer, hidden).expect("a checked configuration has a width in every layer");
        let mut add = |(end, shape)| (end, p.add(vec![Piece { name: name_in_memory(at, place, end), shape }]));
        let added: HashMap<_, _> = ends.into_iter().map(&mut add).collect();
        let norm = |weight, bias| Norm { weight: added[weight], bias: Some(added[bias]), epsilon: EPSILON };
        let norm_before = config.ln_before.then(|| norm("adapter_down.0.weight", "adapter_down.0.bias"));
        let down = if config.ln_before {
            (added["adapter_down.1.weight"], added["adapter_down.1.bias"])
        } else {
            (added["adapter_down.0.weight"], added["adapter_down.0.bias"])
        };
        let up = (added["adapter_up.weight"], added["adapter_up.bias"]);
        let norm_after = config.ln_after.then(|| norm("adapter_norm_after.weight", "adapter_norm_after.bias"));
        Graft { config: config.clone(), norm_before, down, up, scaling: added.get("scaling").copied(), norm_after }
    }

    /// Applies the adapter to a sublayer's output `f`, or that of the adapter below, and the residual stream `h`. `norm` is the norm after a
    /// post-norm block's sum.
    fn apply(&self, g: &mut Graph, f: Tensor, h: Tensor, norm: Option<&Norm>) -> Tensor {
        let c = &self.config;
        let x = match (c.parallel, c.original_ln_before, norm) {
            (true, ..) => h,
            (false, true, Some(norm)) => ops::add_norm(g, f, h, norm),
            (false, true, None) => ops::add(g, f, h),
            (false, false, _) => f,
        };
        let around = if c.parallel || c.residual_before_ln { f } else { x };
        self.around(g, x, around)
    }

    /// The branch of `x` with the residual `around` it.
    fn around(&self, g: &mut Graph, x: Tensor, around: Tensor) -> Tensor {
        match self.fused() {
            Some(adapter) if around == x => ops::adapter(g, x, &adapter),
            _ => {
                let branch = self.branch(g, x);
                match &self.norm_after {
                    Some(norm) if self.norms_residual() => ops::add_norm(g, branch, around, norm),
                    Some(norm) => {
                        let branch = ops::norm(g, branch, norm);
                        ops::add(g, branch, around)
                    }
                    None => ops::add(g, branch, around),
                }
            }
        }
    }

    /// Whether the adapter's own norm has the residual in it.
    fn norms_residual(&self) -> bool {
        self.config.adapter_residual_before_ln && self.config.ln_after && !self.config.parallel
    }

    /// Whether the adapter's input, f + h, is also what its residual and the later addition of h together make. So it is if there is no norm.
    fn keeps_sum(&self) -> bool {
        let c = &self.config;
        !c.parallel && c.original_ln_before && c.residual_before_ln && c.original_ln_after && !self.norms_residual()
    }

    /// The adapter as the fused op, if the op supports the configuration.
    fn fused(&self) -> Option<Adapter> {
        let c = &self.config;
        let Scaling::Fixed(scaling) = c.scaling else { return None };
        let plain = !c.ln_before && !c.ln_after && (c.stochastic_depth == 0.0 || c.parallel);
        let biases = Some((self.down.1, self.up.1));
        let (down, up) = (self.down.0, self.up.0);
        plain.then_some(Adapter { down, up, biases, activation: c.activation, scaling, dropout: c.dropout })
    }

    /// [LN] → down → activation → up → stochastic depth → scaling → dropout.
    fn branch(&self, g: &mut Graph, x: Tensor) -> Tensor {
        let c = &self.config;
        let x = self.norm_before.as_ref().map_or(x, |norm| ops::norm(g, x, norm));
        let narrow = ops::linear_activated(g, x, &Linear::new(self.down.0, Some(self.down.1)), c.activation);
        let mut y = ops::linear(g, narrow, &Linear::new(self.up.0, Some(self.up.1)));
        if !c.parallel {
            y = ops::stochastic_depth(g, y, c.stochastic_depth);
        }
        y = match (c.scaling, self.scaling) {
            (_, Some(factor)) => ops::scale(g, y, factor),
            (Scaling::Fixed(factor), _) if factor != 1.0 => ops::multiply(g, y, factor),
            _ => y,
        };
        ops::dropout(g, y, c.dropout)
    }
}

/// Applies adapters to a sublayer's output `f` and the residual stream `h`: the `last` one, and those `below`. Returns the result and what
/// remains to be added to it. Each adapter computes its input from what the one below returns, and h, as if that were the sublayer's output;
/// what comes after an adapter comes once, after the last. A parallel adapter adds its branch to what the one below returns.
fn apply(g: &mut Graph, f: Tensor, h: Tensor, (last, below): (&Graft, &[Graft]), norm: Option<&Norm>) -> (Tensor, Option<Tensor>) {
    if norm.is_none() && below.iter().chain([last]).all(Graft::keeps_sum) {
        let x = ops::add(g, f, h);
        return (below.iter().chain([last]).fold(x, |x, graft| graft.around(g, x, x)), None);
    }
    let y = below.iter().fold(f, |y, graft| graft.apply(g, y, h, norm));
    if last.config.parallel {
        return (last.around(g, h, h), Some(y));
    }
    (last.apply(g, y, h, norm), last.config.original_ln_after.then_some(h))
}

/// The residual stream after a sublayer with output `f` and residual stream `h`, with the adapters of the place, the lowest first. `norm` is the
/// norm after a post-norm block's sum. `scopes` are those of the adapters and the norm.
pub(in crate::model) fn join(g: &mut Graph, scopes: [&str; 2], f: Tensor, h: Tensor, grafts: &[Graft], norm: Option<&Norm>) -> Stream {
    let (y, rest) = match grafts.split_last() {
        Some(grafts) => g.scoped(scopes[0], |g| apply(g, f, h, grafts, norm)),
        None => (f, Some(h)),
    };
    match (norm, rest) {
        (Some(norm), Some(rest)) => Stream::new(g.scoped(scopes[1], |g| ops::add_norm(g, rest, y, norm))),
        (_, more) => Stream { x: y, more },
    }
}
