//! Ops that are split into several dispatches because one would keep the device busy for too long: same bits, no more memory.

use graftling::gpu::{Memory, Program};
use graftling::graph::{DType, Graph, Parameters, Tensor, Traits};
use graftling::ops::{self, Activation, Adapter, Attention, Linear, LowRank, LowRankGroup, LowRankTarget};

use crate::harness::{Random, STEP, all_traits, device};

/// Records an op on inputs and weights.
type Op<'a> = &'a dyn Fn(&mut Graph, &[Tensor], &[Tensor]) -> Tensor;

/// A recording and what it computed.
struct Ran {
    dispatches: usize,
    planned_bytes: u64,
    /// The bits of the value, of the first input's gradient, and of all weights' gradients.
    bits: [Vec<u32>; 3],
}

fn run(traits: &Traits, inputs: &[&[usize]], weights: &[&[usize]], op: Op) -> Ran {
    let mut parameters = Parameters::default();
    let weights: Vec<_> = weights.iter().enumerate().map(|(i, &shape)| parameters.add(format!("w{i}"), shape, DType::F32, true)).collect();
    let mut g = Graph::new(traits, &parameters, true);
    let inputs: Vec<_> = inputs.iter().map(|&shape| g.input("x", shape, DType::F32)).collect();
    g.track(inputs[0]);
    let y = op(&mut g, &inputs, &weights);
    let dy = g.input("dy", g.shape(y).clone(), DType::F32);
    g.backward(y, dy);
    let dx = g.gradient(inputs[0]).expect("a gradient");
    let planned_bytes = g.plan().sizes.iter().sum();
    g.keep(y);
    g.keep(dx);

    let memory = Memory::new(device(), &parameters, true).expect("memory");
    let mut program = Program::with_canaries(device(), &memory, &g).expect("a program");
    let mut random = Random(41);
    for &tensor in inputs.iter().chain([&dy]) {
        program.write(device(), tensor, &random.values(g.shape(tensor).len() as usize));
    }
    for &weight in &weights {
        memory.write(device(), weight, bytemuck::cast_slice(&random.values(g.shape(weight).len() as usize)));
    }
    memory.set_step(device(), STEP);
    memory.clear(device());
    program.run(device()).expect("a run");
    assert_eq!(program.damaged_canary(device()).expect("a read"), None);
    let bits = |tensor| program.read(device(), &memory, tensor).expect("a read").iter().map(|v| v.to_bits()).collect();
    let gradients = memory.read(device(), memory.arenas().gradients).expect("gradients");
    let bits = [bits(y), bits(dx), bytemuck::pod_collect_to_vec(&gradients)];
    Ran { dispatches: g.line().len(), planned_bytes, bits }
}

/// Compares an op with the same op split into the smallest parts.
fn check(name: &str, inputs: &[&[usize]], weights: &[&[usize]], op: impl Fn(&mut Graph, &[Tensor], &[Tensor]) -> Tensor) {
    for traits in all_traits() {
        let name = format!("{name}, cpu {}, subgroup {:?}", traits.cpu, traits.subgroup);
        let whole = run(&traits, inputs, weights, &op);
        let split = run(&Traits { dispatch_operations: 1, ..traits }, inputs, weights, &op);
        assert!(split.dispatches >= whole.dispatches + 2, "{name}: {} dispatches, split {}", whole.dispatches, split.dispatches);
        assert!(split.planned_bytes <= whole.planned_bytes, "{name}: {} bytes, split {}", whole.planned_bytes, split.planned_bytes);
        for (i, what) in ["value", "gradient of the input", "gradients of the weights"].iter().enumerate() {
            assert!(split.bits[i] == whole.bits[i], "{name}: the {what} differs when split");
        }
    }
}

#[test]
fn products() {
    // Rows that end on a multiple of 256 bytes, and others; weight gradients in chunks of rows and, if there are many tiles, in one piece.
    for (rows, inputs, outputs) in [(300, 64, 128), (131, 33, 70), (130, 36, 68), (40, 256, 520)] {
        check(&format!("{rows}×{inputs}→{outputs}"), &[&[rows, inputs]], &[&[outputs, inputs], &[outputs]], |g, x, w| {
            ops::linear(g, x[0], &Linear::new(w[0], Some(w[1])))
        });
    }
    check("activated", &[&[2, 140, 64]], &[&[68, 64]], |g, x, w| {
        ops::linear_activated(g, x[0], &Linear::new(w[0], None), Activation::Gelu)
    });
    check("stacked", &[&[200, 64]], &[&[64, 64], &[20, 64], &[84]], |g, x, w| {
        ops::linear(g, x[0], &Linear::stacked(w[..2].to_vec(), Some(w[2])))
    });
}

/// The second product adds its gradient to that of the first.
#[test]
fn products_with_an_addend() {
    check("both of two", &[&[200, 64]], &[&[72, 64], &[72, 64]], |g, x, w| {
        let [a, b] = [w[0], w[1]].map(|w| ops::linear(g, x[0], &Linear::new(w, None)));
        ops::add(g, a, b)
    });
}

#[test]
fn low_rank_updates() {
    check("lora", &[&[200, 64]], &[&[72, 64], &[16, 64], &[72, 8]], |g, x, w| {
        let targets = [(0, 40), (40, 32)].map(|(column, outputs)| LowRankTarget { column, outputs, scaling: 2.0 }).to_vec();
        let groups = vec![LowRankGroup { b: w[2], targets }];
        ops::lora(g, x[0], &Linear::new(w[0], None), &LowRank { a: w[1], groups, dropout: 0.2 })
    });
}

#[test]
fn attention() {
    let form = Attention { heads: 4, key_value_heads: 2, head_size: 16, causal: true, dropout: 0.0 };
    check("attention", &[&[2, 71, 128], &[2]], &[], |g, x, _| ops::attention(g, x[0], x[1], form));
}

#[test]
fn adapters() {
    for biases in [false, true] {
        check("adapter", &[&[150, 64]], &[&[8, 64], &[64, 8], &[8], &[64]], |g, x, w| {
            let form = Adapter {
                down: w[0],
                up: w[1],
                biases: biases.then_some((w[2], w[3])),
                activation: Activation::Gelu,
                scaling: 2.0,
                dropout: 0.2,
            };
            ops::adapter(g, x[0], &form)
        });
    }
}
