//! The end of a step: the gradient's norm, and Adam over the whole arena.

use super::flat;
use crate::graph::{Graph, Kernel, MAX_ELEMENTS, Role, Tensor, read, update, write};

crate::params!(Params {
    len: u32,
    chunks: u32,
    max_norm: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    log_beta1: f32,
    log_beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    decoupled: u32,
    first_chunk: u32,
    growth_interval: u32,
});

/// Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019) where `decoupled`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// How much of the mean gradient is kept at each step.
    pub beta1: f64,
    /// How much of the mean squared gradient is kept at each step.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Adam: this times the weight is added to the gradient. AdamW: this times the learning rate is the share of the weight that is
    /// subtracted from it.
    pub weight_decay: f64,
    /// Whether this is AdamW.
    pub decoupled: bool,
    /// The norm that the gradient of all weights together is clipped to.
    pub clip_norm: Option<f64>,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decoupled: false, clip_norm: None }
    }
}

crate::params!(Pull { len: u32, size: u32, factor: f32 });

/// Adds the gradient of factor / 2 · ‖I - W‖² to that of a trainable square matrix W, before [`adam`].
pub fn pull_to_identity(g: &mut Graph, w: Tensor, factor: f32) {
    let (size, len, metrics) = (g.shape(w).last(), g.shape(w).len(), g.arenas().metrics);
    assert_eq!(g.shape(w).rows(), size, "pull_to_identity: W is {}", g.shape(w));
    let Some(gradient) = g.weight_gradient(w) else { return };
    let p = Pull { len: len as u32, size, factor };
    g.dispatch(Kernel::new("identity", "pull"), p, [read(w), read(metrics), update(gradient)], flat(len));
}

/// Records the norm, the clipping and the update. A step whose gradient or loss is not finite changes no weight and is counted.
///
/// If the loss scale is dynamic, a step whose gradient overflows halves it, down to 1, and `growth_interval` steps in a row without an
/// overflow double it.
pub fn adam(g: &mut Graph, config: &Adam, growth_interval: Option<u32>) {
    let arenas = g.arenas();
    let len = g.parameters().arena_len();
    let mut p = Params {
        len: 0,
        chunks: 0,
        max_norm: config.clip_norm.unwrap_or(0.0) as f32,
        beta1: config.beta1 as f32,
        beta2: config.beta2 as f32,
        one_minus_beta1: (1.0 - config.beta1) as f32,
        one_minus_beta2: (1.0 - config.beta2) as f32,
        log_beta1: config.beta1.ln() as f32,
        log_beta2: config.beta2.ln() as f32,
        epsilon: config.epsilon as f32,
        weight_decay: config.weight_decay as f32,
        decoupled: config.decoupled as u32,
        first_chunk: 0,
        growth_interval: growth_interval.unwrap_or(0),
    };
    // A large arena does not fit in one binding, so each kernel goes over it in ranges.
    let chunk = u64::from(Kernel::new("optimizer", "sum_squares").constant("CHUNK"));
    let most = ((g.traits().max_binding / 4).min(MAX_ELEMENTS) / chunk * chunk).max(chunk);
    let ranges: Vec<_> = (0..len.div_ceil(most)).map(|i| (i * most, most.min(len - i * most))).collect();
    let view = |g: &mut Graph, of: Tensor, (offset, len): (u64, u64)| {
        debug_assert_eq!(g.info(of).role, Role::Shared);
        g.view(of, "range", offset, [len as usize].as_slice())
    };

    let chunks = len.div_ceil(chunk) as u32;
    let squares = g.single("squares", [chunks.max(1)]);
    for &range in &ranges {
        let gradients = view(g, arenas.gradients, range);
        let p = Params { len: (range.1 / 4) as u32, first_chunk: (range.0 / chunk) as u32, ..p };
        let groups = range.1.div_ceil(chunk) as u32;
        g.dispatch(Kernel::new("optimizer", "sum_squares"), p, [read(gradients), write(squares)], [groups, 1, 1]);
    }
    p.chunks = chunks;
    g.dispatch(Kernel::new("optimizer", "finish_norm"), p, [read(squares), update(arenas.metrics)], [1, 1, 1]);
    for &range in &ranges {
        let [gradients, m, v, values] =
            [arenas.gradients, arenas.first_moment, arenas.second_moment, arenas.values].map(|arena| view(g, arena, range));
        let p = Params { len: (range.1 / 4) as u32, ..p };
        let arguments = [read(gradients), read(arenas.metrics), update(m), update(v), update(values)];
        g.dispatch(Kernel::new("optimizer", "adam"), p, arguments, flat(range.1 / 4));
    }
}
