//! A small comparison for each kernel of a recording: the same kernel wherever the recording's constants allow, so that a driver compiles
//! hardly anything for the sake of the check alone.

pub(super) mod cases;

use std::collections::HashSet;

use super::array::{Array, Kind, Random};
use super::layers::{Targets, low_rank};
use super::reference;
use super::special::{adam_steps, cached_attention, pull};
use super::{Bench, Family, Run};
use crate::graph::wgsl::Constant;
use crate::graph::{DType, Graph, Kernel};
use crate::ops::optimizer::Adam;
use crate::ops::{self, Activation, Attention, Pointwise, Pooling, RopePairs};
use crate::weights::GgmlType;
use cases::{
    Bottleneck, Product, attention, dropout, feed_forward, fusion, halves, head_norm, loss, norm, positions, rope, scale, self_attention,
    tokens,
};

const FROZEN: Kind = Kind::Frozen(DType::F32);

/// A comparison that judges the kernels of one shader file.
pub(super) struct Check {
    /// The file's stem.
    pub file: &'static str,
    /// The comparison. Its name says all that it depends on except the device.
    pub family: Family,
    /// Whether activations are f16.
    pub half: bool,
}

/// The checks of all kernels in these recordings, those of products first, because others build on them.
pub(super) fn checks(graphs: &[Graph]) -> Vec<Check> {
    let kernels = || graphs.iter().flat_map(Graph::line).map(|dispatch| &dispatch.kernel);
    let trains = graphs.iter().any(Graph::training);
    let half = kernels().any(|kernel| kernel.half != 0);
    let (mut seen, mut all) = (HashSet::new(), Vec::<Check>::new());
    for (before, kernel) in std::iter::once(None).chain(kernels().map(Some)).zip(kernels()) {
        if !seen.insert(kernel) {
            continue;
        }
        let Some((mut name, tolerance, run)) = comparison(kernel, before, trains) else { continue };
        if half {
            name += ", f16";
        }
        if all.iter().all(|check| check.family.name != name) {
            all.push(Check { file: kernel.file, family: Family { name, tolerance, run }, half });
        }
    }
    all.sort_by_key(|check| !check.file.starts_with("matmul"));
    all
}

type Comparison = (String, f64, Box<Run>);

