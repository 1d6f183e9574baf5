//! The linear head and the cross-entropy over the vocabulary in one op, so that only one slice of the logits is in memory at a time.

use super::matmul::Epilogue;
use super::{Linear, SLICE_ROWS, matmul, row_threads, slice_of_rows};
use crate::graph::{Graph, Kernel, Tensor, read, update, write};

crate::params!(Params { rows: u32, width: u32, stride: u32, start: u32 });

/// The most bytes that the logits of one slice take, unless even [`SLICE_ROWS`] words take more. This keeps the memory of the loss from
/// growing with the vocabulary. A small batch has one slice, and nothing to recompute.
const SLICE_BYTES: u64 = 32 << 20;
/// The most words in one slice: llvmpipe leaves a loop after 65,535 iterations, and `matmul_any` runs one per word.
const SLICE_WORDS: u32 = 511 * SLICE_ROWS;

/// One slice of the vocabulary.
struct Slice {
    start: u32,
    width: u32,
    layer: Linear,
}

/// Adds target_weight · Σ cross-entropy(x·Wᵀ + b, target) to the loss of the step, over the tokens whose target is not the
/// shader's `IGNORED`.
/// x (…, hidden), targets (…), W (vocabulary, hidden). The result represents the loss: pass it to [`Graph::backward`] as both arguments.
pub fn cross_entropy(g: &mut Graph, x: Tensor, head: &Linear, targets: Tensor) -> Tensor {
    let &Linear { ref weights, bias, .. } = head;
    let [weight] = weights[..] else { panic!("cross_entropy takes a head of one matrix") };
    let (rows, vocabulary) = (g.shape(x).rows(), g.shape(weight).rows());
    assert_eq!(g.shape(targets).len(), u64::from(rows), "cross_entropy: x is {}, the targets {}", g.shape(x), g.shape(targets));
    let metrics = g.arenas().metrics;
    let threads = row_threads(g.traits());
    let slices = slices(g, rows, weight, bias);
    let kernel = move |entry| Kernel::new("loss", entry).with("ROW_THREADS", threads);
    let groups = [rows.div_ceil(kernel("slice").constant("WORKGROUP_ROWS")), 1, 1];

    let states = g.single("states", [rows, 3]);
    let mut last = None;
    for &Slice { start, width, ref layer } in &slices {
        let stride = width.next_multiple_of(4);
        let (logits, _) = g.in_single(|g| matmul::forward(g, x, layer, stride, Epilogue::Plain));
        let p = Params { rows, width, stride: stride / 4, start };
        let states = if start == 0 { write(states) } else { update(states) };
        g.dispatch(kernel("slice"), p, [read(targets), read(logits), states], groups);
        last = Some(logits);
    }
    let log_sum_exp = g.single("log_sum_exp", [rows]);
    let p = Params { rows, width: vocabulary, stride: vocabulary, start: 0 };
    g.dispatch(kernel("finish"), p, [read(targets), read(states), write(log_sum_exp), update(metrics)], [1, 1, 1]);

    g.on_backward(log_sum_exp, &head.inputs(x), move |g, _| {
        // The logits of the last slice are still in memory, so its backward comes first; the others are recomputed.
        for &Slice { start, width, ref layer } in slices.iter().rev() {
            let stride = width.next_multiple_of(4);
            let logits = last.take().unwrap_or_else(|| g.in_single(|g| matmul::forward(g, x, layer, stride, Epilogue::Plain).0));
            let p = Params { rows, width, stride: stride / 4, start };
            g.dispatch(kernel("backward"), p, [read(targets), read(log_sum_exp), update(logits), read(metrics)], groups);
            matmul::layer_gradients(g, logits, x, layer);
            g.contribute(x, |g, before| matmul::input_gradient(g, logits, x, layer, before));
        }
    });
    log_sum_exp
}

/// Cuts the head into slices whose logits fit. Their weights may not, but `matmul` splits a layer into parts.
fn slices(g: &mut Graph, rows: u32, whole: Tensor, bias: Option<Tensor>) -> Vec<Slice> {
    let vocabulary = g.shape(whole).rows();
    let logits = SLICE_BYTES.min(g.traits().max_binding) / (4 * u64::from(rows));
    let logits = (logits / u64::from(SLICE_ROWS)).max(1) as u32 * SLICE_ROWS;
    let most = logits.min(SLICE_WORDS);
    let starts = (0..vocabulary).step_by(most as usize);
    starts
        .map(|start| {
            let width = most.min(vocabulary - start);
            let weight = slice_of_rows(g, whole, start, width);
            let bias = bias.map(|b| slice_of_rows(g, b, start, width));
            Slice { start, width, layer: Linear::new(weight, bias) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{DType, Parameters, Traits};

    #[test]
    fn slices_hold_so_many_logits_and_words() {
        for (rows, vocabulary, want) in [
            (128, 49_152, vec![49_152]),
            (1024, 20_000, vec![8192, 8192, 3616]),
            (1, 151_936, vec![65_408, 65_408, 21_120]),
            (100_000, 300, vec![128, 128, 44]),
        ] {
            let mut parameters = Parameters::default();
            let weight = parameters.add("head", [vocabulary, 4], DType::F32, false);
            let mut g = Graph::new(&Traits::minimal(), &parameters, false);
            let widths: Vec<_> = slices(&mut g, rows, weight, None).iter().map(|s| s.width).collect();
            assert_eq!(widths, want, "{rows} rows, {vocabulary} words");
        }
    }
}
