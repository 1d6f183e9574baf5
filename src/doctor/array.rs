//! The arguments of an op under test: random values in some format.

use crate::graph::DType;
use crate::random::{share, split_mix};
use crate::weights::{GgmlType, Weight, repack};

/// A counter-based random number generator, with the same values in every run.
pub struct Random(pub u64);

impl Random {
    /// A value uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        share(split_mix(&mut self.0))
    }

    /// `len` values uniform in [-1, 1), as f32.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.uniform() * 2.0 - 1.0) as f32).collect()
    }

    /// A whole number below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        (self.uniform() * f64::from(end)) as u32
    }
}

/// The role of an array in the recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// An input activation that needs a gradient.
    Input,
    /// A weight that trains.
    Weight,
    /// A frozen weight in this format. For a block format, `values` are the words on the device.
    Frozen(DType),
}

/// One argument of an op under test.
#[derive(Clone, Debug)]
pub struct Array {
    /// The extents, the contiguous axis last.
    pub shape: Vec<usize>,
    /// Its role in the recording.
    pub kind: Kind,
    /// The values before conversion to the format.
    pub values: Vec<f32>,
}

impl Array {
    /// An array of random values in [-1, 1).
    pub fn new(kind: Kind, shape: &[usize], random: &mut Random) -> Array {
        let values = random.values(shape.iter().product());
        Array { shape: shape.to_vec(), kind, values }
    }

    /// An activation of random values.
    pub fn input(shape: &[usize], random: &mut Random) -> Array {
        Array::new(Kind::Input, shape, random)
    }

    /// A trainable weight of random values.
    pub fn weight(shape: &[usize], random: &mut Random) -> Array {
        Array::new(Kind::Weight, shape, random)
    }

    /// An array of integers, such as tokens or lengths.
    pub fn whole(values: &[u32], shape: &[usize]) -> Array {
        let values = values.iter().map(|&v| f32::from_bits(v)).collect();
        Array { shape: shape.to_vec(), kind: Kind::Frozen(DType::F32), values }
    }

    /// A frozen matrix of random blocks, with scales that keep the values in the usual range.
    pub fn blocks(format: GgmlType, shape: &[usize], random: &mut Random) -> Array {
        let count = shape.iter().product::<usize>() / format.block_len();
        let file = random_blocks(format, count, random, usual_scale);
        let values = bytemuck::pod_collect_to_vec(&repack(format, &file));
        Array { shape: shape.to_vec(), kind: Kind::Frozen(format.dtype()), values }
    }

    /// The same array, with the values of an activation rounded to f16 if `half`.
    pub(super) fn rounded(&self, half: bool) -> Array {
        let round = |&v: &f32| if half && self.kind == Kind::Input { half::f16::from_f32(v).to_f32() } else { v };
        Array { values: self.values.iter().map(round).collect(), ..self.clone() }
    }

    /// The values as the array's format represents them.
    pub fn exact(&self) -> Vec<f64> {
        self.encode().1
    }

    /// The bytes in the array's format, and the values that they represent.
    pub(super) fn encode(&self) -> (Vec<u8>, Vec<f64>) {
        let exact = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect();
        match self.kind {
            Kind::Frozen(DType::F16) => {
                let v: Vec<_> = self.values.iter().map(|&x| half::f16::from_f32(x)).collect();
                (bytemuck::cast_slice(&v).to_vec(), v.iter().map(|x| x.to_f64()).collect())
            }
            Kind::Frozen(DType::Bf16) => {
                let v: Vec<_> = self.values.iter().map(|&x| half::bf16::from_f32(x)).collect();
                (bytemuck::cast_slice(&v).to_vec(), v.iter().map(|x| x.to_f64()).collect())
            }
            Kind::Frozen(dtype) if dtype.group_len() > 1 => {
                let bytes = bytemuck::cast_slice(&self.values).to_vec();
                let weight = Weight::new(dtype, self.shape.as_slice().into(), bytes);
                let values = exact(&weight.to_f32());
                (weight.bytes().into_owned(), values)
            }
            _ => (bytemuck::cast_slice(&self.values).to_vec(), exact(&self.values)),
        }
    }
}

/// Generates blocks of random bytes, with scales from `scale`, as f16. MXFP4 takes the exponents of these, but none so small that a device may flush the
/// values to zero.
pub fn random_blocks(format: GgmlType, count: usize, random: &mut Random, mut scale: impl FnMut(&mut Random) -> u16) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..count * format.block_bytes()).map(|_| random.below(256) as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for &at in format.scales() {
            block[at..at + 2].copy_from_slice(&scale(random).to_le_bytes());
        }
        if format == GgmlType::Mxfp4 {
            block[0] = (half::f16::from_bits(scale(random)).to_f32().to_bits() >> 23 & 255).max(2) as u8;
        }
    }
    bytes
}

/// A scale that keeps the values in the usual range.
pub fn usual_scale(random: &mut Random) -> u16 {
    half::f16::from_f64((random.uniform() - 0.5) * 0.02).to_bits()
}
