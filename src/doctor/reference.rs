//! The ops in f64, written for readability: the results that the kernels must match.

use super::STEP;
use crate::ops::optimizer::Adam;
use crate::ops::{Activation, Attention, Half, Pointwise, Pooling, RopePairs};
use crate::text::IGNORED;

/// y = x·Wᵀ + b: x (rows, inputs), w (outputs, inputs).
pub fn linear(x: &[f64], w: &[f64], b: Option<&[f64]>, inputs: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len() / inputs * w.len() / inputs);
    for row in x.chunks(inputs) {
        for (o, weights) in w.chunks(inputs).enumerate() {
            let sum: f64 = row.iter().zip(weights).map(|(a, b)| a * b).sum();
            y.push(sum + b.map_or(0.0, |b| b[o]));
        }
    }
    y
}

/// The gradient of x for y = x·Wᵀ, given that of y: dy (rows, outputs), w (outputs, inputs).
pub fn input_gradient(w: &[f64], dy: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    let mut dx = vec![0.0; dy.len() / outputs * inputs];
    for (dx, dy) in dx.chunks_mut(inputs).zip(dy.chunks(outputs)) {
        for (w, dy) in w.chunks(inputs).zip(dy) {
            dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += dy * w);
        }
    }
    dx
}

/// The gradient of w for y = x·Wᵀ, given that of y: dy (rows, outputs), x (rows, inputs).
pub fn weight_gradient(x: &[f64], dy: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = dy.len() / (x.len() / inputs);
    let mut dw = vec![0.0; outputs * inputs];
    for (x, dy) in x.chunks(inputs).zip(dy.chunks(outputs)) {
        for (dw, dy) in dw.chunks_mut(inputs).zip(dy) {
            dw.iter_mut().zip(x).for_each(|(dw, x)| *dw += dy * x);
        }
    }
    dw
}

fn erf(x: f64) -> f64 {
    // Abramowitz and Stegun 7.1.5 near zero, the continued fraction 7.1.14 of erfc elsewhere.
    if x.abs() < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let a = x.abs();
    let mut f = 0.0;
    for n in (1..=80).rev() {
        f = n as f64 / 2.0 / (a + f);
    }
    x.signum() * (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + f))
}

/// The activation functions.
pub fn activation(kind: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        Activation::Relu => x.max(0.0),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluNew | Activation::GeluFast => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
        Activation::LeakyRelu => {
            if x > 0.0 {
                x
            } else {
                0.01 * x
            }
        }
        Activation::Mish => x * x.exp().ln_1p().tanh(),
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Linear => x,
    }
}

/// activate(gate) · up, where each row is a gate followed by an up-projection, each `inner` wide.
pub fn gated(x: &[f64], inner: usize, kind: Activation) -> Vec<f64> {
    let rows = x.chunks(2 * inner).map(|row| row.split_at(inner));
    rows.flat_map(|(gate, up)| gate.iter().zip(up).map(|(&g, u)| activation(kind, g) * u)).collect()
}

/// The mean of the rows of `outputs`, weighted for each row by the softmax of their products with the row of `query`.
pub fn fusion(query: &[f64], outputs: &[Vec<f64>], hidden: usize) -> Vec<f64> {
    let mix = |(row, query): (usize, &[f64])| {
        let own: Vec<_> = outputs.iter().map(|output| &output[row * hidden..][..hidden]).collect();
        let scores: Vec<f64> = own.iter().map(|output| output.iter().zip(query).map(|(a, b)| a * b).sum()).collect();
        let largest = scores.iter().fold(f64::NEG_INFINITY, |most, &score| most.max(score));
        let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        let weights: Vec<_> = scores.iter().map(|score| (score - largest).exp() / total).collect();
        (0..hidden).map(|c| own.iter().zip(&weights).map(|(output, weight)| weight * output[c]).sum()).collect::<Vec<f64>>()
    };
    query.chunks(hidden).enumerate().flat_map(mix).collect()
}

/// x (rows, 2·width) with sign · the second of two halves of each row added to the first of them.
pub fn add_halves(x: &[f64], width: usize, halves: [Half; 2], sign: f64) -> Vec<f64> {
    let mut y = x.to_vec();
    let [to, from] = halves.map(|half| if half == Half::First { 0 } else { width });
    for (row, before) in y.chunks_mut(2 * width).zip(x.chunks(2 * width)) {
        (0..width).for_each(|i| row[to + i] += sign * before[from + i]);
    }
    y
}

