use graftling::doctor::reference::dropout_factor as factor;
use graftling::graph::Graph;
use graftling::ops;

use crate::harness::{Array, Check, Random, all_traits};

#[test]
fn values_and_gradients() {
    for hidden in [11, 12] {
        let arrays = [Array::input(&[37, hidden], &mut Random(8))];
        let check = Check { name: "dropout", traits: &all_traits()[0], arrays: &arrays, tolerance: 1e-6, twice: false };
        let factor = |i: usize| factor((i / hidden) as u32, (i % hidden) as u32, 1, 0.3);
        check.run(|g, t| ops::dropout(g, t[0], 0.3), |v| v[0].iter().enumerate().map(|(i, x)| x * factor(i)).collect());
        // The residual's gradient is recorded first, and dropout's is added to it.
        check.run(
            |g, t| {
                let dropped = ops::dropout(g, t[0], 0.3);
                ops::add(g, dropped, t[0])
            },
            |v| v[0].iter().enumerate().map(|(i, x)| x * (1.0 + factor(i))).collect(),
        );
    }
}

/// One decision per sequence.
#[test]
fn stochastic_depth_leaves_out_whole_sequences() {
    for hidden in [5, 8] {
        let arrays = [Array::input(&[9, 3, hidden], &mut Random(9))];
        let check = Check { name: "stochastic depth", traits: &all_traits()[0], arrays: &arrays, tolerance: 1e-6, twice: false };
        check.run(
            |g, t| ops::stochastic_depth(g, t[0], 0.5),
            |v| v[0].iter().enumerate().map(|(i, x)| x * factor((i / (3 * hidden)) as u32, 0, 1, 0.5)).collect(),
        );
    }
}

#[test]
fn the_share_is_right_and_masks_differ() {
    let shares: Vec<f64> = (1..4)
        .map(|site| {
            let dropped = (0..20_000).filter(|i| factor(i / 100, i % 100, site, 0.1) == 0.0).count();
            dropped as f64 / 20_000.0
        })
        .collect();
    assert!(shares.iter().all(|s| (s - 0.1).abs() < 0.01), "{shares:?}");
    let both = (0..20_000).filter(|i| factor(i / 100, i % 100, 1, 0.1) == 0.0 && factor(i / 100, i % 100, 2, 0.1) == 0.0).count();
    assert!((both as f64 / 20_000.0 - 0.01).abs() < 0.004, "masks of two sites are not independent: {both} of 20000 dropped in both");
}

#[test]
fn outside_training_nothing_is_recorded() {
    let mut g = Graph::new(&all_traits()[0], &Default::default(), false);
    let x = g.input("x", [2, 4], graftling::graph::DType::F32);
    assert_eq!(ops::dropout(&mut g, x, 0.5), x);
    assert!(g.line().is_empty());
}
