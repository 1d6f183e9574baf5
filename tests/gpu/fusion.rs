use graftling::doctor::reference;
use graftling::graph::{Graph, Tensor};
use graftling::ops;

use crate::harness::{Array, Check, Random, all_traits};

/// The query, and the outputs of the adapters, which are keys and values too, so that their gradient has both contributions.
#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        for (rows, hidden, count) in [(1, 1, 1), (3, 257, 2), (257, 5, 3), (13, 64, 7)] {
            let mut random = Random(12);
            let arrays: Vec<_> = (0..=count).map(|_| Array::input(&[rows, hidden], &mut random)).collect();
            let record = |g: &mut Graph, t: &[Tensor]| {
                let outputs = ops::collected(g, &t[1..]);
                ops::fusion(g, t[0], outputs, outputs, 0.0)
            };
            let name = format!("fusion {rows}×{hidden} of {count}");
            let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-5, twice: true };
            check.run(record, |v| reference::fusion(&v[0], &v[1..], hidden));
        }
    }
}