/// The name, the tolerance and the body of the comparison for a kernel, which follows `before` in its recording. `None` for kernels that the
/// comparisons of others include.
fn comparison(kernel: &Kernel, before: Option<&Kernel>, trains: bool) -> Option<Comparison> {
    let is = |constant: &str| kernel.constant(constant) != 0;
    let file = kernel.file;
    let comparison = |words: String, tolerance, run: Box<Run>| {
        let name = if words.is_empty() { file.to_string() } else { format!("{file} {words}") };
        Some((name, tolerance, run))
    };
    let activation = || Activation::ALL[kernel.constant("ACTIVATION") as usize].0;
    // With whole vectors of four, or not.
    let width = |vector: u32| if vector == 4 { 68 } else { 67 };
    match (file, kernel.entry) {
        (_, _) if word(kernel, "EPILOGUE") == "rope" => {
            let [size, rotary] = ["HEAD", "ROTARY"].map(|name| kernel.constant(name));
            let (format, pairs) = (format_of(kernel), if is("ADJACENT") { RopePairs::Adjacent } else { RopePairs::Halves });
            let words = format!("{}, {rotary} of {size} rotated, {pairs:?}", format.dtype().word());
            comparison(words, 2e-5, Box::new(move |bench| self_attention(bench, format, [size, rotary], pairs, trains)))
        }
        (_, _) if ["gated", "derivative"].contains(&word(kernel, "EPILOGUE")) => {
            let (format, activation) = (format_of(kernel), activation());
            let gated = word(kernel, "EPILOGUE") == "gated" || is("GATED");
            let words = format!("{}, {}, gated {gated}", format.dtype().word(), activation.name());
            comparison(words, 1e-5, Box::new(move |bench| feed_forward(bench, format, activation, gated, trains)))
        }
        (_, entry) if file.starts_with("matmul") => {
            let product = Product::of(kernel, trains);
            let tolerance = if product.activation.is_some() { 1e-5 } else { 5e-6 };
            comparison(product.words(entry), tolerance, Box::new(move |bench| product.run(bench)))
        }
        ("attention" | "attention_cpu", _) => {
            let (head_size, causal) = (kernel.constant("HEAD"), is("CAUSAL"));
            let dropout = if is("DROPOUT") { 0.1 } else { 0.0 };
            let own = file == "attention" && !is("SHARED");
            let form = Attention { heads: 2, key_value_heads: 1 + u32::from(own), head_size, causal, dropout };
            let of = if own { "own" } else { "shared" };
            let words = format!("{of} keys, heads of {head_size}, causal {causal}, dropout {dropout}");
            comparison(words, 2e-5, Box::new(move |bench| attention(bench, form, trains)))
        }
        ("cached_attention", _) => {
            let head_size = kernel.constant("HEAD");
            let form = Attention { heads: 2, key_value_heads: 1, head_size, causal: true, dropout: 0.0 };
            let run = move |bench: &mut Bench| {
                let outcome = cached_attention(bench.device, bench.traits, form, &[8], 10, bench.tolerance)?;
                bench.add(outcome);
                Ok(())
            };
            comparison(format!("heads of {head_size}"), 2e-5, Box::new(run))
        }
        ("adapter", _) => {
            let input = if kernel.entry == "backward" && !is("WITH_INPUT_GRADIENT") { FROZEN } else { Kind::Input };
            let layer = Bottleneck {
                hidden: width(if is("ALIGNED") { 4 } else { 1 }),
                width: kernel.constant("BOTTLENECK") as usize,
                activation: activation(),
                dropout: if is("DROPOUT") { 0.1 } else { 0.0 },
                input,
            };
            comparison(format!("{layer:?}, trains {trains}"), 2e-5, Box::new(move |bench| layer.run(bench)))
        }
        ("lora", _) => {
            let (size, targets): ([usize; 3], Targets) = match (kernel.constant("VECTOR"), is("ALIGNED")) {
                (4, true) => ([9, 20, 44], &[&[(0, 20, 4, 0.5), (28, 16, 4, 1.5)]]),
                (4, false) => ([70, 12, 70], &[&[(0, 65, 4, 1.0), (65, 3, 4, 3.0), (68, 2, 4, 0.25)]]),
                _ => ([5, 7, 13], &[&[(2, 3, 3, 0.5)]]),
            };
            let x = if trains { Kind::Input } else { FROZEN };
            comparison(format!("{size:?}, {x:?}"), 1e-5, Box::new(move |bench| low_rank(bench, size, 0.0, x, targets)))
        }
        ("norm", entry) => {
            let (rms, hidden) = (is("RMS"), width(kernel.constant("VECTOR")));
            let (sum, weight) = (entry == "forward" && is("SUM"), if entry == "weight_gradient" { Kind::Weight } else { FROZEN });
            if entry == "backward" {
                return None;
            }
            let words = format!("RMS {rms}, sum {sum}, {hidden} wide, weight {weight:?}");
            comparison(words, 1e-5, Box::new(move |bench| norm(bench, rms, sum, hidden, weight)))
        }
        ("head_norm", entry) => {
            let size = if kernel.constant("VECTOR") == 4 { 64 } else { 34 };
            let weight = if entry == "weight_gradient" { Kind::Weight } else { FROZEN };
            comparison(format!("heads of {size}, weight {weight:?}"), 1e-5, Box::new(move |bench| head_norm(bench, size, weight)))
        }
        ("rope", _) => {
            let [size, rotary] = ["HEAD", "ROTARY"].map(|name| kernel.constant(name));
            let pairs = if is("ADJACENT") { RopePairs::Adjacent } else { RopePairs::Halves };
            comparison(format!("{rotary} of {size}, {pairs:?}"), 2e-6, Box::new(move |bench| rope(bench, size, rotary, pairs)))
        }
        ("elementwise", "activation") => {
            let kind = activation();
            let want = move |v: &[Vec<f64>]| v[0].iter().map(|&x| reference::activation(kind, x)).collect();
            let run = move |bench: &mut Bench| {
                bench.case("260", &[Array::input(&[260], &mut Random(1))], false, |g, t| ops::activation(g, t[0], kind), want)
            };
            comparison(kind.name().into(), 1e-5, Box::new(run))
        }
        ("elementwise", "dropout") => {
            let (columns, whole) = (width(kernel.constant("VECTOR")), is("WHOLE"));
            comparison(format!("dropout, whole {whole}, {columns} wide"), 1e-6, Box::new(move |bench| dropout(bench, columns, whole)))
        }
        ("elementwise", "add") => {
            let run = |bench: &mut Bench| {
                let mut random = Random(3);
                let arrays = [Array::input(&[260], &mut random), Array::input(&[260], &mut random)];
                bench.case("260", &arrays, false, |g, t| ops::add(g, t[0], t[1]), |v| v[0].iter().zip(&v[1]).map(|(x, y)| x + y).collect())
            };
            comparison("add".into(), 2e-6, Box::new(run))
        }
        ("gated", _) => {
            let (kind, inner) = (activation(), width(kernel.constant("VECTOR")));
            let run = move |bench: &mut Bench| {
                let x = Array::input(&[3, 2 * inner], &mut Random(12));
                bench.case("3 rows", &[x], false, |g, t| ops::gated(g, t[0], kind), |v| reference::gated(&v[0], inner, kind))
            };
            comparison(format!("{}, {inner} wide", kind.name()), 1e-5, Box::new(run))
        }
        ("fusion", _) => {
            let hidden = width(kernel.constant("VECTOR"));
            comparison(format!("{hidden} wide"), 1e-5, Box::new(move |bench| fusion(bench, hidden)))
        }
        ("identity", _) => {
            let run = |bench: &mut Bench| {
                let outcome = pull(bench.device, bench.traits, 9, bench.tolerance)?;
                bench.add(outcome);
                Ok(())
            };
            comparison(String::new(), 5e-6, Box::new(run))
        }
        ("halves", _) => {
            let width = width(kernel.constant("VECTOR"));
            comparison(format!("{width} wide"), 2e-6, Box::new(move |bench| halves(bench, width)))
        }
        ("scale", entry) => {
            let (learned, columns) = (entry == "product" || is("LEARNED"), width(kernel.constant("VECTOR")));
            comparison(format!("learned {learned}, {columns} wide"), 5e-6, Box::new(move |bench| scale(bench, learned, columns)))
        }
        ("embedding", entry) => {
            let (format, places, start) = (format_of(kernel), is("POSITIONS") || entry == "position_gradient", is("START"));
            let table = match entry {
                "forward" => Kind::Frozen(format.dtype()),
                _ => Kind::Weight,
            };
            let what = if places { "positions" } else { "tokens" };
            let words = format!("{what}, {table:?}, start {start}");
            comparison(
                words,
                2e-6,
                Box::new(move |bench| if places { positions(bench, table, start) } else { tokens(bench, format, table) }),
            )
        }
        ("loss", "slice") => {
            let head = format_of(before?);
            comparison(format!("after {}", head.name()), 2e-5, Box::new(move |bench| loss(bench, head)))
        }
        ("pointwise_loss", _) => {
            let kind = if is("LOGISTIC") { Pointwise::Logistic } else { Pointwise::SquaredError };
            comparison(format!("{kind:?}"), 1e-5, Box::new(move |bench| cases::pointwise(bench, 67, kind)))
        }
        ("pooling", _) => {
            let (hidden, pooling) = (width(kernel.constant("VECTOR")), Pooling::ALL[kernel.constant("POOLING") as usize]);
            comparison(format!("{pooling:?}, {hidden} wide"), 1e-6, Box::new(move |bench| cases::pooling(bench, hidden, pooling)))
        }
        ("optimizer", _) => {
            let run = |bench: &mut Bench| {
                let outcome = adam_steps(bench.device, bench.traits, &Adam::default(), 20_000, bench.tolerance)?;
                bench.add(outcome);
                Ok(())
            };
            comparison(String::new(), 5e-6, Box::new(run))
        }
        _ => None,
    }
}

/// A word that a kernel is specialised on, or nothing.
fn word(kernel: &Kernel, name: &str) -> &'static str {
    let words = kernel.constants.iter().filter(|(constant, _)| *constant == name);
    words.filter_map(|(_, value)| if let Constant::Word(word) = *value { Some(word) } else { None }).next().unwrap_or_default()
}

/// The format that a kernel reads its matrix in.
fn format_of(kernel: &Kernel) -> GgmlType {
    let format = word(kernel, "FORMAT");
    GgmlType::ALL.into_iter().find(|known| known.dtype().word() == format).unwrap_or(GgmlType::F32)
}
