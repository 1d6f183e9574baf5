//! Weights in the block formats of GGUF, decoded in the kernels, against `GgmlType::decode` on the host.

use graftling::gpu::{Memory, Program};
use graftling::graph::{DType, Graph, Parameters, Traits};
use graftling::ops::{self, Linear};
use graftling::weights::{GgmlType, repack};

use crate::harness::{Array, Check, Kind, Random, STEP, all_traits, close, device, linear};

/// The block formats, and where the f16 scales of a block lie.
const FORMATS: [(GgmlType, &[usize]); 8] = [
    (GgmlType::Q4_0, &[0]),
    (GgmlType::Q4_1, &[0, 2]),
    (GgmlType::Q5_0, &[0]),
    (GgmlType::Q5_1, &[0, 2]),
    (GgmlType::Q8_0, &[0]),
    (GgmlType::Q4K, &[0, 2]),
    (GgmlType::Q5K, &[0, 2]),
    (GgmlType::Q6K, &[208]),
];

/// The f16 numbers at which decoding could go wrong: zeros, subnormal numbers, the least normal, and the largest, of both signs.
const EDGES: [u16; 11] = [0, 0x8000, 1, 0x8001, 0x0200, 0x83ff, 0x0400, 0x8400, 0x3c00, 0x7bff, 0xfbff];

/// Blocks of random bytes whose scales are what `scale` gives.
fn blocks(format: (GgmlType, &[usize]), count: usize, random: &mut Random, mut scale: impl FnMut(&mut Random) -> u16) -> Vec<u8> {
    let (format, scales) = format;
    let mut bytes: Vec<u8> = (0..count * format.block_bytes()).map(|_| random.below(256) as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for &at in scales {
            block[at..at + 2].copy_from_slice(&scale(random).to_le_bytes());
        }
    }
    bytes
}

/// A scale that makes values of a usual size.
fn usual(random: &mut Random) -> u16 {
    half::f16::from_f64((random.uniform() - 0.5) * 0.02).to_bits()
}

/// The rows of a table (vocabulary, hidden) for these tokens, as the device gives them.
fn gathered(dtype: DType, shape: [u32; 2], bytes: &[u8], tokens: &[u32], traits: &Traits) -> Vec<f32> {
    let mut parameters = Parameters::default();
    let table = parameters.add("table", shape, dtype, false);
    let mut g = Graph::new(traits, &parameters, false);
    let t = g.input("tokens", [1, tokens.len() as u32], DType::U32);
    let y = ops::embedding(&mut g, t, table, None);
    g.keep(y);
    let memory = Memory::new(device(), &parameters, false).expect("memory");
    let mut program = Program::with_canaries(device(), &memory, &g).expect("a program");
    memory.write(device(), table, bytes);
    program.write(device(), t, tokens);
    program.run(device()).expect("a run");
    program.read(device(), &memory, y).expect("a read")
}

fn assert_same_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "{what}: element {i} is {got:e}, not {want:e}");
    }
}

#[test]
fn every_format_decodes_to_the_bits_of_the_host() {
    for format in FORMATS {
        let mut random = Random(17);
        let mut edges = EDGES.into_iter().cycle();
        // An odd number of blocks, so that groups of two span rows and the last group has one.
        let (rows, per_row) = (11, 3);
        let file = blocks(format, rows * per_row, &mut random, |random| {
            if random.uniform() < 0.5 { edges.next().expect("a cycle") } else { usual(random) }
        });
        let format = format.0;
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

/// A table that does not fit one binding is cut where whole groups begin.
#[test]
fn large_tables() {
    for format in FORMATS {
        let rows = 261;
        let file = blocks(format, rows, &mut Random(18), usual);
        let format = format.0;
        let hidden = format.block_len();
        let mut values = vec![0.0; rows * hidden];
        format.decode(&file, &mut values);
        let tokens = [260, 0, 127, 128, 129, 255, 256];
        let traits = Traits { max_binding: format.dtype().bytes(128 * hidden as u64), ..all_traits()[0].clone() };
        let got = gathered(format.dtype(), [rows as u32, hidden as u32], &repack(format, &file), &tokens, &traits);
        // Each slice adds zeros to the rows of the others, after which no zero is negative.
        let want: Vec<f32> = tokens.iter().flat_map(|&t| values[t as usize * hidden..][..hidden].iter().map(|v| v + 0.0)).collect();
        assert_same_bits(format.name(), &got, &want);
    }
}
