//! Rotary position embedding of packed queries and keys, and the host's part of it: frequencies and their table.

use super::{flat, qkv_shape, sum};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(Params { len: u32, heads: u32, turned: u32, length: u32, positions: u32, direction: f32, has_start: u32 });

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// i and i + rotary / 2, as in Hugging Face models and GGUF's Qwen.
    Halves,
    /// 2i and 2i + 1, as in GGUF's llama.
    Adjacent,
}

/// The configuration of a rotary position embedding (Su et al. 2021).
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub key_value_heads: u32,
    /// Elements of a head.
    pub head_size: u32,
    /// Which elements rotate together.
    pub pairs: RopePairs,
    /// The result of [`rope_table`] (positions, rotary), as a frozen f32 weight or an input. The first `rotary` elements of a head rotate.
    pub table: Tensor,
}

impl Rope {
    /// Records the rotation of x, laid out as qkv, or with a `direction` of -1 its inverse, which is its gradient.
    pub(super) fn apply(&self, g: &mut Graph, x: Tensor, start: Option<Tensor>, direction: f32) -> Tensor {
        let &Rope { heads, key_value_heads, head_size, table, .. } = self;
        let [batch, length] = qkv_shape(g, "rope", x, heads, key_value_heads, head_size);
        let (positions, rotary) = (g.shape(table).rows(), g.shape(table).last());
        let (all, turned) = (heads + 2 * key_value_heads, heads + key_value_heads);
        let vector = if head_size.is_multiple_of(8) && rotary.is_multiple_of(8) { 4 } else { 1 };
        // A GPU can run more invocations than there are tokens; on a CPU device, each load counts.
        let takes = if g.traits().cpu { all } else { 1 };
        let len = u64::from(batch) * u64::from(length) * u64::from(all.div_ceil(takes)) * u64::from(head_size / 2 / vector);
        let y = g.like("rope", x);
        let kernel = self.set(Kernel::new("rope", "turn").with("VECTOR", vector).with("TAKES", takes), rotary);
        let has_start = start.is_some() as u32;
        let p = Params { len: len as u32, heads: all, turned, length, positions, direction, has_start };
        g.dispatch(kernel, p, [read(x), read(table), read(start.unwrap_or(table)), write(y)], flat(len));
        y
    }

    /// A kernel that rotates heads of this layout, of which `rotary` elements rotate.
    pub(super) fn set(&self, kernel: Kernel, rotary: u32) -> Kernel {
        kernel.with("HEAD", self.head_size).with("ROTARY", rotary).with("ADJACENT", self.pairs == RopePairs::Adjacent)
    }
}

/// Rotates the queries and keys of qkv (batch, length, (heads + 2·key_value_heads)·head_size), queries first, then keys, then values,
/// which are copied. Token t of row b has the position start\[b\] + t: `start` (batch) u32 is where a sequence continues its cache, and
/// `None` means zeros. The code that writes `start` must keep start + length within the table.
pub fn rope(g: &mut Graph, qkv: Tensor, start: Option<Tensor>, form: &Rope) -> Tensor {
    let form = *form;
    let Rope { heads, key_value_heads, head_size, table, .. } = form;
    let [batch, length] = qkv_shape(g, "rope", qkv, heads, key_value_heads, head_size);
    let (positions, rotary) = (g.shape(table).rows(), g.shape(table).last());
    assert!(rotary.is_multiple_of(2) && rotary <= head_size, "rope: a table {} for heads of {head_size}", g.shape(table));
    assert!(length <= positions, "rope: qkv is {}, the table {}", g.shape(qkv), g.shape(table));
    if let Some(start) = start {
        assert_eq!(g.shape(start).len(), u64::from(batch), "rope: qkv is {}, start {}", g.shape(qkv), g.shape(start));
    }

    assert!(head_size.is_multiple_of(2), "rope: the head size {head_size} is odd");
    let y = form.apply(g, qkv, start, 1.0);
    g.on_backward(y, &[qkv], move |g, dy| {
        g.contribute(qkv, |g, before| {
            let dqkv = form.apply(g, dy, start, -1.0);
            sum(g, before, dqkv)
        })
    });
    y
}

/// How a model trained on short texts stretches its positions over long ones.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency is divided by this factor (`"linear"`; Chen et al. 2023).
    Linear(f64),
    /// Llama 3.1's rule (`"llama3"`): wavelengths above original / low_freq_factor grow by `factor`, those below
    /// original / high_freq_factor stay, and those in between are interpolated.
    Llama3 {
        /// The factor by which the longest wavelengths grow.
        factor: f64,
        /// original / low_freq_factor is the wavelength above which all grow by `factor`.
        low_freq_factor: f64,
        /// original / high_freq_factor is the wavelength below which none grow.
        high_freq_factor: f64,
        /// `original_max_position_embeddings`: the context length before the stretching.
        original: f64,
    },
    /// Each frequency is divided by its own factor: GGUF's `rope_freqs.weight` (rotary / 2).
    Factors(Vec<f32>),
}

