use graftling::ops;

use crate::harness::{Array, Check, Random, device};

/// A constant factor.
#[test]
fn a_constant() {
    for hidden in [7, 8] {
        let arrays = [Array::input(&[5, hidden], &mut Random(12))];
        let check = Check { name: "multiply", traits: device().traits(), arrays: &arrays, tolerance: 1e-6, twice: true };
        check.run(|g, t| ops::multiply(g, t[0], 2.5), |v| v[0].iter().map(|x| 2.5 * x).collect());
    }
}

/// One factor for all elements, and one per column.
#[test]
fn values_and_gradients() {
    for (hidden, columns) in [(7, 1), (7, 7), (8, 1), (8, 8)] {
        let mut random = Random(11);
        let arrays = [Array::input(&[2, 150, hidden], &mut random), Array::weight(&[columns], &mut random)];
        let check = Check { name: "scale", traits: device().traits(), arrays: &arrays, tolerance: 2e-6, twice: true };
        check.run(|g, t| ops::scale(g, t[0], t[1]), |v| v[0].iter().enumerate().map(|(i, x)| x * v[1][i % columns]).collect());
    }
}
