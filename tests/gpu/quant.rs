//! Weights in GGUF's block formats, decoded in the kernels, against `GgmlType::decode` on the host.

use graftling::doctor::special::{Loss, head_loss};
use graftling::doctor::{random_blocks, reference, usual_scale};
use graftling::gpu::{Memory, Program};
use graftling::graph::{DType, Graph, Parameters, Traits};
use graftling::ops::{self, Linear};
use graftling::weights::{GgmlType, repack};

use crate::harness::{Array, Check, Random, all_traits, builds, expect_right, linear};

/// The block formats.
fn formats() -> impl Iterator<Item = GgmlType> {
    GgmlType::ALL.into_iter().filter(|format| format.block_len() > 1)
}

/// The f16 values where decoding could go wrong: zeros, subnormals, the smallest normal and the largest, of both signs.
const EDGES: [u16; 11] = [0, 0x8000, 1, 0x8001, 0x0200, 0x83ff, 0x0400, 0x8400, 0x3c00, 0x7bff, 0xfbff];

/// The rows of a table (vocabulary, hidden) for these tokens, as both builds of the kernel decode them.
fn gathered(dtype: DType, shape: [u32; 2], bytes: &[u8], tokens: &[u32], traits: &Traits) -> Vec<f32> {
    let mut parameters = Parameters::default();
    let table = parameters.add("table", shape, dtype, false);
    let mut g = Graph::new(traits, &parameters, false);
    let t = g.input("tokens", [1, tokens.len() as u32], DType::U32);
    let y = ops::embedding(&mut g, t, table, None);
    g.keep(y);
    let [checked, unchecked] = builds().map(|device| {
        let memory = Memory::new(device, &parameters, false).expect("memory");
        let mut program = Program::with_canaries(device, &memory, &g).expect("a program");
        memory.write(device, table, bytes);
        program.write(device, t, tokens);
        program.run(device).expect("a run");
        assert_eq!(program.damaged_canary(device).expect("a read"), None);
        program.read(device, &memory, y).expect("a read")
    });
    assert_same_bits("the kernels without bounds checks", &unchecked, &checked);
    checked
}

fn assert_same_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "{what}: element {i} is {got:e}, not {want:e}");
    }
}

#[test]
fn every_format_decodes_to_the_bits_of_the_host() {
    for format in formats() {
        let mut random = Random(17);
        let mut edges = EDGES.into_iter().cycle();
        // An odd number of blocks, so that groups of two span rows and the last group has only one.
        let (rows, per_row) = (11, 3);
        let file = random_blocks(format, rows * per_row, &mut random, |random| {
            if random.uniform() < 0.5 { edges.next().expect("a cycle") } else { usual_scale(random) }
        });
        let hidden = per_row * format.block_len();
        let mut want = vec![0.0; rows * hidden];
        format.decode(&file, &mut want);
        let tokens: Vec<u32> = (0..rows as u32).collect();
        let shape = [rows as u32, hidden as u32];
        let got = gathered(format.dtype(), shape, &repack(format, &file), &tokens, &all_traits()[0]);
        assert_same_bits(format.name(), &got, &want);
    }
}

#[test]
fn every_f16_decodes_to_its_bits() {
    let finite: Vec<u16> = (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00).collect();
    let want: Vec<f32> = finite.iter().map(|&bits| half::f16::from_bits(bits).to_f32()).collect();
    let hidden = 512;
    let rows = (finite.len() / hidden) as u32;
    let tokens: Vec<u32> = (0..rows).collect();
    let got = gathered(DType::F16, [rows, hidden as u32], bytemuck::cast_slice(&finite), &tokens, &all_traits()[0]);
    assert_same_bits("f16", &got, &want);
}

/// A table too large for one binding is split at group boundaries.
#[test]
fn large_tables() {
    for format in formats() {
        let rows = 261;
        let file = random_blocks(format, rows, &mut Random(18), usual_scale);
        let hidden = format.block_len();
        let mut values = vec![0.0; rows * hidden];
        format.decode(&file, &mut values);
        let tokens = [260, 0, 127, 128, 129, 255, 256];
        let traits = Traits { max_binding: format.dtype().bytes(128 * hidden as u64), ..all_traits()[0].clone() };
        let got = gathered(format.dtype(), [rows as u32, hidden as u32], &repack(format, &file), &tokens, &traits);
        // Each slice adds zeros to the rows of the others, which turns negative zeros positive.
        let want: Vec<f32> = tokens.iter().flat_map(|&t| values[t as usize * hidden..][..hidden].iter().map(|v| v + 0.0)).collect();
        assert_same_bits(format.name(), &got, &want);
    }
}

/// Products in the kernels of every kind of device, by vectors of four and by single elements, with full tiles of rows and a single row.
#[test]
fn products_and_input_gradients() {
    for traits in all_traits() {
        for (i, format) in formats().enumerate() {
            // Outputs that are not a multiple of four need the kernel for any size, which a CPU without subgroups uses anyway.
            let outputs = if traits.cpu && traits.subgroup.is_none() { 7 } else { 12 };
            let rows = [1, 33, 3, 5][i % 4];
            let inputs = [3, 1][i % 2] * format.block_len();
            let mut random = Random(19);
            let arrays = [Array::input(&[rows, inputs], &mut random), Array::blocks(format, &[outputs, inputs], &mut random)];
            let name = format!("linear with {}, {rows}×{inputs}→{outputs}, cpu {}", format, traits.cpu);
            let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 2e-6, twice: false };
            check.run(|g, t| ops::linear(g, t[0], &Linear::new(t[1], None)), |v| linear(&v[0], &v[1], None, inputs));
        }
    }
}

/// The loss of a quantised head in slices of the vocabulary, with the gradient of its input.
#[test]
fn cross_entropy_in_slices() {
    for format in [GgmlType::Q4_0, GgmlType::Q5K] {
        let (rows, vocabulary) = (3, 261);
        let hidden = format.block_len();
        let mut random = Random(20);
        let arrays = [Array::input(&[rows, hidden], &mut random), Array::blocks(format, &[vocabulary, hidden], &mut random)];
        let traits = Traits { max_binding: format.dtype().bytes(128 * hidden as u64), ..all_traits()[0].clone() };
        let targets = [260, 3, 130];
        let loss = Loss { name: format.name(), arrays: &arrays, targets: &targets, tolerance: [2e-6, 1e-5], half: false };
        for device in builds() {
            let want = |v: &[Vec<f64>]| reference::cross_entropy(&v[0], &v[1], None, hidden, &targets);
            expect_right(&loss.run(device, &traits, head_loss, want).expect("a working device"));
        }
    }
}
