//! Comparing a recording with a forward pass in f64: values directly and gradients by central differences. Canaries detect writes past the
//! outputs, and a second run must be bit-identical.

use super::array::{Array, Kind, Random};
use super::outcome::Outcome;
use crate::error::Result;
use crate::gpu::{Device, Memory, Program, Step};
use crate::graph::wgsl::Constant;
use crate::graph::{Access, DType, Graph, Kernel, Parameters, Tensor, Traits};
use crate::ops;

/// The training step of the comparisons.
pub const STEP: Step = Step { seed: 7, counter: 3, target_weight: 0.25, learning_rate: 0.01, backward_scale: 4.0 };

/// The largest error allowed where activations are f16, relative to the largest expected value. A device may round to either neighbour, so
/// a value can be off by 2⁻¹⁰ of itself; this allows two such errors.
pub const HALF_TOLERANCE: f64 = 1.0 / 512.0;

/// Records an op on one tensor per array.
pub type Record<'a> = &'a dyn Fn(&mut Graph, &[Tensor]) -> Tensor;
/// The forward pass of an op in f64, given the arrays' values.
pub type Forward<'a> = &'a dyn Fn(&[Vec<f64>]) -> Vec<f64>;
/// The gradients of all arrays in f64, given their values and the gradient of the result.
pub type Gradients<'a> = &'a dyn Fn(&[Vec<f64>], &[f64]) -> Vec<Vec<f64>>;

/// One op with its arguments.
pub struct Case<'a> {
    /// The name in error messages.
    pub name: &'a str,
    /// The device to run on.
    pub device: &'a Device,
    /// The same device without bounds checks, as users run it. Its kernels must give the same results.
    pub unchecked: Option<&'a Device>,
    /// The traits that select the kernels.
    pub traits: &'a Traits,
    /// The arguments.
    pub arrays: &'a [Array],
    /// The largest error allowed, relative to the largest expected value.
    pub tolerance: f64,
    /// Whether activations are f16, including the inputs. The gradient of the result has the result's format, as in a model.
    pub half: bool,
    /// Whether to also record the op twice on the same arguments and add the results, so that each gradient gets a second contribution.
    pub twice: bool,
}

/// A value, and the gradients of the arguments that have one.
type Numbers = (Vec<f32>, Vec<Option<Vec<f32>>>);

/// The results of a program, and the kernels that wrote them.
struct Ran {
    value: Vec<f32>,
    value_kernel: String,
    gradients: Vec<Option<(Vec<f32>, String)>>,
    cotangent: Vec<f32>,
}

