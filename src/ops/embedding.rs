//! Rows of a table: token and position embeddings.

use super::{fitting_rows, flat, slice_of_rows};
use crate::graph::{DType, Graph, Kernel, Tensor, read, update, write};

crate::params!(Params { rows: u32, columns: u32, length: u32, has_addend: u32, start: u32, count: u32, first: u32 });

/// The rows of `table` (vocabulary, hidden) for `tokens` (batch, length): (batch, length, hidden). `order`, needed if the table trains,
/// lists the indices of the flattened `tokens` in a stable sort by token, so that the table's gradient can be summed in a fixed order.
pub fn embedding(g: &mut Graph, tokens: Tensor, table: Tensor, order: Option<Tensor>) -> Tensor {
    let (rows, columns, entries) = (g.shape(tokens).len() as u32, g.shape(table).last(), g.shape(table).rows());
    let len = u64::from(rows) * u64::from(columns);
    let mut axes: Vec<usize> = g.shape(tokens).axes().iter().map(|&a| a as usize).collect();
    axes.push(columns as usize);
    let most = fitting_rows(g, table, u64::MAX);
    let slice = move |start: u32, has_addend: bool| {
        let count = most.min(entries - start);
        Params { rows, columns, length: 0, has_addend: has_addend as u32, start, count, first: 0 }
    };

    let mut before: Option<Tensor> = None;
    for start in (0..entries).step_by(most as usize) {
        let p = slice(start, before.is_some());
        let part = slice_of_rows(g, table, start, p.count);
        let y = g.single("embedding", axes.as_slice());
        let kernel = Kernel::new("embedding", "forward").with("FORMAT", g.info(table).dtype.word());
        g.dispatch(kernel, p, [read(tokens), read(part), read(before.unwrap_or(part)), write(y)], flat(len));
        g.moves(2 * len * 4); // one row of the table per token, not the whole table
        before = Some(y);
    }
    let y = before.expect("a table has a row");
    g.on_backward(y, &[table], move |g, dy| {
        let (Some(dtable), Some(order)) = (g.weight_gradient(table), order) else { panic!("a table that trains needs `order`") };
        for start in (0..entries).step_by(most as usize) {
            let p = slice(start, false);
            let part = slice_of_rows(g, dtable, start, p.count);
            let kernel = Kernel::new("embedding", "token_gradient").with("FORMAT", DType::F32.word());
            g.dispatch(kernel, p, [read(tokens), read(order), read(dy), update(part)], flat(len));
        }
    });
    y
}

/// x (batch, length, hidden) plus `length` rows of `table` (context, hidden) from the row `first` on, or from `first` + `start` (1) u32 on,
/// where a sequence continues its cache. Positions past the end of the table use its last row. A table trains only without `start`.
pub fn positions(g: &mut Graph, x: Tensor, table: Tensor, first: u32, start: Option<Tensor>) -> Tensor {
    let (rows, columns) = (g.shape(x).rows(), g.shape(x).last());
    let length = g.shape(x).axes()[1] as u32;
    let places = u64::from(first) + u64::from(length);
    assert!(places <= g.shape(table).rows().into(), "positions: x is {}, the table {}, from {first} on", g.shape(x), g.shape(table));
    let p = Params { rows, columns, length, has_addend: 1, start: 0, count: g.shape(table).rows(), first };
    let y = g.like("positions", x);
    let mut kernel = Kernel::new("embedding", "forward").with("FORMAT", g.info(table).dtype.word()).with("POSITIONS", true);
    let mut arguments = vec![read(table), read(x), write(y)];
    if let Some(start) = start {
        assert_eq!(g.shape(start).len(), 1, "positions takes one start, not {}", g.shape(start));
        kernel = kernel.with("START", true);
        arguments.insert(0, read(start));
    }
    let len = g.shape(x).len();
    g.dispatch(kernel, p, arguments, flat(len));
    g.moves(3 * len * 4);
    g.on_backward(y, &[x, table], move |g, dy| {
        if let Some(dtable) = g.weight_gradient(table) {
            assert!(start.is_none(), "a table of positions that trains takes no start");
            let kernel = Kernel::new("embedding", "position_gradient").with("FORMAT", DType::F32.word());
            g.dispatch(kernel, p, [read(dy), update(dtable)], flat(u64::from(length) * u64::from(columns)));
        }
        g.contribute(x, |g, before| super::sum(g, before, dy));
    });
    y
}
