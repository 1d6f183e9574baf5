//! What every op's test shares: one device, random arrays, and the comparison of a recording with a forward in f64: values directly,
//! gradients by central differences, outputs bounded by canaries, and a second run equal to the bit.

use std::sync::LazyLock;

use graftling::gpu::{Device, Memory, Program, Step};
use graftling::graph::{DType, Graph, Parameters, Tensor, Traits};
use graftling::ops;
use graftling::weights::Weight;

/// The one device of the test run; a missing device fails.
pub fn device() -> &'static Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::open_checked(None).expect("these tests need a device"));
    &DEVICE
}

/// The device's own traits, and those that make it run the variants of a GPU (and of a CPU without subgroups).
pub fn all_traits() -> Vec<Traits> {
    let own = device().traits().clone();
    let gpu = Traits { cpu: false, ..own.clone() };
    let plain = Traits { cpu: true, subgroup: None, ..own.clone() };
    let mut all = vec![own, gpu, plain];
    all.dedup();
    all
}

/// The step that tests run at.
pub const STEP: Step = Step { seed: 7, counter: 3, loss_scale: 0.25, learning_rate: 0.01 };

/// Random numbers by a counter: the same in every run.
pub struct Random(pub u64);

impl Random {
    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [-1, 1), as f32.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.uniform() * 2.0 - 1.0) as f32).collect()
    }

    /// Whole numbers below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        (self.uniform() * f64::from(end)) as u32
    }
}

/// What an array is in the recording.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// An activation from outside that a gradient must reach.
    Input,
    /// A weight that trains.
    Weight,
    /// A weight that does not, in this format. Of a block format, `values` are the words on the device.
    Frozen(DType),
}

/// One argument of an op under test.
#[derive(Clone)]
pub struct Array {
    pub shape: Vec<usize>,
    pub kind: Kind,
    pub values: Vec<f32>,
}

impl Array {
    pub fn new(kind: Kind, shape: &[usize], random: &mut Random) -> Array {
        let values = random.values(shape.iter().product());
        Array { shape: shape.to_vec(), kind, values }
    }

    pub fn input(shape: &[usize], random: &mut Random) -> Array {
        Array::new(Kind::Input, shape, random)
    }

    pub fn weight(shape: &[usize], random: &mut Random) -> Array {
        Array::new(Kind::Weight, shape, random)
    }

    /// The values that the array's format has.
    pub fn exact(&self) -> Vec<f64> {
        self.encode().1
    }

    /// The bytes in the array's format, and the values that these bytes stand for.
    fn encode(&self) -> (Vec<u8>, Vec<f64>) {
        let exact = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect();
        match self.kind {
            Kind::Frozen(DType::F16) => {
                let v: Vec<_> = self.values.iter().map(|&x| half::f16::from_f32(x)).collect();
                (bytemuck::cast_slice(&v).to_vec(), v.iter().map(|x| x.to_f64()).collect())
            }
            Kind::Frozen(DType::Bf16) => {
                let v: Vec<_> = self.values.iter().map(|&x| half::bf16::from_f32(x)).collect();
                (bytemuck::cast_slice(&v).to_vec(), v.iter().map(|x| x.to_f64()).collect())
            }
            Kind::Frozen(dtype) if dtype.group_len() > 1 => {
                let bytes = bytemuck::cast_slice(&self.values).to_vec();
                let weight = Weight::new(dtype, self.shape.as_slice().into(), bytes);
                let values = exact(&weight.to_f32());
                (weight.bytes().into_owned(), values)
            }
            _ => (bytemuck::cast_slice(&self.values).to_vec(), exact(&self.values)),
        }
    }
}

/// One op under test.
pub struct Check<'a> {
    pub name: &'a str,
    pub traits: &'a Traits,
    pub arrays: &'a [Array],
    /// Largest error as a share of the largest value expected.
    pub tolerance: f64,
    /// Also record the op twice on the same arguments and add the results, so that each gradient gets a second contribution.
    pub twice: bool,
}

