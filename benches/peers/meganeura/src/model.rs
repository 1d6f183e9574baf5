//! SmolLM2 with `double_seq_bn` adapters, on one sequence. Everything but the adapters is frozen: it passes through `stop_gradient`, so that
//! Meganeura gives it neither gradients nor optimizer state.

use meganeura::models::smollm2::SmolLM2Config;
use meganeura::{Graph, NodeId};

/// The forward pass and its loss. Inputs: "token_ids" [length] and "labels" [length, vocabulary].
pub fn training_graph(config: &SmolLM2Config, length: usize, bottleneck: usize) -> Graph {
    let mut g = Graph::new();
    let (hidden, kv, inner) = (config.hidden_size, config.kv_dim(), config.intermediate_size);
    let (heads, kv_heads, head) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim());
    let tokens = g.input_u32("token_ids", &[length]);
    let embedding = frozen(&mut g, "embedding.weight", &[config.vocab_size, hidden]);
    let mut x = g.embedding(tokens, embedding);
    for i in 0..config.num_hidden_layers {
        let normed = norm(&mut g, x, &format!("{i}.attention_norm"), config);
        let [q, k, v] = [("query", hidden), ("key", kv), ("value", kv)]
            .map(|(name, width)| product(&mut g, normed, &format!("{i}.{name}.weight"), [hidden, width]));
        let q = g.rope(q, config.rope_theta, head);
        let k = g.rope(k, config.rope_theta, head);
        let attended = g.causal_attention(q, k, v, heads, kv_heads, head);
        let attended = product(&mut g, attended, &format!("{i}.output.weight"), [hidden, hidden]);
        let attended = adapter(&mut g, attended, &format!("{i}.attention_adapter"), [hidden, bottleneck]);
        x = g.add(x, attended);

        let normed = norm(&mut g, x, &format!("{i}.feed_forward_norm"), config);
        let gate = product(&mut g, normed, &format!("{i}.gate.weight"), [hidden, inner]);
        let up = product(&mut g, normed, &format!("{i}.up.weight"), [hidden, inner]);
        let fed = g.swiglu(gate, up);
        let fed = product(&mut g, fed, &format!("{i}.down.weight"), [inner, hidden]);
        let fed = adapter(&mut g, fed, &format!("{i}.output_adapter"), [hidden, bottleneck]);
        x = g.add(x, fed);
    }
    let x = norm(&mut g, x, "norm", config);
    let logits = g.matmul_bt(x, embedding); // the tied head
    let labels = g.input("labels", &[length, config.vocab_size]);
    let loss = g.cross_entropy_loss(logits, labels);
    g.set_outputs(vec![loss]);
    g
}

/// The bottleneck: x + up(swish(down(x))).
fn adapter(g: &mut Graph, x: NodeId, name: &str, [hidden, bottleneck]: [usize; 2]) -> NodeId {
    let down = g.parameter(&format!("{name}.down.weight"), &[hidden, bottleneck]);
    let down_bias = g.parameter(&format!("{name}.down.bias"), &[bottleneck]);
    let up = g.parameter(&format!("{name}.up.weight"), &[bottleneck, hidden]);
    let up_bias = g.parameter(&format!("{name}.up.bias"), &[hidden]);
    let inner = g.matmul(x, down);
    let inner = g.bias_add(inner, down_bias);
    let inner = g.silu(inner);
    let outer = g.matmul(inner, up);
    let outer = g.bias_add(outer, up_bias);
    g.add(x, outer)
}

fn product(g: &mut Graph, x: NodeId, name: &str, shape: [usize; 2]) -> NodeId {
    let weight = frozen(g, name, &shape);
    g.matmul(x, weight)
}

fn norm(g: &mut Graph, x: NodeId, name: &str, config: &SmolLM2Config) -> NodeId {
    let weight = frozen(g, name, &[config.hidden_size]);
    g.rms_norm(x, weight, config.rms_norm_eps)
}

fn frozen(g: &mut Graph, name: &str, shape: &[usize]) -> NodeId {
    let weight = g.parameter(name, shape);
    g.stop_gradient(weight)
}
