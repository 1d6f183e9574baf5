//! Rounding values to blocks, to the bits of Python's `gguf` package (`quants.py`), whose results are those of ggml's reference code. The scale that
//! divides the values is not the rounded one that is stored; a block of zeros has the scale 0.

use super::GgmlType;

/// What a changed tensor is rounded to if its own format cannot be written: far finer than those formats.
const FINE: GgmlType = GgmlType::Q8_0;

impl GgmlType {
    /// The formats that values can be rounded to.
    pub const WRITABLE: [GgmlType; 8] =
        [GgmlType::F32, GgmlType::F16, GgmlType::Bf16, GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1];

    /// This format if values can be rounded to it, or else Q8_0, which is finer than any other.
    pub fn writable(self) -> GgmlType {
        if GgmlType::WRITABLE.contains(&self) { self } else { FINE }
    }

    /// Rounds the values of whole blocks to this format, once.
    ///
    /// # Panics
    /// If the format is not among [`GgmlType::WRITABLE`], or the values are not whole blocks.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        assert!(values.len().is_multiple_of(self.block_len()), "{} values are not whole blocks of {self}", values.len());
        let mut bytes = Vec::with_capacity(values.len() / self.block_len() * self.block_bytes());
        match self {
            GgmlType::F32 => bytes.extend_from_slice(bytemuck::cast_slice(values)),
            GgmlType::F16 => bytes.extend(values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes())),
            GgmlType::Bf16 => bytes.extend(values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())),
            _ => {
                let (blocks, _) = values.as_chunks();
                for block in blocks {
                    match self {
                        GgmlType::Q8_0 => q8_0(block, &mut bytes),
                        GgmlType::Q4_0 => signed(block, 8.0, &mut bytes),
                        GgmlType::Q5_0 => signed(block, 16.0, &mut bytes),
                        GgmlType::Q4_1 => from_minimum(block, 15.0, &mut bytes),
                        GgmlType::Q5_1 => from_minimum(block, 31.0, &mut bytes),
                        _ => panic!("values cannot be rounded to {self}"),
                    }
                }
            }
        }
        bytes
    }
}

fn f16(bytes: &mut Vec<u8>, value: f32) {
    bytes.extend(half::f16::from_f32(value).to_le_bytes());
}

/// 1 / d, or 0 for a block of zeros.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// d = max |x| / 127, to the nearest, halves away from zero.
fn q8_0(block: &[f32; 32], bytes: &mut Vec<u8>) {
    let d = block.iter().fold(0.0, |largest: f32, v| largest.max(v.abs())) / 127.0;
    let inverse = inverse(d);
    f16(bytes, d);
    bytes.extend(block.map(|v| (v * inverse).round() as i8 as u8));
}

/// Q4_0 and Q5_0: the value that is largest without its sign becomes −`half`, so that d can be negative.
fn signed(block: &[f32; 32], half: f32, bytes: &mut Vec<u8>) {
    let extreme = block.iter().fold(0.0_f32, |extreme, &v| if v.abs() > extreme.abs() { v } else { extreme });
    let d = extreme / -half;
    let inverse = inverse(d);
    f16(bytes, d);
    packed(block.map(|v| (v * inverse + (half + 0.5)).min(2.0 * half - 1.0) as u8), half > 8.0, bytes);
}

/// Q4_1 and Q5_1: `most` steps from the least value to the largest.
fn from_minimum(block: &[f32; 32], most: f32, bytes: &mut Vec<u8>) {
    let least = block.iter().fold(f32::INFINITY, |least, &v| if v < least { v } else { least });
    let largest = block.iter().fold(f32::NEG_INFINITY, |largest, &v| if v > largest { v } else { largest });
    let d = (largest - least) / most;
    let inverse = inverse(d);
    f16(bytes, d);
    f16(bytes, least);
    packed(block.map(|v| ((v - least) * inverse + 0.5).min(most) as u8), most > 15.0, bytes);
}

/// The fifth bits, if there are any, then element j in the low bits of byte j and element j + 16 in its high bits.
fn packed(q: [u8; 32], five: bool, bytes: &mut Vec<u8>) {
    if five {
        let fifth = q.iter().enumerate().fold(0, |bits, (e, &q)| bits | u32::from(q >> 4) << e);
        bytes.extend(fifth.to_le_bytes());
    }
    let (low, high) = q.split_at(16);
    bytes.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
}