impl Case<'_> {
    /// Compares the op's value with `reference`, and its gradients with central differences of `reference`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(&self, record: impl Fn(&mut Graph, &[Tensor]) -> Tensor, reference: impl Fn(&[Vec<f64>]) -> Vec<f64>) -> Result<Outcome> {
        let mut outcome = self.compare(&record, &reference, None, 1.0, self.unchecked)?;
        if self.twice {
            let twice = |g: &mut Graph, t: &[Tensor]| {
                let (a, b) = (record(g, t), record(g, t));
                ops::add(g, a, b)
            };
            // These are the same kernels, so checking one build is enough.
            outcome.join(self.compare(&twice, &reference, None, 2.0, None)?);
        }
        Ok(outcome)
    }

    /// Compares the op's value with `reference` and its gradients with `gradients`, for sizes at which central differences take too long.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run_exact(&self, record: Record, reference: Forward, gradients: Gradients) -> Result<Outcome> {
        self.compare(record, reference, Some(gradients), 1.0, self.unchecked)
    }

    fn compare(
        &self,
        record: Record,
        reference: Forward,
        exact: Option<Gradients>,
        factor: f64,
        unchecked: Option<&Device>,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let arrays: Vec<_> = self.arrays.iter().map(|array| array.rounded(self.half)).collect();
        let values: Vec<_> = arrays.iter().map(Array::exact).collect();
        let ran = self.execute(self.device, record, &arrays, &mut outcome)?;
        if let Some(device) = unchecked {
            let unchecked = self.execute(device, record, &arrays, &mut outcome)?;
            self.same(&ran, &unchecked, &mut outcome);
        }

        let want: Vec<f64> = reference(&values).iter().map(|v| v * factor).collect();
        outcome.close(&format!("{}: value of {}", self.name, ran.value_kernel), &ran.value, &want, self.tolerance);

        let cotangent: Vec<f64> = ran.cotangent.iter().map(|&c| f64::from(c) * factor).collect();
        let exact = exact.map(|gradients| gradients(&values, &cotangent));
        let scalar = |values: &[Vec<f64>]| reference(values).iter().zip(&cotangent).map(|(y, c)| y * c).sum::<f64>();
        for (i, gradient) in ran.gradients.iter().enumerate() {
            let Some((gradient, kernel)) = gradient else { continue };
            let what = format!("{}: gradient of argument {i} of {kernel}", self.name);
            match &exact {
                Some(exact) => outcome.close(&what, gradient, &exact[i], self.tolerance),
                None => compare_gradient(&mut outcome, &what, i, gradient, &values, &scalar, self.tolerance),
            }
        }
        Ok(outcome)
    }

    /// Compares the results without bounds checks with those with checks, which are in turn compared with the reference.
    fn same(&self, checked: &Ran, unchecked: &Ran, outcome: &mut Outcome) {
        let mut close = |what: String, got: &[f32], want: &[f32]| {
            let want: Vec<f64> = want.iter().map(|&v| v.into()).collect();
            outcome.close(&what, got, &want, self.tolerance);
        };
        close(format!("{}: value of {} without bounds checks", self.name, checked.value_kernel), &unchecked.value, &checked.value);
        for (i, gradients) in checked.gradients.iter().zip(&unchecked.gradients).enumerate() {
            if let (Some((want, kernel)), Some((got, _))) = gradients {
                close(format!("{}: gradient of argument {i} of {kernel} without bounds checks", self.name), got, want);
            }
        }
    }

    /// Records the op, runs it twice, and checks that it wrote nothing but its outputs.
    fn execute(&self, device: &Device, record: Record, arrays: &[Array], outcome: &mut Outcome) -> Result<Ran> {
        let Case { name, half, .. } = *self;
        let dtype = if half { DType::F16 } else { DType::F32 };
        let mut parameters = Parameters::default();
        let mut weights = Vec::new();
        for (i, array) in arrays.iter().enumerate() {
            weights.push(match array.kind {
                Kind::Input => None,
                Kind::Weight => Some(parameters.add(format!("w{i}"), array.shape.as_slice(), DType::F32, true)),
                Kind::Frozen(dtype) => Some(parameters.add(format!("w{i}"), array.shape.as_slice(), dtype, false)),
            });
        }
        let mut graph = Graph::new(self.traits, &parameters, true);
        graph.set_half(half);
        let mut tensors = Vec::new();
        for (i, array) in arrays.iter().enumerate() {
            tensors.push(weights[i].unwrap_or_else(|| {
                let input = graph.input(&format!("x{i}"), array.shape.as_slice(), dtype);
                graph.track(input);
                input
            }));
        }
        let y = record(&mut graph, &tensors);
        graph.keep(y);
        let shape = graph.shape(y).clone();
        let dy = graph.input("dy", shape.clone(), graph.info(y).dtype);
        graph.backward(y, dy);
        let gradients: Vec<_> = (0..arrays.len())
            .map(|i| match arrays[i].kind {
                Kind::Input => graph.gradient(tensors[i]).inspect(|&t| graph.keep(t)),
                Kind::Weight => graph.weight_gradient(tensors[i]),
                Kind::Frozen(_) => None,
            })
            .collect();

        let memory = Memory::new(device, &parameters, true)?;
        let mut program = Program::with_canaries(device, &memory, &graph)?;
        for (i, array) in arrays.iter().enumerate() {
            match weights[i] {
                Some(weight) => memory.write(device, weight, &array.encode().0),
                None => write_floats(&program, device, tensors[i], &array.values, half),
            }
        }
        let cotangent = Array::input(&[shape.len() as usize], &mut Random(99)).rounded(half).values;
        write_floats(&program, device, dy, &cotangent, graph.info(dy).dtype == DType::F16);
        memory.set_step(device, STEP);

        let mut run = || -> Result<Numbers> {
            memory.clear(device);
            program.run(device)?;
            let read = |t: Tensor| program.read(device, &memory, t);
            Ok((read(y)?, gradients.iter().map(|g| g.map(read).transpose()).collect::<Result<_>>()?))
        };
        let (value, gradient) = run()?;
        let again = run()?;
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        if bits(&value) != bits(&again.0) {
            outcome.fail(format!("{name}: a second run of {} returned a different value", last_writer(&graph, y)));
        }
        for ((before, after), &tensor) in gradient.iter().zip(&again.1).zip(&gradients) {
            if let (Some(before), Some(after), Some(tensor)) = (before, after, tensor)
                && bits(before) != bits(after)
            {
                outcome.fail(format!("{name}: a second run of {} returned a different gradient", last_writer(&graph, tensor)));
            }
        }
        if let Some(label) = program.damaged_canary(device)? {
            outcome.fail(format!("{name}: a kernel wrote past the end of '{label}'"));
        }
        if arena_padding_damaged(device, &memory, &parameters)? {
            outcome.fail(format!("{name}: a kernel wrote between the ranges of the gradient arena"));
        }
        let value_kernel = last_writer(&graph, y);
        let named = |(values, tensor): (Option<Vec<f32>>, Option<Tensor>)| Some((values?, last_writer(&graph, tensor?)));
        let gradients = gradient.into_iter().zip(gradients).map(named).collect();
        Ok(Ran { value, value_kernel, gradients, cotangent })
    }
}