/// A feed-forward layer on x (rows, hidden): `v` has x, W of the input and of the output layer, and perhaps both biases. With a gate, the input
/// layer's outputs are the gate, then up.
pub fn feed_forward(v: &[Vec<f64>], hidden: usize, kind: Activation, has_gate: bool) -> Vec<f64> {
    let pre = linear(&v[0], &v[1], v.get(3).map(Vec::as_slice), hidden);
    let width = v[1].len() / hidden;
    let (inner, activated) = match has_gate {
        true => (width / 2, gated(&pre, width / 2, kind)),
        false => (width, pre.iter().map(|&x| activation(kind, x)).collect()),
    };
    linear(&activated, &v[2], v.get(4).map(Vec::as_slice), inner)
}

/// The factor by which dropout with rate `p` multiplies an element at [`STEP`], from the generator of `shaders/shared/random.wgsl`.
pub fn dropout_factor(row: u32, column: u32, site: u32, p: f64) -> f64 {
    let mut v = [column, row, site ^ STEP.counter.wrapping_mul(0x9E37_79B9), STEP.seed];
    let mix = |v: &mut [u32; 4]| {
        v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[3]));
        v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
        v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
        v[3] = v[3].wrapping_add(v[1].wrapping_mul(v[2]));
    };
    v.iter_mut().for_each(|x| *x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    mix(&mut v);
    v.iter_mut().for_each(|x| *x ^= *x >> 16);
    mix(&mut v);
    let p32 = f64::from(p as f32);
    if f64::from(v[0]) >= (p32 * 4294967296.0).floor() { f64::from(1.0 / (1.0 - p as f32)) } else { 0.0 }
}

/// The dropout factor, or 1 without dropout.
fn keep(row: usize, column: usize, site: u32, p: f32) -> f64 {
    if p == 0.0 { 1.0 } else { dropout_factor(row as u32, column as u32, site, f64::from(p)) }
}

/// x + scaling · dropout(Up · σ(Down · x + b_down) + b_up), for x, down, up and optionally the two biases. Its dropout is the first of the
/// recording.
pub fn adapter(v: &[Vec<f64>], hidden: usize, kind: Activation, scaling: f32, dropout: f32) -> Vec<f64> {
    let z = linear(&v[0], &v[1], v.get(3).map(Vec::as_slice), hidden);
    let a: Vec<f64> = z.iter().map(|&z| activation(kind, z)).collect();
    let branch = linear(&a, &v[2], v.get(4).map(Vec::as_slice), v[1].len() / hidden);
    let sum = |(i, (x, b)): (usize, (&f64, &f64))| x + f64::from(scaling) * keep(i / hidden, i % hidden, 1, dropout) * b;
    v[0].iter().zip(&branch).enumerate().map(sum).collect()
}

/// x·Wᵀ plus s·dropout(x)·Aᵀ·Bᵀ in the columns of each target, for x, W, the stacked A, and the B of each group. `targets` are the first
/// column, the rank and s of each, by group. Its dropout is the first of the recording.
pub fn lora(v: &[Vec<f64>], inputs: usize, targets: &[&[(usize, usize, usize, f32)]], dropout: f32) -> Vec<f64> {
    let mut y = linear(&v[0], &v[1], None, inputs);
    let (outputs, ranks) = (v[1].len() / inputs, v[2].len() / inputs);
    let dropped: Vec<_> = v[0].iter().enumerate().map(|(i, x)| x * keep(i / inputs, i % inputs, 1, dropout)).collect();
    let z = linear(&dropped, &v[2], None, inputs);
    let mut narrow = 0;
    for (b, targets) in v[3..].iter().zip(targets) {
        let mut start = 0;
        for &(column, width, rank, scaling) in *targets {
            for (y, z) in y.chunks_mut(outputs).zip(z.chunks(ranks)) {
                for (y, b) in y[column..column + width].iter_mut().zip(b[start * rank..].chunks(rank)) {
                    *y += f64::from(scaling) * z[narrow..narrow + rank].iter().zip(b).map(|(z, b)| z * b).sum::<f64>();
                }
            }
            (start, narrow) = (start + width, narrow + rank);
        }
    }
    y
}

/// softmax(q·kᵀ/√size)·v with masks and dropout, element by element, for rows of `length` tokens, of which the first `lengths` are not
/// padding.
pub fn attention(qkv: &[f64], lengths: &[usize], length: usize, form: &Attention, site: u32) -> Vec<f64> {
    let (heads, shared, size) = (form.heads as usize, form.key_value_heads as usize, form.head_size as usize);
    let width = (heads + 2 * shared) * size;
    let mut y = vec![0.0; lengths.len() * length * heads * size];
    for (b, &keys) in lengths.iter().enumerate() {
        for h in 0..heads {
            let s = h * shared / heads;
            let at = |t: usize, part: usize, d: usize| qkv[(b * length + t) * width + part * size + d];
            for i in 0..length {
                let end = if form.causal { keys.min(i + 1) } else { keys };
                let scores: Vec<f64> =
                    (0..end).map(|j| (0..size).map(|d| at(i, h, d) * at(j, heads + s, d)).sum::<f64>() / (size as f64).sqrt()).collect();
                let largest = scores.iter().fold(f64::MIN, |m, &v| m.max(v));
                let total: f64 = scores.iter().map(|v| (v - largest).exp()).sum();
                for (j, score) in scores.iter().enumerate() {
                    let p = (score - largest).exp() / total * keep((b * heads + h) * length + i, j, site, form.dropout);
                    for d in 0..size {
                        y[((b * length + i) * heads + h) * size + d] += p * at(j, heads + shared + s, d);
                    }
                }
            }
        }
    }
    y
}