/// The angle by which each pair rotates from one position to the next: theta^(-2i / rotary), scaled; rotary / 2 values. The formulas
/// are those of `transformers`' `modeling_rope_utils.py`, computed in f64; the result is f32, as it is there.
///
/// # Panics
/// If `rotary` is odd, or [`RopeScaling::Factors`] does not have rotary / 2 factors.
pub fn rope_frequencies(theta: f64, rotary: u32, scaling: &RopeScaling) -> Vec<f32> {
    assert!(rotary.is_multiple_of(2), "rope: the rotary size {rotary} is odd");
    if let RopeScaling::Factors(factors) = scaling {
        assert_eq!(factors.len(), rotary as usize / 2, "rope: each pair needs one factor");
    }
    let scaled = |i: u32| {
        let frequency = theta.powf(-f64::from(2 * i) / f64::from(rotary));
        match scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear(factor) => frequency / factor,
            RopeScaling::Factors(factors) => frequency / f64::from(factors[i as usize]),
            RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original } => {
                // How many full turns a pair makes over the original context. The share is 1 from `high` turns on and 0 up to `low`.
                let turns = original * frequency / std::f64::consts::TAU;
                let share = match turns {
                    t if t > *high => 1.0,
                    t if t < *low => 0.0,
                    t => (t - low) / (high - low),
                };
                (1.0 - share) * frequency / factor + share * frequency
            }
        }
    };
    (0..rotary / 2).map(|i| scaled(i) as f32).collect()
}

/// The cosines, then the sines of position · frequency, for each position from 0 on: (positions, 2·frequencies). Computed in f64.
pub fn rope_table(frequencies: &[f32], positions: u32) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions as usize * frequencies.len() * 2);
    for position in 0..positions {
        let angles = || frequencies.iter().map(move |&f| f64::from(position) * f64::from(f));
        table.extend(angles().map(|a| a.cos() as f32));
        table.extend(angles().map(|a| a.sin() as f32));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: RopeScaling = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192.0 };

    fn close(got: f32, want: f64) -> bool {
        (f64::from(got) / want - 1.0).abs() < 1e-7
    }

    /// Llama 3.1 8B: values of the three branches, computed with the formula as `transformers` writes it.
    #[test]
    fn frequencies_of_llama_3() {
        let plain = rope_frequencies(500000.0, 128, &RopeScaling::None);
        let scaled = rope_frequencies(500000.0, 128, &LLAMA3);
        for (i, before, after) in [
            (0, 1.0, 1.0),
            (1, 0.8146172338565447, 0.8146172338565447),
            (28, 0.0032114459947525913, 0.0032114459947525913),
            (29, 0.0026160992529250353, 0.002166570763503359),
            (34, 0.0009384738703573801, 0.00017850781276799638),
            (35, 0.0007644969883171747, 9.556212353964683e-05),
            (63, 2.455140791131609e-06, 3.068925988914511e-07),
        ] {
            assert!(close(plain[i], before) && close(scaled[i], after), "{i}: {} and {}", plain[i], scaled[i]);
        }
    }

    /// GGUF files store llama3's scaling as factors: 1, `factor`, or 1 / ((1 - share) / factor + share).
    #[test]
    fn factors_divide() {
        let (plain, scaled) = (rope_frequencies(500000.0, 64, &RopeScaling::None), rope_frequencies(500000.0, 64, &LLAMA3));
        let factors: Vec<f32> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
        let again = rope_frequencies(500000.0, 64, &RopeScaling::Factors(factors));
        assert!(again.iter().zip(&scaled).all(|(a, s)| (a / s - 1.0).abs() < 2e-7));
        let linear = rope_frequencies(500000.0, 64, &RopeScaling::Linear(4.0));
        assert!(linear.iter().zip(&plain).all(|(l, p)| close(4.0 * l, f64::from(*p))));
    }

    #[test]
    fn the_table_is_exact_far_from_zero() {
        let frequencies = rope_frequencies(10000.0, 4, &RopeScaling::None);
        assert!(close(frequencies[0], 1.0) && close(frequencies[1], 0.01));
        let table = rope_table(&frequencies, 8192);
        assert_eq!(table.len(), 8192 * 4);
        assert_eq!(table[..4], [1.0, 1.0, 0.0, 0.0]);
        // cos and sin of 8191
        let angle = 8191.0f64.rem_euclid(std::f64::consts::TAU);
        assert!((f64::from(table[8191 * 4]) - angle.cos()).abs() < 1e-7 && (f64::from(table[8191 * 4 + 2]) - angle.sin()).abs() < 1e-7);
    }
}