/// Writes an input, in f16 if `half`.
pub(super) fn write_floats(program: &Program, device: &Device, input: Tensor, values: &[f32], half: bool) {
    if half {
        let rounded: Vec<_> = values.iter().map(|&v| half::f16::from_f32(v)).collect();
        program.write(device, input, &rounded);
    } else {
        program.write(device, input, values);
    }
}

/// The kernel that last wrote a tensor, or a part of it.
fn last_writer(graph: &Graph, tensor: Tensor) -> String {
    // A part of a gradient is a different view of the arena.
    let place = |t: Tensor| (graph.root(t), graph.info(t).bytes());
    let ((root, start), bytes) = place(tensor);
    let writes = |t: Tensor| {
        let ((other, at), _) = place(t);
        other == root && (start..start + bytes).contains(&at)
    };
    let wrote = graph.line().iter().rev().find(|d| d.arguments.iter().any(|a| a.access != Access::Read && writes(a.tensor)));
    wrote.map_or("no kernel".into(), |d| describe(&d.kernel))
}

/// A kernel with its constants, such as the format or activation, for reports.
fn describe(kernel: &Kernel) -> String {
    let constant = |&(name, value): &(&str, Constant)| match value {
        Constant::Number(number) => format!("{name}={number}"),
        Constant::Word(word) => format!("{name}={word}"),
    };
    let constants: Vec<_> = kernel.constants.iter().map(constant).collect();
    match constants.is_empty() {
        true => kernel.to_string(),
        false => format!("{kernel} [{}]", constants.join(" ")),
    }
}

/// Whether a gap between the ranges of the gradient arena was overwritten; the gaps serve as canaries.
fn arena_padding_damaged(device: &Device, memory: &Memory, parameters: &Parameters) -> Result<bool> {
    let arena: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device, memory.arenas().gradients)?);
    let mut used = vec![false; arena.len()];
    for (_, p) in parameters.iter() {
        if let Some(offset) = p.arena_offset {
            used[offset as usize..(offset + p.shape.len()) as usize].fill(true);
        }
    }
    Ok(arena.iter().zip(&used).any(|(&v, &used)| !used && v != 0.0))
}

/// Compares a gradient with central differences of a scalar function of all arrays: for some single elements of array `i`, and along one
/// direction that involves all of them.
pub fn compare_gradient(
    outcome: &mut Outcome,
    what: &str,
    i: usize,
    gradient: &[f32],
    values: &[Vec<f64>],
    scalar: &dyn Fn(&[Vec<f64>]) -> f64,
    tolerance: f64,
) {
    const H: f64 = 1e-5;
    let mut random = Random(5 + i as u64);
    let len = gradient.len();
    let mut values = values.to_vec();
    let mut difference = |direction: &dyn Fn(usize) -> f64| {
        let before = values[i].clone();
        let mut moved = |h: f64| {
            for (j, v) in values[i].iter_mut().enumerate() {
                *v = before[j] + h * direction(j);
            }
            scalar(&values)
        };
        let slope = (moved(H) - moved(-H)) / (2.0 * H);
        values[i] = before;
        slope
    };
    let chosen: Vec<usize> = if len <= 24 { (0..len).collect() } else { (0..24).map(|_| random.below(len as u32) as usize).collect() };
    let largest = gradient.iter().fold(0.0f64, |m, &g| m.max(f64::from(g).abs()));
    for at in chosen {
        let want = difference(&|j| if j == at { 1.0 } else { 0.0 });
        outcome.measure(&format_args!("{what}: element {at}"), f64::from(gradient[at]), want, tolerance, largest);
    }

    let signs: Vec<f64> = (0..len).map(|_| if random.uniform() < 0.5 { -1.0 } else { 1.0 }).collect();
    let want = difference(&|j| signs[j]);
    let got: f64 = gradient.iter().zip(&signs).map(|(&g, s)| f64::from(g) * s).sum();
    let size: f64 = gradient.iter().map(|&g| f64::from(g).abs()).sum();
    outcome.measure(&format_args!("{what}: along a direction it"), got, want, tolerance, size + 1e-6 / tolerance);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_gradient_is_noticed() {
        let values = vec![vec![0.5, -1.0, 2.0]];
        let scalar = |v: &[Vec<f64>]| v[0].iter().map(|x| x * x).sum::<f64>();
        let wrong = |gradient: &[f32]| {
            let mut outcome = Outcome::default();
            compare_gradient(&mut outcome, "planted", 0, gradient, &values, &scalar, 1e-6);
            outcome.wrong
        };
        assert_eq!(wrong(&[1.0, -2.0, 4.0]), None);
        assert!(wrong(&[1.0, -2.0, -4.0]).is_some_and(|w| w.starts_with("planted: element 2 is -4e0")));
        assert!(wrong(&[1.0, f32::NAN, 4.0]).is_some());
    }
}
