//! Where an adapter is inserted in a block, and what it computes. The formulas are those of the `adapters` library (`Adapter` and
//! `ParallelAdapter` in its `methods/modeling.py`), for blocks with a norm after the residual sum (post-norm) or without (pre-norm).

use std::collections::HashMap;

use super::{BottleneckConfig, Scaling, name_in_memory};
use crate::graph::{DType, Graph, Parameters, Tensor};
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
    pub fn new(p: &mut Parameters, config: &BottleneckConfig, (at, layer): (&str, u32), place: &str, hidden: u32) -> Graft {
        let ends = config.parameters(layer, hidden).expect("a checked configuration has a width in every layer");
        let added: HashMap<_, _> =
            ends.into_iter().map(|(end, shape)| (end, p.add(name_in_memory(at, place, end), shape, DType::F32, true))).collect();
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

    /// Applies the adapter to a sublayer's output `f` and its residual stream `h`. Returns the result and what remains to be added to it.
    /// `norm` is the norm after a post-norm block's sum.
    fn join(&self, g: &mut Graph, f: Tensor, h: Tensor, norm: Option<&Norm>) -> (Tensor, Option<Tensor>) {
        let c = &self.config;
        let x = match (c.parallel, c.original_ln_before, norm) {
            (true, ..) => h,
            (false, true, Some(norm)) => ops::add_norm(g, f, h, norm),
            (false, true, None) => ops::add(g, f, h),
            (false, false, _) => f,
        };
        let inside = c.adapter_residual_before_ln && c.ln_after && !c.parallel;
        let after = c.original_ln_after.then_some(h);
        // The residual around the adapter, and what is added after it.
        let (around, rest) = match c {
            _ if c.parallel => (h, Some(f)),
            // The residual f and the later addition of h together make x.
            _ if c.original_ln_before && c.residual_before_ln && after.is_some() && norm.is_none() && !inside => (x, None),
            _ if c.residual_before_ln => (f, after),
            _ => (x, after),
        };
        let y = match self.fused() {
            Some(adapter) if around == x => ops::adapter(g, x, &adapter),
            _ => {
                let branch = self.branch(g, x);
                match &self.norm_after {
                    Some(norm) if inside => ops::add_norm(g, branch, around, norm),
                    Some(norm) => {
                        let branch = ops::norm(g, branch, norm);
                        ops::add(g, branch, around)
                    }
                    None => ops::add(g, branch, around),
                }
            }
        };
        (y, rest)
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

/// The residual stream after a sublayer with output `f` and residual stream `h`, with or without an adapter. `norm` is the norm after a
/// post-norm block's sum. `scopes` are those of the adapter and the norm.
pub(in crate::model) fn join(g: &mut Graph, scopes: [&str; 2], f: Tensor, h: Tensor, graft: &Option<Graft>, norm: Option<&Norm>) -> Stream {
    let (y, rest) = match graft {
        Some(graft) => g.scoped(scopes[0], |g| graft.join(g, f, h, norm)),
        None => (f, Some(h)),
    };
    match (norm, rest) {
        (Some(norm), Some(rest)) => Stream::new(g.scoped(scopes[1], |g| ops::add_norm(g, rest, y, norm))),
        (_, more) => Stream { x: y, more },
    }
}
