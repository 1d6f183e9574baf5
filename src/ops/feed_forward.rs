//! The feed-forward layer of a transformer block.

use super::matmul::{self, Epilogue};
use super::product::backward;
use super::{Activation, Linear, gated, linear, linear_activated};
use crate::graph::{Graph, Tensor};

/// The layers of a feed-forward network.
#[derive(Clone, Copy, Debug)]
pub struct FeedForward<'a> {
    /// (inner, hidden), or the gate above the up projection (2·inner, hidden).
    pub input: &'a Linear,
    /// (hidden, inner).
    pub output: &'a Linear,
    /// Applied to the input layer's result, or to the gate.
    pub activation: Activation,
    /// Whether there is a gate.
    pub gated: bool,
}

/// output(activate(input(x))), or output(activate(gate(x)) · up(x)), for x (…, hidden): (…, hidden). The result is f32 even where activations
/// are f16: massive activations enter the residual stream here (see [`gated`]).
///
/// Where the kernels allow it, the gate is applied before the input layer's result is stored, and the activation's derivative before the
/// output layer's gradient is.
pub fn feed_forward(g: &mut Graph, x: Tensor, layers: &FeedForward) -> Tensor {
    let rows = g.shape(x).rows();
    let fused = [layers.input, layers.output].iter().all(|layer| layer.weights.len() == 1 && matmul::pairs(g, rows, layer));
    if fused { self::fused(g, x, layers) } else { written_out(g, x, layers) }
}

fn written_out(g: &mut Graph, x: Tensor, layers: &FeedForward) -> Tensor {
    let &FeedForward { input, output, activation, gated: is_gated } = layers;
    let inner = if is_gated {
        let both = linear(g, x, input);
        gated(g, both, activation)
    } else {
        linear_activated(g, x, input, activation)
    };
    g.in_single(|g| linear(g, inner, output))
}

fn fused(g: &mut Graph, x: Tensor, layers: &FeedForward) -> Tensor {
    let &FeedForward { activation, gated, .. } = layers;
    let (input, output) = (layers.input.clone(), layers.output.clone());
    let epilogue = if gated { Epilogue::Gated { activation, keep: g.training() } } else { Epilogue::Activated(activation) };
    let width = input.outputs(g);
    let (inner, pre) = matmul::forward(g, x, &input, width, epilogue);
    let hidden = output.outputs(g);
    let (y, _) = g.in_single(|g| matmul::forward(g, inner, &output, hidden, Epilogue::Plain));
    let mut inputs = input.inputs(x);
    inputs.extend(output.inputs(x));
    g.on_backward(y, &inputs, move |g, dy| {
        matmul::layer_gradients(g, dy, inner, &output);
        let below = input.inputs(x).iter().any(|&t| g.needs_gradient(t));
        if below {
            let pre = pre.expect("training keeps what precedes the activation");
            let dpre = matmul::pre_gradient(g, dy, pre, &output, activation);
            backward(g, x, dpre, &input);
        }
    });
    y
}
