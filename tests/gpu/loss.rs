use graftling::gpu::{Memory, Program};
use graftling::graph::{DType, Graph, Parameters, Traits};
use graftling::ops::{self, IGNORED, Linear};

use crate::harness::{Random, STEP, all_traits, close, device, linear};

/// loss_scale · Σ (log Σ exp - target), with its gradients, in f64.
fn reference(x: &[f64], w: &[f64], b: &[f64], hidden: usize, targets: &[u32]) -> f64 {
    let vocabulary = b.len();
    let logits = linear(x, w, Some(b), hidden);
    let rows = logits.chunks(vocabulary).zip(targets).filter(|(_, t)| **t != IGNORED);
    let loss = rows.map(|(row, &t)| {
        let largest = row.iter().fold(f64::MIN, |m, &v| m.max(v));
        row.iter().map(|v| (v - largest).exp()).sum::<f64>().ln() + largest - row[t as usize]
    });
    loss.sum::<f64>() * f64::from(STEP.loss_scale)
}

fn check(traits: &Traits, rows: usize, hidden: usize, vocabulary: usize, max_binding: Option<u64>) {
    let name = format!("cross-entropy {rows}×{hidden}, {vocabulary} words, bindings of {max_binding:?} bytes, cpu {}", traits.cpu);
    let traits = Traits { max_binding: max_binding.unwrap_or(traits.max_binding), ..traits.clone() };
    let mut random = Random(14);
    let values = [random.values(rows * hidden), random.values(vocabulary * hidden), random.values(vocabulary)];
    let mut targets: Vec<u32> = (0..rows).map(|_| random.below(vocabulary as u32)).collect();
    targets[rows / 2] = IGNORED;
    targets[0] = vocabulary as u32 - 1;
    if rows > 1 {
        targets[1] = vocabulary as u32 / 2; // of three slices, in the middle one
    }

    let mut parameters = Parameters::default();
    let weight = parameters.add("weight", [vocabulary as u32, hidden as u32], DType::F32, true);
    let bias = parameters.add("bias", [vocabulary as u32], DType::F32, true);
    let mut g = Graph::new(&traits, &parameters, true);
    let x = g.input("x", [rows as u32, hidden as u32], DType::F32);
    g.track(x);
    let t = g.input("targets", [rows as u32], DType::U32);
    let loss = ops::cross_entropy(&mut g, x, &Linear::new(weight, Some(bias)), t);
    g.backward(loss, loss);
    let dx = g.gradient(x).expect("x is tracked");
    g.keep(dx);

    let device = device();
    let memory = Memory::new(device, &parameters, true).expect("memory");
    let mut program = Program::with_canaries(device, &memory, &g).expect("a program");
    program.write(device, x, &values[0]);
    program.write(device, t, &targets);
    memory.write(device, weight, bytemuck::cast_slice(&values[1]));
    memory.write(device, bias, bytemuck::cast_slice(&values[2]));
    memory.set_step(device, STEP);
    let mut run = || {
        memory.clear(device);
        program.run(device).expect("a run");
        let loss = memory.read(device, memory.arenas().metrics).expect("metrics");
        let arena = memory.read(device, memory.arenas().gradients).expect("gradients");
        (
            bytemuck::pod_read_unaligned::<f32>(&loss[..4]),
            program.read(device, &memory, dx).expect("dx"),
            bytemuck::pod_collect_to_vec::<u8, f32>(&arena),
        )
    };
    let (loss, dx, arena) = run();
    assert_eq!((loss, dx.clone(), arena.clone()), run(), "{name}: a second run differs");
    assert_eq!(program.damaged_canary(device).expect("a read"), None, "{name}");

    let exact: Vec<Vec<f64>> = values.iter().map(|v| v.iter().map(|&x| f64::from(x)).collect()).collect();
    let at = |v: &[Vec<f64>]| reference(&v[0], &v[1], &v[2], hidden, &targets);
    close(&name, &[loss], &[at(&exact)], 2e-6);
    let offset = parameters[bias].arena_offset.expect("the bias trains") as usize;
    let gradients = [&dx[..], &arena[..vocabulary * hidden], &arena[offset..offset + vocabulary]];
    for (i, gradient) in gradients.into_iter().enumerate() {
        let mut random = Random(15);
        let chosen: Vec<usize> = (0..30).map(|_| random.below(gradient.len() as u32) as usize).collect();
        let want: Vec<f64> = chosen
            .iter()
            .map(|&j| {
                let moved = |h: f64| {
                    let mut v = exact.clone();
                    v[i][j] += h;
                    at(&v)
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            })
            .collect();
        let got: Vec<f32> = chosen.iter().map(|&j| gradient[j]).collect();
        close(&format!("{name}: gradient of argument {i}"), &got, &want, 1e-5);
    }
}

#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        check(&traits, 7, 8, 67, None);
        check(&traits, 70, 5, 10, None);
        // Bindings so small that the vocabulary passes in three slices of 128, and in two.
        check(&traits, 5, 12, 259, Some(128 * 12 * 4));
        check(&traits, 1, 4, 256, Some(128 * 4 * 4));
    }
}

/// Logits far apart must not overflow, whichever lane and slice has the largest.
#[test]
fn large_logits() {
    for traits in all_traits() {
        let parameters = Parameters::default();
        let traits = Traits { max_binding: 128 * 4 * 4, ..traits };
        let mut g = Graph::new(&traits, &parameters, true);
        let x = g.input("x", [1, 4], DType::F32);
        let weight = g.input("weight", [256, 4], DType::F32);
        let t = g.input("targets", [1], DType::U32);
        ops::cross_entropy(&mut g, x, &Linear::new(weight, None), t);
        let memory = Memory::new(device(), &parameters, true).expect("memory");
        let mut program = Program::new(device(), &memory, &g).expect("a program");
        program.write(device(), x, &[100.0f32, 0.0, 0.0, 0.0]);
        for largest in [0, 1, 2, 31, 140] {
            let lowest = largest + 1;
            let rows: Vec<[f32; 4]> = (0..256)
                .map(|word| match word {
                    _ if word == largest => [10.0, 0.0, 0.0, 1.0],
                    _ if word == lowest => [-10.0, 0.0, 0.0, 1.0],
                    _ => [0.1, 0.0, 0.0, 1.0],
                })
                .collect();
            program.write(device(), weight, rows.as_flattened());
            program.write(device(), t, &[lowest as u32]);
            memory.clear(device());
            memory.set_step(device(), STEP);
            program.run(device()).expect("a run");
            let loss = memory.read(device(), memory.arenas().metrics).expect("metrics");
            assert_eq!(bytemuck::pod_read_unaligned::<f32>(&loss[..4]), 2000.0 * STEP.loss_scale);
        }
    }
}