impl Check<'_> {
    /// Records the op with `record`, which gets a tensor for each array, and compares it with `reference`, which gets their values.
    pub fn run(&self, record: impl Fn(&mut Graph, &[Tensor]) -> Tensor, reference: impl Fn(&[Vec<f64>]) -> Vec<f64>) {
        self.compare(&record, &reference, 1.0);
        if self.twice {
            let twice = |g: &mut Graph, t: &[Tensor]| {
                let (a, b) = (record(g, t), record(g, t));
                ops::add(g, a, b)
            };
            self.compare(&twice, &reference, 2.0);
        }
    }

    fn compare(&self, record: &dyn Fn(&mut Graph, &[Tensor]) -> Tensor, reference: &dyn Fn(&[Vec<f64>]) -> Vec<f64>, factor: f64) {
        let device = device();
        let (bytes, values): (Vec<_>, Vec<_>) = self.arrays.iter().map(Array::encode).unzip();
        let mut parameters = Parameters::default();
        let mut weights = Vec::new();
        for (i, array) in self.arrays.iter().enumerate() {
            weights.push(match array.kind {
                Kind::Input => None,
                Kind::Weight => Some(parameters.add(format!("w{i}"), array.shape.as_slice(), DType::F32, true)),
                Kind::Frozen(dtype) => Some(parameters.add(format!("w{i}"), array.shape.as_slice(), dtype, false)),
            });
        }
        let mut graph = Graph::new(self.traits, &parameters, true);
        let mut tensors = Vec::new();
        for (i, array) in self.arrays.iter().enumerate() {
            tensors.push(weights[i].unwrap_or_else(|| {
                let input = graph.input(&format!("x{i}"), array.shape.as_slice(), DType::F32);
                graph.track(input);
                input
            }));
        }
        let y = record(&mut graph, &tensors);
        graph.keep(y);
        let shape = graph.shape(y).clone();
        let dy = graph.input("dy", shape.clone(), DType::F32);
        graph.backward(y, dy);
        let gradients: Vec<_> = (0..self.arrays.len())
            .map(|i| match self.arrays[i].kind {
                Kind::Input => graph.gradient(tensors[i]).inspect(|&t| graph.keep(t)),
                Kind::Weight => graph.weight_gradient(tensors[i]),
                Kind::Frozen(_) => None,
            })
            .collect();

        let memory = Memory::new(device, &parameters, true).expect("memory");
        let mut program = Program::with_canaries(device, &memory, &graph).expect("a program");
        for (i, bytes) in bytes.iter().enumerate() {
            match weights[i] {
                Some(weight) => memory.write(device, weight, bytes),
                None => program.write(device, tensors[i], &self.arrays[i].values),
            }
        }
        let cotangent = Random(99).values(shape.len() as usize);
        program.write(device, dy, &cotangent);
        memory.set_step(device, STEP);

        let mut run = || {
            memory.clear(device);
            program.run(device).expect("a run");
            let read = |t: Tensor| program.read(device, &memory, t).expect("a read");
            (read(y), gradients.iter().map(|g| g.map(read)).collect::<Vec<_>>())
        };
        let (value, gradient) = run();
        let again = run();
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&value), bits(&again.0), "{}: a second run gave another output", self.name);
        for (i, (a, b)) in gradient.iter().zip(&again.1).enumerate() {
            if let (Some(a), Some(b)) = (a, b) {
                assert_eq!(bits(a), bits(b), "{}: a second run gave another gradient of argument {i}", self.name);
            }
        }
        assert_eq!(program.damaged_canary(device).expect("a read"), None, "{}: written past the end", self.name);
        self.assert_arena_padding(&memory, &parameters);

        let want: Vec<f64> = reference(&values).iter().map(|v| v * factor).collect();
        close(&format!("{}: value", self.name), &value, &want, self.tolerance);

        let cotangent: Vec<f64> = cotangent.iter().map(|&c| f64::from(c) * factor).collect();
        let scalar = |values: &[Vec<f64>]| reference(values).iter().zip(&cotangent).map(|(y, c)| y * c).sum::<f64>();
        for (i, gradient) in gradient.iter().enumerate() {
            if let Some(gradient) = gradient {
                self.compare_gradient(i, gradient, &values, &scalar);
            }
        }
    }

    /// Central differences of the scalar: of some single elements, and along one direction that touches all.
    fn compare_gradient(&self, i: usize, gradient: &[f32], values: &[Vec<f64>], scalar: &dyn Fn(&[Vec<f64>]) -> f64) {
        const H: f64 = 1e-5;
        let mut random = Random(5 + i as u64);
        let len = gradient.len();
        let difference = |direction: &dyn Fn(usize) -> f64| {
            let moved = |h: f64| {
                let mut values = values.to_vec();
                for (j, v) in values[i].iter_mut().enumerate() {
                    *v += h * direction(j);
                }
                scalar(&values)
            };
            (moved(H) - moved(-H)) / (2.0 * H)
        };
        let chosen: Vec<usize> = if len <= 24 { (0..len).collect() } else { (0..24).map(|_| random.below(len as u32) as usize).collect() };
        let want: Vec<f64> = chosen.iter().map(|&at| difference(&|j| if j == at { 1.0 } else { 0.0 })).collect();
        let got: Vec<f32> = chosen.iter().map(|&at| gradient[at]).collect();
        let largest = gradient.iter().fold(0.0f64, |m, &g| m.max(f64::from(g).abs()));
        let what = format!("{}: gradient of argument {i} at {chosen:?}", self.name);
        close_to(&what, &got, &want, self.tolerance * largest + 1e-7);

        let signs: Vec<f64> = (0..len).map(|_| if random.uniform() < 0.5 { -1.0 } else { 1.0 }).collect();
        let want = difference(&|j| signs[j]);
        let got: f64 = gradient.iter().zip(&signs).map(|(&g, s)| f64::from(g) * s).sum();
        let size: f64 = gradient.iter().map(|&g| f64::from(g).abs()).sum();
        let error = (got - want).abs();
        assert!(error <= self.tolerance * size + 1e-6, "{}: gradient of argument {i} along a direction is {got}, not {want}", self.name);
    }

    /// The gaps between the ranges of the gradient arena are canaries too.
    fn assert_arena_padding(&self, memory: &Memory, parameters: &Parameters) {
        let arena: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device(), memory.arenas().gradients).expect("a read"));
        let mut used = vec![false; arena.len()];
        for (_, p) in parameters.iter() {
            if let Some(offset) = p.arena_offset {
                used[offset as usize..(offset + p.shape.len()) as usize].fill(true);
            }
        }
        let damaged = arena.iter().zip(&used).any(|(&v, &used)| !used && v != 0.0);
        assert!(!damaged, "{}: something was written between the ranges of the gradient arena", self.name);
    }
}