/// LayerNorm with a bias, RMSNorm without one.
pub fn norm(x: &[f64], weight: &[f64], bias: Option<&[f64]>, epsilon: f32) -> Vec<f64> {
    let n = weight.len();
    let mut y = Vec::new();
    for row in x.chunks(n) {
        let mean = if bias.is_some() { row.iter().sum::<f64>() / n as f64 } else { 0.0 };
        let square = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let scaled = |(c, v): (usize, &f64)| (v - mean) / (square + f64::from(epsilon)).sqrt() * weight[c] + bias.map_or(0.0, |b| b[c]);
        y.extend(row.iter().enumerate().map(scaled));
    }
    y
}

/// RMSNorm per head: part `p` of a token is a query, a key or a value; values are copied.
pub fn head_norm(qkv: &[f64], weights: [&[f64]; 2], heads: usize, shared: usize, epsilon: f32) -> Vec<f64> {
    let size = weights[0].len();
    let mut y = Vec::new();
    for (i, head) in qkv.chunks(size).enumerate() {
        let weight = match i % (heads + 2 * shared) {
            p if p < heads => Some(weights[0]),
            p if p < heads + shared => Some(weights[1]),
            _ => None,
        };
        let square = head.iter().map(|v| v * v).sum::<f64>() / size as f64;
        let scale = (square + f64::from(epsilon)).sqrt();
        y.extend(head.iter().enumerate().map(|(c, v)| weight.map_or(*v, |w| v / scale * w[c])));
    }
    y
}

/// The parameters of a rotary embedding.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The position of the first token in each row.
    pub starts: &'a [u32],
    /// The number of tokens in a row.
    pub length: usize,
    /// The number of query heads.
    pub heads: u32,
    /// The number of key and value heads.
    pub key_value_heads: u32,
    /// The width of a head.
    pub head_size: u32,
    /// Which elements are rotated together.
    pub pairs: RopePairs,
    /// The angle by which each pair rotates from one position to the next.
    pub frequencies: &'a [f32],
}

/// Rotates each pair by its angle.
pub fn rope(qkv: &[f64], turn: &Turn) -> Vec<f64> {
    let half = turn.frequencies.len();
    let parts = (turn.heads + 2 * turn.key_value_heads) as usize;
    let mut y = qkv.to_vec();
    for (i, head) in y.chunks_mut(turn.head_size as usize).enumerate() {
        let (token, part) = (i / parts, i % parts);
        if part >= (turn.heads + turn.key_value_heads) as usize {
            continue;
        }
        let position = turn.starts[token / turn.length] as usize + token % turn.length;
        for (pair, &frequency) in turn.frequencies.iter().enumerate() {
            let (a, b) = match turn.pairs {
                RopePairs::Halves => (pair, pair + half),
                RopePairs::Adjacent => (2 * pair, 2 * pair + 1),
            };
            let (sin, cos) = (position as f64 * f64::from(frequency)).sin_cos();
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
        }
    }
    y
}

/// Rotated self-attention of x (batch, length, hidden), whose queries, keys and values are x·Wᵀ + b, without dropout.
pub fn self_attention(x: &[f64], w: &[f64], b: Option<&[f64]>, turn: &Turn, lengths: &[usize], form: &Attention) -> Vec<f64> {
    let qkv = linear(x, w, b, x.len() / (lengths.len() * turn.length));
    attention(&rope(&qkv, turn), lengths, turn.length, form, 1)
}

/// What stands for each sequence of x (lengths, length, hidden), without the padding after its first `lengths` tokens.
pub fn pool(x: &[f64], lengths: &[u32], length: usize, hidden: usize, pooling: Pooling) -> Vec<f64> {
    let pooled = |(row, &count): (usize, &u32)| -> Vec<f64> {
        let at = |token: usize, c: usize| x[(row * length + token) * hidden + c];
        let count = count as usize;
        let column = |c: usize| match pooling {
            Pooling::First => at(0, c),
            Pooling::Last => at(count - 1, c),
            Pooling::Mean => (0..count).map(|token| at(token, c)).sum::<f64>() / count as f64,
        };
        (0..hidden).map(column).collect()
    };
    lengths.iter().enumerate().flat_map(pooled).collect()
}

