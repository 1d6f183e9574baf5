use graftling::doctor::{families, reference};
use graftling::graph::{DType, Tensor, Traits};
use graftling::ops::{self, Linear, LowRank, LowRankGroup, LowRankTarget};

use crate::harness::{Array, Check, Kind, Random, all_traits, device};

/// The first column, the outputs, the rank and the factor of each target, by group.
type Targets = [&'static [(usize, usize, usize, f32)]];

fn check(traits: &Traits, [rows, inputs, outputs]: [usize; 3], dropout: f32, x: Kind, groups: &Targets) {
    let mut random = Random(21);
    let ranks: usize = groups.iter().flat_map(|targets| targets.iter().map(|target| target.2)).sum();
    let mut arrays = vec![
        Array::new(x, &[rows, inputs], &mut random),
        Array::new(Kind::Frozen(DType::F16), &[outputs, inputs], &mut random),
        Array::weight(&[ranks, inputs], &mut random),
    ];
    for targets in groups {
        arrays.push(Array::weight(&[targets.iter().map(|target| target.1).sum(), targets[0].2], &mut random));
    }
    let name = format!("lora {rows}×{inputs}→{outputs}, {groups:?}, dropout {dropout}, cpu {}", traits.cpu);
    let check = Check { name: &name, traits, arrays: &arrays, tolerance: 5e-6, twice: dropout == 0.0 };
    check.run(
        |g, t| {
            let target = |&(column, outputs, _, scaling): &(usize, usize, usize, f32)| LowRankTarget {
                column: column as u32,
                outputs: outputs as u32,
                scaling,
            };
            let groups = t[3..].iter().zip(groups).map(|(&b, targets)| LowRankGroup { b, targets: targets.iter().map(target).collect() });
            ops::lora(g, t[0], &Linear::new(t[1], None), &LowRank { a: t[2], groups: groups.collect(), dropout })
        },
        |v| reference::lora(v, inputs, groups, dropout),
    );
}

/// One matrix and some of several, of one rank and of several, with and without whole vectors of four, in one chunk of rows and in more.
#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        let check = |size, dropout, groups: &Targets| check(&traits, size, dropout, Kind::Input, groups);
        check([19, 32, 24], 0.0, &[&[(0, 24, 8, 2.0)]]);
        check([1, 32, 130], 0.0, &[&[(0, 130, 8, 2.0)]]);
        check([9, 20, 44], 0.25, &[&[(0, 20, 4, 0.5), (28, 16, 4, 1.5)]]);
        check([257, 12, 70], 0.0, &[&[(0, 65, 4, 1.0), (65, 3, 4, 3.0), (68, 2, 4, 0.25)]]);
        check([5, 7, 13], 0.5, &[&[(2, 3, 3, 0.5)], &[(5, 5, 1, 2.0), (11, 2, 1, 4.0)]]);
        check([6, 8, 40], 0.0, &[&[(0, 16, 12, 1.0)], &[(16, 24, 4, 2.0)]]);
        check([1, 1, 1], 0.0, &[&[(0, 1, 1, 1.0)]]);
    }
}

/// If nothing below needs a gradient, only A and B get theirs.
#[test]
fn above_frozen_layers() {
    for traits in all_traits() {
        check(&traits, [19, 32, 24], 0.0, Kind::Frozen(DType::F32), &[&[(0, 24, 8, 2.0)]]);
        check(&traits, [6, 8, 12], 0.25, Kind::Frozen(DType::F32), &[&[(4, 8, 4, 2.0)]]);
    }
}

/// B of zeros leaves the layer as it is, to the bit.
#[test]
fn zeros_change_nothing() {
    use graftling::gpu::{Memory, Program};
    use graftling::graph::{Graph, Parameters};
    for traits in all_traits() {
        let mut parameters = Parameters::default();
        let w = parameters.add("w", [20, 12], DType::F32, false);
        let a = parameters.add("a", [4, 12], DType::F32, true);
        let b = parameters.add("b", [20, 4], DType::F32, true);
        let memory = Memory::new(device(), &parameters, true).expect("memory");
        let mut random = Random(3);
        for (tensor, len) in [(w, 240), (a, 48)] {
            memory.write(device(), tensor, bytemuck::cast_slice(&random.values(len)));
        }
        let bits = |low_rank: bool| -> Vec<u32> {
            let mut g = Graph::new(&traits, &parameters, false);
            let x = g.input("x", [9, 12], DType::F32);
            let layer = Linear::new(w, None);
            let targets = vec![LowRankTarget { column: 0, outputs: 20, scaling: 2.0 }];
            let update = LowRank { a, groups: vec![LowRankGroup { b, targets }], dropout: 0.1 };
            let y: Tensor = if low_rank { ops::lora(&mut g, x, &layer, &update) } else { ops::linear(&mut g, x, &layer) };
            g.keep(y);
            let mut program = Program::new(device(), &memory, &g).expect("a program");
            program.write(device(), x, &Random(4).values(108));
            program.run(device()).expect("a run");
            program.read(device(), &memory, y).expect("a read").into_iter().map(f32::to_bits).collect()
        };
        assert_eq!(bits(true), bits(false));
    }
}

/// The doctor checks the family too.
#[test]
fn the_doctor_knows_it() {
    assert!(families(device().traits()).iter().any(|name| name == "lora"));
}
