//! Rows of a table: token and position embeddings.

use super::flat;
use crate::graph::{DType, Graph, Kernel, Tensor, read, update, write};

crate::params!(Params { rows: u32, columns: u32, length: u32, has_addend: u32 });

/// The rows of `table` (vocabulary, hidden) for `tokens` (batch, length): (batch, length, hidden). `order`, needed where the table trains, lists
/// the places of the flattened `tokens` sorted by token, equal ones in their order, so that its gradient can be summed in a fixed order.
pub fn embedding(g: &mut Graph, tokens: Tensor, table: Tensor, order: Option<Tensor>) -> Tensor {
    let p = Params { rows: g.shape(tokens).len() as u32, columns: g.shape(table).last(), length: g.shape(tokens).last(), has_addend: 0 };
    let len = u64::from(p.rows) * u64::from(p.columns);
    let mut axes: Vec<usize> = g.shape(tokens).axes().iter().map(|&a| a as usize).collect();
    axes.push(p.columns as usize);
    let y = g.activation("embedding", axes.as_slice());
    let kernel = Kernel::new("embedding", "forward").with("FORMAT", g.info(table).dtype.word());
    g.dispatch(kernel, p, [read(tokens), read(table), read(table), write(y)], flat(len));
    g.on_backward(y, &[table], move |g, dy| {
        let (Some(dtable), Some(order)) = (g.weight_gradient(table), order) else { panic!("a table that trains needs `order`") };
        let kernel = Kernel::new("embedding", "token_gradient").with("FORMAT", DType::F32.word());
        let arguments = [read(tokens), read(order), read(dy), update(dtable)];
        g.dispatch(kernel, p, arguments, flat(len));
    });
    y
}

/// x (batch, length, hidden) plus the first `length` rows of `table` (context, hidden).
pub fn positions(g: &mut Graph, x: Tensor, table: Tensor) -> Tensor {
    let (rows, columns) = (g.shape(x).rows(), g.shape(x).last());
    let length = g.shape(x).axes()[1] as u32;
    assert!(length <= g.shape(table).rows(), "positions: x is {}, the table {}", g.shape(x), g.shape(table));
    let p = Params { rows, columns, length, has_addend: 1 };
    let y = g.like("positions", x);
    let kernel = Kernel::new("embedding", "forward").with("FORMAT", g.info(table).dtype.word()).with("POSITIONS", true);
    g.dispatch(kernel, p, [read(table), read(x), write(y)], flat(g.shape(x).len()));
    g.on_backward(y, &[x, table], move |g, dy| {
        if let Some(dtable) = g.weight_gradient(table) {
            let kernel = Kernel::new("embedding", "position_gradient").with("FORMAT", DType::F32.word());
            g.dispatch(kernel, p, [read(dy), update(dtable)], flat(u64::from(length) * u64::from(columns)));
        }
        g.contribute(x, |g, before| super::sum(g, before, dy));
    });
    y
}