/// target_weight · Σ (x − target)², or Σ of the binary cross-entropy of σ(x), over the targets that are not ignored. `targets` holds the bits
/// of f32 numbers.
pub fn pointwise_loss(x: &[f64], targets: &[u32], kind: Pointwise) -> f64 {
    let judged = x.iter().zip(targets).filter(|(_, t)| **t != IGNORED).map(|(&x, &t)| (x, f64::from(f32::from_bits(t))));
    let loss: f64 = match kind {
        Pointwise::SquaredError => judged.map(|(x, t)| (x - t).powi(2)).sum(),
        Pointwise::Logistic => judged.map(|(x, t)| (1.0 + x.exp()).ln() - x * t).sum(),
    };
    loss * f64::from(STEP.target_weight)
}

/// target_weight · Σ (log Σ exp(logit) - target's logit) over the rows that have a target.
pub fn cross_entropy(x: &[f64], w: &[f64], b: Option<&[f64]>, hidden: usize, targets: &[u32]) -> f64 {
    let logits = linear(x, w, b, hidden);
    let rows = logits.chunks(w.len() / hidden).zip(targets).filter(|(_, t)| **t != IGNORED);
    let loss = rows.map(|(row, &t)| {
        let largest = row.iter().fold(f64::MIN, |m, &v| m.max(v));
        row.iter().map(|v| (v - largest).exp()).sum::<f64>().ln() + largest - row[t as usize]
    });
    loss.sum::<f64>() * f64::from(STEP.target_weight)
}

/// Adam's weights and moments.
pub struct AdamState {
    /// The weights.
    pub values: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    t: i32,
}

impl AdamState {
    /// The state before the first step.
    pub fn new(values: &[f32]) -> AdamState {
        let zeros = vec![0.0; values.len()];
        AdamState { values: values.iter().map(|&v| f64::from(v)).collect(), m: zeros.clone(), v: zeros, t: 0 }
    }

    /// Performs one step and returns the norm of the gradient.
    pub fn step(&mut self, config: &Adam, gradient: &[f32], learning_rate: f64) -> f64 {
        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let scale = config.clip_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.t += 1;
        for (i, &g) in gradient.iter().enumerate() {
            let mut g = f64::from(g) * scale;
            if config.decoupled {
                self.values[i] *= 1.0 - learning_rate * config.weight_decay;
            } else {
                g += config.weight_decay * self.values[i];
            }
            self.m[i] = config.beta1 * self.m[i] + (1.0 - config.beta1) * g;
            self.v[i] = config.beta2 * self.v[i] + (1.0 - config.beta2) * g * g;
            let m = self.m[i] / (1.0 - config.beta1.powi(self.t));
            let v = self.v[i] / (1.0 - config.beta2.powi(self.t));
            self.values[i] -= learning_rate * m / (v.sqrt() + config.epsilon);
        }
        norm
    }
}

/// The outcome of a step, as dynamic loss scaling sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Loss and gradient are finite.
    Finite,
    /// The loss is finite, the gradient is not.
    GradientOverflows,
    /// Neither is finite.
    LossOverflows,
}

/// PyTorch's `GradScaler`, except that the scale never falls below 1 and that a loss that is not finite leaves it unchanged.
pub struct LossScale {
    /// The scale of the next step.
    pub scale: f32,
    /// Finite steps in a row at this scale.
    pub tracker: u32,
    /// Finite steps so far.
    pub updates: u32,
    /// Skipped steps so far.
    pub skipped: u32,
    /// Skipped steps since the last finite one, except those that lowered the scale.
    pub skipped_in_a_row: u32,
    growth_interval: u32,
}

impl LossScale {
    /// The state before the first step.
    pub fn new(scale: f32, growth_interval: u32) -> LossScale {
        LossScale { scale, tracker: 0, updates: 0, skipped: 0, skipped_in_a_row: 0, growth_interval }
    }

    /// Records one step.
    pub fn step(&mut self, kind: StepKind) {
        if kind == StepKind::Finite {
            self.updates += 1;
            self.skipped_in_a_row = 0;
            self.tracker = (self.tracker + 1) % self.growth_interval;
            if self.tracker == 0 && (self.scale * 2.0).is_finite() {
                self.scale *= 2.0;
            }
            return;
        }
        self.skipped += 1;
        self.tracker = 0;
        if kind == StepKind::GradientOverflows && self.scale > 1.0 {
            self.scale /= 2.0;
        } else {
            self.skipped_in_a_row += 1;
        }
    }
}
