use graftling::doctor::reference;
use graftling::ops::{self, Activation, Adapter};

use crate::harness::{Array, Check, Random, all_traits};

struct Form {
    rows: usize,
    hidden: usize,
    bottleneck: usize,
    biases: bool,
    scaling: f32,
    dropout: f32,
    activation: Activation,
}

fn check(form: &Form, trained_input: bool) {
    let Form { rows, hidden, bottleneck, biases, scaling, dropout, activation } = *form;
    for traits in all_traits() {
        let mut random = Random(9);
        let mut arrays = vec![
            Array::input(&[rows, hidden], &mut random),
            Array::weight(&[bottleneck, hidden], &mut random),
            Array::weight(&[hidden, bottleneck], &mut random),
            Array::weight(&[bottleneck], &mut random),
            Array::weight(&[hidden], &mut random),
        ];
        if !biases {
            arrays.truncate(3);
        }
        if !trained_input {
            arrays[0].kind = crate::harness::Kind::Frozen(graftling::graph::DType::F32);
        }
        // Otherwise the sums of a wide layer are so large that the activation acts as a step function.
        let shrink = |a: &mut Array, by: usize| a.values.iter_mut().for_each(|v| *v /= (by as f32).sqrt());
        shrink(&mut arrays[1], hidden);
        shrink(&mut arrays[2], bottleneck);
        let name =
            format!("adapter {rows}×{hidden}, r = {bottleneck}, dropout {dropout}, cpu {}, subgroup {:?}", traits.cpu, traits.subgroup);
        let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 5e-6, twice: dropout == 0.0 };
        check.run(
            |g, t| {
                let biases = biases.then(|| (t[3], t[4]));
                ops::adapter(g, t[0], &Adapter { down: t[1], up: t[2], biases, activation, scaling, dropout })
            },
            |v| reference::adapter(v, hidden, activation, scaling, dropout),
        );
    }
}

/// Few configurations, since a driver takes seconds to compile each width, activation and alignment; more sizes and biases cost nothing.
const NARROW: Form = Form { rows: 19, hidden: 32, bottleneck: 8, biases: true, scaling: 1.0, dropout: 0.0, activation: Activation::Gelu };
const DROPPING: Form = Form { rows: 3, hidden: 260, bottleneck: 68, scaling: 0.5, dropout: 0.25, activation: Activation::Relu, ..NARROW };

#[test]
fn values_and_gradients() {
    check(&NARROW, true);
    check(&Form { rows: 64, ..NARROW }, true); // only full workgroups
    check(&Form { rows: 33, hidden: 36, biases: false, ..NARROW }, true);
    check(&DROPPING, true);
    let unaligned = Form { rows: 5, hidden: 17, bottleneck: 3, scaling: 4.0, activation: Activation::Silu, ..NARROW };
    check(&unaligned, true);
    check(&Form { rows: 1, hidden: 1, bottleneck: 1, ..unaligned }, true);
    check(&Form { rows: 9, hidden: 8, bottleneck: 512, activation: Activation::Tanh, ..NARROW }, true);
    check(&Form { rows: 2, hidden: 8192, ..NARROW }, true);
    check(&Form { rows: 2, hidden: 257, bottleneck: 257, activation: Activation::LeakyRelu, ..NARROW }, true);
}

/// If nothing below needs a gradient, only the weights get theirs.
#[test]
fn above_frozen_layers() {
    check(&NARROW, false);
    check(&Form { rows: 19, ..DROPPING }, false);
}
