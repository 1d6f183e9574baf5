use graftling::doctor::reference;
use graftling::doctor::special::{Loss, head_loss};
use graftling::gpu::{Memory, Program};
use graftling::graph::{DType, Graph, Kernel, Parameters, Traits};
use graftling::ops::{self, Linear};
use graftling::text::IGNORED;

use crate::harness::{Array, Random, STEP, all_traits, builds, expect_right};

fn check(traits: &Traits, rows: usize, hidden: usize, vocabulary: usize, max_binding: Option<u64>) {
    let name = format!("cross-entropy {rows}×{hidden}, vocabulary of {vocabulary}, bindings of {max_binding:?} bytes, cpu {}", traits.cpu);
    let traits = Traits { max_binding: max_binding.unwrap_or(traits.max_binding), ..traits.clone() };
    let mut random = Random(14);
    let arrays = [
        Array::input(&[rows, hidden], &mut random),
        Array::weight(&[vocabulary, hidden], &mut random),
        Array::weight(&[vocabulary], &mut random),
    ];
    let mut targets: Vec<u32> = (0..rows).map(|_| random.below(vocabulary as u32)).collect();
    targets[rows / 2] = IGNORED;
    targets[0] = vocabulary as u32 - 1;
    if rows > 1 {
        targets[1] = vocabulary as u32 / 2; // in the middle one of three slices
    }
    let loss = Loss { name: &name, arrays: &arrays, targets: &targets, tolerance: [2e-6, 1e-5], half: false };
    for device in builds() {
        let want = |v: &[Vec<f64>]| reference::cross_entropy(&v[0], &v[1], Some(&v[2]), hidden, &targets);
        expect_right(&loss.run(device, &traits, head_loss, want).expect("a working device"));
    }
}

/// Batches and the shader mark ignored targets with the same value.
#[test]
fn the_ignored_target_has_one_number() {
    assert_eq!(Kernel::new("loss", "slice").constant("IGNORED"), IGNORED);
}

#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        check(&traits, 7, 8, 67, None);
        check(&traits, 70, 5, 10, None);
        // Bindings small enough for three slices of 128 tokens of the vocabulary, and for two whose weights are in two parts or one.
        check(&traits, 13, 12, 259, Some(128 * 13 * 4));
        check(&traits, 5, 12, 259, Some(128 * 12 * 4));
        check(&traits, 4, 4, 256, Some(128 * 4 * 4));
    }
}

/// Logits that are far apart must not overflow, whichever lane and slice has the largest.
#[test]
fn large_logits() {
    for traits in all_traits() {
        let parameters = Parameters::default();
        let traits = Traits { max_binding: 128 * 4 * 4, ..traits };
        let mut g = Graph::new(&traits, &parameters, true);
        let x = g.input("x", [4, 4], DType::F32);
        let weight = g.input("weight", [256, 4], DType::F32);
        let t = g.input("targets", [4], DType::U32);
        ops::cross_entropy(&mut g, x, &Linear::new(weight, None), t);
        for device in builds() {
            let memory = Memory::new(device, &parameters, true).expect("memory");
            let mut program = Program::new(device, &memory, &g).expect("a program");
            program.write(device, x, [[100.0f32, 0.0, 0.0, 0.0]; 4].as_flattened());
            for largest in [0, 1, 2, 31, 140] {
                let lowest = largest + 1;
                let rows: Vec<[f32; 4]> = (0..256)
                    .map(|word| match word {
                        _ if word == largest => [10.0, 0.0, 0.0, 1.0],
                        _ if word == lowest => [-10.0, 0.0, 0.0, 1.0],
                        _ => [0.1, 0.0, 0.0, 1.0],
                    })
                    .collect();
                program.write(device, weight, rows.as_flattened());
                program.write(device, t, &[lowest as u32; 4]);
                memory.clear(device);
                memory.set_step(device, STEP);
                program.run(device).expect("a run");
                let loss = memory.read(device, memory.arenas().metrics).expect("metrics");
                assert_eq!(bytemuck::pod_read_unaligned::<f32>(&loss[..4]), 4.0 * 2000.0 * STEP.target_weight);
            }
        }
    }
}
