use graftling::doctor::reference;
use graftling::graph::{DType, Tensor};
use graftling::ops::{self, Activation, Norm};

use crate::harness::{Array, Check, Kind, Random, all_traits};

/// Large, so that omitting it shows.
const EPSILON: f32 = 0.03125;

fn sum(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}

/// Every variant at each size: x alone, the norm of a sum, and both the sum and its norm.
fn check(with_bias: bool) {
    let shapes = [(1, 4), (3, 257), (130, 12), (257, 8), (5, 1)];
    for traits in all_traits() {
        for (rows, hidden) in shapes {
            // A LayerNorm of one element returns its bias, and every other gradient is zero.
            if with_bias && hidden == 1 {
                continue;
            }
            let mut random = Random(6);
            let mut arrays = vec![
                Array::input(&[rows, hidden], &mut random),
                Array::input(&[rows, hidden], &mut random),
                Array::weight(&[hidden], &mut random),
            ];
            if with_bias {
                arrays.push(Array::weight(&[hidden], &mut random));
            }
            let layer = |t: &[Tensor]| Norm { weight: t[2], bias: t.get(3).copied(), epsilon: EPSILON };
            let normed = |s: &[f64], v: &[Vec<f64>]| reference::norm(s, &v[2], v.get(3).map(Vec::as_slice), EPSILON);
            let name = format!("norm {rows}×{hidden}, bias {with_bias}, cpu {}", traits.cpu);
            let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-5, twice: true };
            check.run(|g, t| ops::norm(g, t[0], &layer(t)), |v| normed(&v[0], v));
            check.run(|g, t| ops::add_norm(g, t[0], t[1], &layer(t)), |v| normed(&sum(&v[0], &v[1]), v));

            // The two results are used differently, so that swapped gradients would show.
            let name = format!("sum and {name}");
            let check = Check { name: &name, ..check };
            check.run(
                |g, t| {
                    let (s, n) = ops::residual_norm(g, t[0], t[1], &layer(t));
                    let s = ops::activation(g, s, Activation::Tanh);
                    ops::add(g, s, n)
                },
                |v| {
                    let s = sum(&v[0], &v[1]);
                    sum(&s.iter().map(|s| s.tanh()).collect::<Vec<_>>(), &normed(&s, v))
                },
            );
            // One feeds the next, as in pre-norm blocks.
            check.run(
                |g, t| {
                    let (s, n) = ops::residual_norm(g, t[0], t[1], &layer(t));
                    let (s, n) = ops::residual_norm(g, s, n, &layer(t));
                    ops::add(g, s, n)
                },
                |v| {
                    let s = sum(&v[0], &v[1]);
                    let s = sum(&s, &normed(&s, v));
                    sum(&s, &normed(&s, v))
                },
            );
        }
    }
}

#[test]
fn layer_norm() {
    check(true);
}

#[test]
fn rms_norm() {
    check(false);
}

/// Only the sum is used: its gradient passes through, and the weight's stays zero.
#[test]
fn the_sum_alone() {
    let mut random = Random(7);
    let arrays = [Array::input(&[3, 8], &mut random), Array::input(&[3, 8], &mut random), Array::weight(&[8], &mut random)];
    let check = Check { name: "the sum alone", traits: &all_traits()[0], arrays: &arrays, tolerance: 1e-6, twice: false };
    let layer = |t: &[Tensor]| Norm { weight: t[2], bias: None, epsilon: EPSILON };
    check.run(|g, t| ops::residual_norm(g, t[0], t[1], &layer(t)).0, |v| sum(&v[0], &v[1]));
}

/// With all weights frozen, or all but one, the backward pass works and leaves the frozen ones alone.
#[test]
fn frozen_weights() {
    for traits in all_traits() {
        for (weight, bias) in [(Kind::Frozen(DType::F32), Kind::Frozen(DType::F32)), (Kind::Frozen(DType::F32), Kind::Weight)] {
            let mut random = Random(8);
            let arrays =
                [Array::input(&[7, 12], &mut random), Array::new(weight, &[12], &mut random), Array::new(bias, &[12], &mut random)];
            let check = Check { name: "frozen weights", traits: &traits, arrays: &arrays, tolerance: 1e-5, twice: true };
            let layer = |t: &[Tensor]| Norm { weight: t[1], bias: Some(t[2]), epsilon: EPSILON };
            check.run(|g, t| ops::norm(g, t[0], &layer(t)), |v| reference::norm(&v[0], &v[1], Some(&v[2]), EPSILON));
        }
    }
}
