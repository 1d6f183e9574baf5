//! Elementwise activations.

use super::{flat, sum, vector};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(pub(super) Params { len: u32, columns: u32, threshold: u32, scale: f32, site: u32, has_addend: u32 });

/// An elementwise kernel over `len` elements that needs no other parameters, with its `Params` and workgroups.
pub(super) fn elementwise(entry: &'static str, len: u64) -> (Kernel, impl crate::graph::Params, [u32; 3]) {
    let vector = vector(len);
    let len = len / u64::from(vector);
    let p = Params { len: len as u32, columns: 1, threshold: 0, scale: 1.0, site: 0, has_addend: 0 };
    (Kernel::new("elementwise", entry).with("VECTOR", vector), p, flat(len))
}

/// A non-linearity, named as in the `transformers` and `adapters` libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// max(x, 0)
    Relu,
    /// x·Φ(x), with erf
    Gelu,
    /// The tanh approximation of GELU
    GeluNew,
    /// The same approximation under its other name
    GeluFast,
    /// x·sigmoid(1.702 x)
    QuickGelu,
    /// x·sigmoid(x), also called swish
    Silu,
    /// x, or 0.01 x below zero
    LeakyRelu,
    /// x·tanh(softplus(x))
    Mish,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// tanh(x)
    Tanh,
    /// x
    Linear,
}

impl Activation {
    /// Every activation with its name in files, in the order of the numbers in `shaders/shared/activation.wgsl`.
    pub const ALL: [(Activation, &'static str); 11] = [
        (Activation::Relu, "relu"),
        (Activation::Gelu, "gelu"),
        (Activation::GeluNew, "gelu_new"),
        (Activation::GeluFast, "gelu_fast"),
        (Activation::QuickGelu, "quick_gelu"),
        (Activation::Silu, "silu"),
        (Activation::LeakyRelu, "leakyrelu"),
        (Activation::Mish, "mish"),
        (Activation::Sigmoid, "sigmoid"),
        (Activation::Tanh, "tanh"),
        (Activation::Linear, "linear"),
    ];

    /// The activation of that name; `swish` is another name for `silu`.
    pub fn from_name(name: &str) -> Option<Activation> {
        let name = if name == "swish" { "silu" } else { name };
        Activation::ALL.iter().find(|(_, n)| *n == name).map(|(a, _)| *a)
    }

    /// Its name in files.
    pub fn name(self) -> &'static str {
        Activation::ALL[self.number() as usize].1
    }

    /// Its number in `shaders/shared/activation.wgsl`.
    pub(super) fn number(self) -> u32 {
        self as u32
    }
}

/// `activate(x)`, of any shape.
pub fn activation(g: &mut Graph, x: Tensor, kind: Activation) -> Tensor {
    let y = activation_forward(g, x, kind);
    g.on_backward(y, &[x], move |g, dy| {
        g.contribute(x, |g, before| {
            let dx = activation_backward(g, x, dy, kind);
            sum(g, before, dx)
        })
    });
    y
}

/// Records the forward kernel alone.
pub(super) fn activation_forward(g: &mut Graph, x: Tensor, kind: Activation) -> Tensor {
    let y = g.like(kind.name(), x);
    let (kernel, p, groups) = elementwise("activation", g.shape(x).len());
    g.dispatch(kernel.with("ACTIVATION", kind.number()), p, [read(x), write(y)], groups);
    y
}

/// Records `dy · activate'(x)`.
pub(super) fn activation_backward(g: &mut Graph, x: Tensor, dy: Tensor, kind: Activation) -> Tensor {
    let dx = g.like("dx", x);
    let (kernel, p, groups) = elementwise("activation_backward", g.shape(x).len());
    g.dispatch(kernel.with("ACTIVATION", kind.number()), p, [read(x), read(dy), write(dx)], groups);
    dx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        for (i, (kind, name)) in Activation::ALL.iter().enumerate() {
            assert_eq!(kind.number() as usize, i);
            assert_eq!(Activation::from_name(name), Some(*kind));
        }
        assert_eq!(Activation::from_name("swish"), Some(Activation::Silu));
    }
}
