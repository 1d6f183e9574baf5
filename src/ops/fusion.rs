//! Attention of each token over the outputs of few adapters: AdapterFusion (Pfeiffer et al. 2021, "AdapterFusion: Non-Destructive Task Composition
//! for Transfer Learning").

use super::{dropout, flat, row_threads, vector};
use crate::graph::{Graph, Kernel, Tensor, read, write};

crate::params!(Params { len: u32, rows: u32, columns: u32, count: u32, offset: u32, has_addend: u32 });

/// Tensors of one shape (…, hidden), one after the other: (count, …, hidden).
pub fn collected(g: &mut Graph, tensors: &[Tensor]) -> Tensor {
    let count = tensors.len() as u32;
    let shape = g.shape(tensors[0]).clone();
    assert!(tensors.iter().all(|&t| *g.shape(t) == shape), "collected: the tensors have different shapes");
    let y = g.activation("collected", [count, shape.rows(), shape.last()]);
    let form = Form::new(&shape, count);
    for (k, &x) in tensors.iter().enumerate() {
        g.dispatch(form.kernel("collect"), form.at(k), [read(x), write(y)], flat(form.len(1)));
    }
    let inputs = tensors.to_vec();
    g.on_backward(y, tensors, move |g, dy| {
        for (k, x) in inputs.into_iter().enumerate() {
            g.contribute(x, |g, before| {
                let dx = g.like("dx", x);
                let p = Params { has_addend: before.is_some() as u32, ..form.at(k) };
                // Without an addend, the first part stands in for it.
                g.dispatch(form.kernel("part"), p, [read(dy), read(before.unwrap_or(dy)), write(dx)], flat(form.len(1)));
                dx
            });
        }
    });
    y
}

/// Σ αₖ·valuesₖ with α = softmax over k of dropout(query · keysₖ), for each row of `query` (…, hidden); keys and values are (count, …, hidden).
/// Dropout sets scores to zero, as in the `adapters` library. The result is (…, hidden).
pub fn fusion(g: &mut Graph, query: Tensor, keys: Tensor, values: Tensor, share: f32) -> Tensor {
    let count = (g.shape(keys).len() / g.shape(query).len()) as u32;
    let fits = g.shape(keys) == g.shape(values) && g.shape(keys).len() == g.shape(query).len() * u64::from(count);
    assert!(fits, "fusion: the query is {}, the keys {}, the values {}", g.shape(query), g.shape(keys), g.shape(values));
    let form = Form::new(&g.shape(query).clone(), count);
    let scores = form.products(g, query, keys);
    g.on_backward(scores, &[query, keys], move |g, ds| {
        g.contribute(query, |g, before| form.mix(g, ds, keys, before, query));
        g.contribute(keys, |g, before| form.spread(g, ds, query, before, keys));
    });
    let dropped = dropout(g, scores, share);
    let weights = g.single("weights", [form.rows, count]);
    g.dispatch(form.kernel("softmax"), form.at(0), [read(dropped), write(weights)], flat(form.rows.into()));
    let y = form.mix(g, weights, values, None, query);
    g.on_backward(y, &[dropped, values], move |g, dy| {
        let dweights = form.products(g, dy, values);
        g.contribute(dropped, |g, before| {
            assert!(before.is_none(), "fusion: the scores have one use");
            let dscores = g.single("dscores", [form.rows, count]);
            g.dispatch(
                form.kernel("softmax_backward"),
                form.at(0),
                [read(weights), read(dweights), write(dscores)],
                flat(form.rows.into()),
            );
            dscores
        });
        g.contribute(values, |g, before| form.spread(g, weights, dy, before, values));
    });
    y
}

/// The shapes of a fusion.
#[derive(Clone, Copy)]
struct Form {
    rows: u32,
    /// In vectors, as all lengths.
    columns: u32,
    count: u32,
    vector: u32,
}

impl Form {
    fn new(shape: &crate::graph::Shape, count: u32) -> Form {
        let vector = vector(shape.last());
        Form { rows: shape.rows(), columns: shape.last() / vector, count, vector }
    }

    /// The length of `count` tensors.
    fn len(&self, count: u32) -> u64 {
        u64::from(self.rows) * u64::from(self.columns) * u64::from(count)
    }

    /// The parameters for the tensor number k.
    fn at(&self, k: usize) -> Params {
        let &Form { rows, columns, count, .. } = self;
        Params { len: self.len(1) as u32, rows, columns, count, offset: (self.len(1) * k as u64) as u32, has_addend: 0 }
    }

    fn kernel(&self, entry: &'static str) -> Kernel {
        Kernel::new("fusion", entry).with("VECTOR", self.vector)
    }

    /// (rows, count): x · othersₖ.
    fn products(&self, g: &mut Graph, x: Tensor, others: Tensor) -> Tensor {
        let y = g.single("products", [self.rows, self.count]);
        let kernel = self.kernel("scores").with("ROW_THREADS", row_threads(g.traits()));
        let groups = [self.rows.div_ceil(kernel.constant("WORKGROUP_ROWS")), 1, 1];
        g.dispatch(kernel, self.at(0), [read(x), read(others), write(y)], groups);
        y
    }

    /// Σ sharesₖ · othersₖ + before, like `like`.
    fn mix(&self, g: &mut Graph, shares: Tensor, others: Tensor, before: Option<Tensor>, like: Tensor) -> Tensor {
        let y = g.like("mixed", like);
        let p = Params { has_addend: before.is_some() as u32, ..self.at(0) };
        g.dispatch(self.kernel("mix"), p, [read(shares), read(others), read(before.unwrap_or(others)), write(y)], flat(self.len(1)));
        y
    }

    /// sharesₖ · x + before, like `like`.
    fn spread(&self, g: &mut Graph, shares: Tensor, x: Tensor, before: Option<Tensor>, like: Tensor) -> Tensor {
        let y = g.like("spread", like);
        let p = Params { len: self.len(self.count) as u32, has_addend: before.is_some() as u32, ..self.at(0) };
        g.dispatch(self.kernel("spread"), p, [read(shares), read(x), read(before.unwrap_or(x)), write(y)], flat(self.len(self.count)));
        y
    }
}
