//! Descriptions of the kernels that a device uses, taken from recordings made for its traits, so that they match what runs.

use crate::graph::wgsl::Constant;
use crate::graph::{DType, Graph, Kernel, Parameters, Tensor, Traits};
use crate::ops::{self, Activation, Adapter, Attention, Linear, Norm, Rope, RopePairs};

/// The families whose kernels depend on the device, each with a description of the kernel that this device uses.
pub fn chosen_kernels(traits: &Traits) -> Vec<(&'static str, String)> {
    let attention = Attention { heads: 2, key_value_heads: 2, head_size: 64, causal: true, dropout: 0.0 };
    let product = |rows: usize, width: usize| {
        recorded(traits, &[&[rows, width], &[64, width]], move |g, t| {
            ops::linear(g, t[0], &Linear::new(t[1], None));
        })
    };
    vec![
        ("matmul, rows in multiples of 4", product(64, 64)),
        ("matmul, forward of one row", product(1, 64)),
        ("matmul, any size", product(64, 63)),
        (
            "attention",
            recorded(traits, &[&[1, 8, 384], &[1]], move |g, t| {
                ops::attention(g, t[0], t[1], attention);
            }),
        ),
        (
            "cached attention",
            recorded(traits, &[&[1, 1, 384], &[1]], move |g, t| {
                let caches = ["keys", "values"].map(|name| g.state(name, [2, 8, 64]));
                ops::cached_attention(g, t[0], caches[0], caches[1], t[1], attention);
            }),
        ),
        (
            "adapter",
            recorded(traits, &[&[64, 64], &[8, 64], &[64, 8]], |g, t| {
                let (activation, scaling, dropout) = (Activation::Relu, 1.0, 0.0);
                ops::adapter(g, t[0], &Adapter { down: t[1], up: t[2], biases: None, activation, scaling, dropout });
            }),
        ),
        (
            "norm, head_norm, loss",
            recorded(traits, &[&[64, 64], &[64]], |g, t| {
                ops::norm(g, t[0], &Norm { weight: t[1], bias: None, epsilon: 1e-5 });
            }),
        ),
        (
            "rope",
            recorded(traits, &[&[1, 8, 384], &[8, 64]], |g, t| {
                let form = Rope { heads: 2, key_value_heads: 2, head_size: 64, pairs: RopePairs::Halves, table: t[1] };
                ops::rope(g, t[0], None, &form);
            }),
        ),
    ]
}

/// Describes the last kernel that an op records on inputs of these shapes.
fn recorded(traits: &Traits, shapes: &[&[usize]], record: impl Fn(&mut Graph, &[Tensor])) -> String {
    let mut g = Graph::new(traits, &Parameters::default(), false);
    let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, &shape)| g.input(&format!("x{i}"), shape, DType::F32)).collect();
    record(&mut g, &inputs);
    in_words(&g.line().last().expect("an op records a kernel").kernel)
}

fn in_words(kernel: &Kernel) -> String {
    let constant = |name: &str| match kernel.constants.iter().find(|(n, _)| *n == name) {
        Some((_, Constant::Number(number))) => *number,
        _ => 0,
    };
    let row_threads = constant("ROW_THREADS");
    match kernel.file {
        "matmul_cpu" => {
            format!("matmul_cpu: register tiles, operands exchanged within subgroups of {}", constant("SUBGROUP"))
        }
        "matmul_gpu" => "matmul_gpu: tiles of 64² or 128² in workgroup memory, double-buffered".into(),
        "matmul_any" => "matmul_any: 4 × 4 outputs per invocation, scalar loads".into(),
        "matmul_row" if row_threads == 1 => "matmul_row: one invocation per output".into(),
        "matmul_row" => format!("matmul_row: {row_threads} invocations per output"),
        "attention_cpu" => format!("rows shared by {} lanes through broadcast", constant("SUBGROUP")),
        "attention" => "tiles of 32 × 32 scores, operands and weights staged in workgroup memory".into(),
        "cached_attention" => format!("{} invocations share the keys of a query", constant("WORKGROUP")),
        "adapter" => format!("fused: tiles of {} tokens, both products through workgroup memory", 4 * constant("OWN_TOKENS")),
        "elementwise" => "not fused: two products and a sum".into(),
        "norm" if row_threads == 1 => "one invocation per row".into(),
        "norm" => format!("{row_threads} invocations per row"),
        "rope" if constant("TAKES") == 1 => "one invocation per head".into(),
        "rope" => "one invocation per token, for all its heads".into(),
        file => file.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_the_table_has_its_words() {
        let gpu = Traits::minimal();
        let cpu = Traits { cpu: true, subgroup: Some(8), ..gpu.clone() };
        let plain = Traits { cpu: true, ..gpu.clone() };
        for (traits, words) in [
            (
                gpu,
                [
                    "matmul_gpu",
                    "32 invocations per output",
                    "matmul_any",
                    "workgroup memory",
                    "64 invocations",
                    "tiles of 16 tokens",
                    "32 invocations per row",
                    "one invocation per head",
                ],
            ),
            (
                cpu,
                [
                    "subgroups of 8",
                    "subgroups of 8",
                    "matmul_any",
                    "8 lanes through broadcast",
                    "32 invocations",
                    "not fused",
                    "one invocation per row",
                    "one invocation per token, for all its heads",
                ],
            ),
            (
                plain,
                [
                    "matmul_any",
                    "one invocation per output",
                    "matmul_any",
                    "workgroup memory",
                    "32 invocations",
                    "tiles of 16 tokens",
                    "one invocation per row",
                    "one invocation per token, for all its heads",
                ],
            ),
        ] {
            for ((family, text), words) in chosen_kernels(&traits).iter().zip(words) {
                assert!(text.contains(words), "{family}: '{text}' does not say '{words}'");
            }
        }
    }
}
