//! Constant or learned factors, like those of He et al. 2021 after an adapter's branch.

use super::reduce::column_sum;
use super::{flat, vector};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(Params { len: u32, columns: u32, has_addend: u32, constant: f32 });

/// x · factor for x (…, hidden) and a factor (1) or (hidden).
pub fn scale(g: &mut Graph, x: Tensor, factor: Tensor) -> Tensor {
    let (len, columns) = (g.shape(x).len(), g.shape(factor).last());
    assert!(columns == 1 || columns == g.shape(x).last(), "scale: x is {}, the factor {}", g.shape(x), g.shape(factor));
    let vector = vector(columns);
    let kernel = move |entry| Kernel::new("scale", entry).with("VECTOR", vector);
    let groups = flat(len / u64::from(vector));
    let p = Params { len: (len / u64::from(vector)) as u32, columns: columns / vector, has_addend: 0, constant: 1.0 };
    let apply = move |g: &mut Graph, x: Tensor, addend: Option<Tensor>| {
        let y = g.like("scale", x);
        let p = Params { has_addend: addend.is_some() as u32, ..p };
        g.dispatch(kernel("scale"), p, [read(x), read(factor), read(addend.unwrap_or(x)), write(y)], groups);
        y
    };
    let y = apply(g, x, None);
    g.on_backward(y, &[x, factor], move |g, dy| {
        if let Some(dfactor) = g.weight_gradient(factor) {
            let product = g.single("product", [(len / u64::from(columns)) as u32, columns]);
            g.dispatch(kernel("product"), p, [read(x), read(dy), write(product)], groups);
            column_sum(g, product, dfactor);
        }
        g.contribute(x, |g, before| apply(g, dy, before));
    });
    y
}

/// x · factor.
pub fn multiply(g: &mut Graph, x: Tensor, factor: f32) -> Tensor {
    let apply = move |g: &mut Graph, x: Tensor, addend: Option<Tensor>| {
        let (y, vector) = (g.like("multiply", x), vector(g.shape(x).len()));
        let len = g.shape(x).len() / u64::from(vector);
        let kernel = Kernel::new("scale", "scale").with("VECTOR", vector).with("LEARNED", false);
        let p = Params { len: len as u32, columns: 1, has_addend: addend.is_some() as u32, constant: factor };
        g.dispatch(kernel, p, [read(x), read(addend.unwrap_or(x)), write(y)], flat(len));
        y
    };
    let y = apply(g, x, None);
    g.on_backward(y, &[x], move |g, dy| g.contribute(x, |g, before| apply(g, dy, before)));
    y
}