/// Panics unless every element of `got` is within `tolerance` times the largest of `want`.
pub fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    close_to(what, got, want, tolerance * largest + 1e-7);
}

/// Panics unless every element of `got` is within `bound` of `want`'s; a NaN is never close.
pub fn close_to(what: &str, got: &[f32], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths differ");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(error <= bound, "{what}: element {i} is {g}, not {w} (off by {error:e}, allowed {bound:e})");
    }
}

/// y = x·Wᵀ + b in f64: x (rows, inputs), w (outputs, inputs).
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

mod tests {
    use super::*;

    fn panics(f: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(f).is_err()
    }

    #[test]
    fn close_rejects_what_is_not_close() {
        let want = [1.0, -2.0, 3.0];
        close("the same", &[1.0, -2.0, 3.0], &want, 1e-6);
        assert!(panics(|| close("perturbed", &[1.0, -2.0, 3.001], &[1.0, -2.0, 3.0], 1e-6)));
        assert!(panics(|| close("a NaN", &[1.0, f32::NAN, 3.0], &[1.0, -2.0, 3.0], 1e-6)));
        assert!(panics(|| close("short", &[1.0, -2.0], &[1.0, -2.0, 3.0], 1e-6)));
    }

    #[test]
    fn a_wrong_gradient_is_noticed() {
        let check = Check { name: "planted", traits: &Traits::minimal(), arrays: &[], tolerance: 1e-6, twice: false };
        let values = vec![vec![0.5, -1.0, 2.0]];
        let scalar = |v: &[Vec<f64>]| v[0].iter().map(|x| x * x).sum::<f64>();
        check.compare_gradient(0, &[1.0, -2.0, 4.0], &values, &scalar);
        assert!(panics(std::panic::AssertUnwindSafe(|| check.compare_gradient(0, &[1.0, -2.0, -4.0], &values, &scalar))));
    }
}
