//! The quantised formats of GGUF files: block sizes, layouts and decoding.
//!
//! The layouts and formulas follow the public ggml specification; the bytes are little-endian, and `d`, `m` and `dmin` are f16.
//! A block holds consecutive elements of the contiguous axis, so a row is a whole number of blocks.
//!
//! Every product in decoding is exact in f32, which has 24 significant bits: the scale d has 11, that of a sub-block at most 7, and a quantised
//! value at most 5 (7 in Q8_0 and IQ4_NL, which have no sub-blocks, and in IQ4_XS, whose sub-blocks' scales have 5). Only the final sum of some
//! formats rounds, once. So a kernel computes the same bits whatever the order of the factors, with or without fused multiply-add.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use decode::{each, u16_at};

/// The format of a tensor in a GGUF file, under ggml's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GgmlType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// 32 values of 4 bits: d (q − 8).
    Q4_0,
    /// 32 values of 4 bits: d q + m.
    Q4_1,
    /// 32 values of 5 bits: d (q − 16).
    Q5_0,
    /// 32 values of 5 bits: d q + m.
    Q5_1,
    /// 32 values of 8 bits, signed: d q.
    Q8_0,
    /// 256 values of 4 bits in 8 sub-blocks with scales of 6 bits: d s q − dmin t.
    Q4K,
    /// 256 values of 5 bits in 8 sub-blocks with scales of 6 bits: d s q − dmin t.
    Q5K,
    /// 256 values of 6 bits in 16 sub-blocks with signed scales of 8 bits: d s (q − 32).
    Q6K,
    /// 256 values of 2 bits in 16 sub-blocks with scales and minima of 4 bits: d s q − dmin t.
    Q2K,
    /// 256 values of 3 bits in 16 sub-blocks with scales of 6 bits: d (s − 32) (q − 4).
    Q3K,
    /// 32 values of 4 bits that stand for those of a table: d T(q).
    Iq4Nl,
    /// 256 values of 4 bits in 8 sub-blocks with scales of 6 bits: d (s − 32) T(q).
    Iq4Xs,
    /// 32 floats of 4 bits with one exponent: the MXFP4 of the Open Compute Project.
    Mxfp4,
}

/// The layout of a format's blocks.
struct Layout {
    id: u32,
    name: &'static str,
    len: usize,
    bytes: usize,
    /// The offsets of the f16 scales in a block.
    scales: &'static [usize],
}

impl GgmlType {
    /// All supported formats.
    pub const ALL: [GgmlType; 16] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Bf16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q4K,
        GgmlType::Q5K,
        GgmlType::Q6K,
        GgmlType::Q2K,
        GgmlType::Q3K,
        GgmlType::Iq4Nl,
        GgmlType::Iq4Xs,
        GgmlType::Mxfp4,
    ];

    fn layout(self) -> Layout {
        let (id, name, len, bytes, scales): (_, _, _, _, &[usize]) = match self {
            GgmlType::F32 => (0, "F32", 1, 4, &[]),
            GgmlType::F16 => (1, "F16", 1, 2, &[]),
            GgmlType::Bf16 => (30, "BF16", 1, 2, &[]),
            GgmlType::Q4_0 => (2, "Q4_0", 32, 18, &[0]),
            GgmlType::Q4_1 => (3, "Q4_1", 32, 20, &[0, 2]),
            GgmlType::Q5_0 => (6, "Q5_0", 32, 22, &[0]),
            GgmlType::Q5_1 => (7, "Q5_1", 32, 24, &[0, 2]),
            GgmlType::Q8_0 => (8, "Q8_0", 32, 34, &[0]),
            GgmlType::Q4K => (12, "Q4_K", 256, 144, &[0, 2]),
            GgmlType::Q5K => (13, "Q5_K", 256, 176, &[0, 2]),
            GgmlType::Q6K => (14, "Q6_K", 256, 210, &[208]),
            GgmlType::Q2K => (10, "Q2_K", 256, 84, &[80, 82]),
            GgmlType::Q3K => (11, "Q3_K", 256, 110, &[108]),
            GgmlType::Iq4Nl => (20, "IQ4_NL", 32, 18, &[0]),
            GgmlType::Iq4Xs => (23, "IQ4_XS", 256, 136, &[0]),
            GgmlType::Mxfp4 => (39, "MXFP4", 32, 17, &[]),
        };
        Layout { id, name, len, bytes, scales }
    }

    /// The format with this number in files, if it is supported.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        GgmlType::ALL.into_iter().find(|format| format.id() == id)
    }

    /// The format's number in files.
    pub fn id(self) -> u32 {
        self.layout().id
    }

    /// ggml's name for the format, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// The number of elements in a block; 1 for plain numbers.
    pub fn block_len(self) -> usize {
        self.layout().len
    }

    /// The size of a block in bytes.
    pub fn block_bytes(self) -> usize {
        self.layout().bytes
    }

    /// The offsets of the f16 scales in a block.
    pub(crate) fn scales(self) -> &'static [usize] {
        self.layout().scales
    }

    /// Decodes whole blocks, of one row or several, into `values` in order. Only the final sum of formats with minima rounds.
    ///
    /// # Panics
    /// If `blocks` is not a whole number of blocks, or `values` does not have exactly their elements.
    pub fn decode(self, blocks: &[u8], values: &mut [f32]) {
        match self {
            GgmlType::F32 => each(blocks, values, |b, v: &mut [f32; 1]| v[0] = f32::from_le_bytes(*b)),
            GgmlType::F16 => each(blocks, values, |b: &[u8; 2], v: &mut [f32; 1]| v[0] = decode::f16_at(b, 0)),
            GgmlType::Bf16 => each(blocks, values, |b, v: &mut [f32; 1]| v[0] = half::bf16::from_le_bytes(*b).to_f32()),
            GgmlType::Q4_0 => each(blocks, values, decode::q4_0),
            GgmlType::Q4_1 => each(blocks, values, decode::q4_1),
            GgmlType::Q5_0 => each(blocks, values, decode::q5_0),
            GgmlType::Q5_1 => each(blocks, values, decode::q5_1),
            GgmlType::Q8_0 => each(blocks, values, decode::q8_0),
            GgmlType::Q4K => each(blocks, values, decode::q4_k),
            GgmlType::Q5K => each(blocks, values, decode::q5_k),
            GgmlType::Q6K => each(blocks, values, decode::q6_k),
            GgmlType::Q2K => each(blocks, values, decode::q2_k),
            GgmlType::Q3K => each(blocks, values, decode::q3_k),
            GgmlType::Iq4Nl => each(blocks, values, decode::iq4_nl),
            GgmlType::Iq4Xs => each(blocks, values, decode::iq4_xs),
            GgmlType::Mxfp4 => each(blocks, values, decode::mxfp4),
        }
    }

    /// The first element of the first block with a value or scale that is not finite. If there is none, all values are finite.
    ///
    /// # Panics
    /// If `blocks` is not a whole number of blocks.
    pub fn first_non_finite(self, blocks: &[u8]) -> Option<usize> {
        let Layout { len, bytes, scales, .. } = self.layout();
        assert!(blocks.len().is_multiple_of(bytes), "{} bytes are not whole blocks of {self}", blocks.len());
        // An f16 is not finite when all of its 5 exponent bits are set, an f32 or bf16 when all of its 8 are.
        let non_finite = |block: &[u8]| match self {
            GgmlType::F32 | GgmlType::Bf16 => u16_at(block, bytes - 2) & 0x7f80 == 0x7f80,
            GgmlType::F16 => u16_at(block, 0) & 0x7c00 == 0x7c00,
            // Larger exponents take the largest values of the table past f32.
            GgmlType::Mxfp4 => block[0] > 252,
            _ => scales.iter().any(|&at| u16_at(block, at) & 0x7c00 == 0x7c00),
        };
        blocks.chunks_exact(bytes).position(non_finite).map(|block| block * len)
    }
}

impl FromStr for GgmlType {
    type Err = String;

    /// Parses a format's name, ignoring case. The error lists the names.
    fn from_str(name: &str) -> Result<GgmlType, String> {
        let found = GgmlType::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("expected one of {}", GgmlType::ALL.map(|format| format.dtype().word()).join(", ")))
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// ggml's name for an unsupported format, for messages.
pub(super) fn name_of_unsupported(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        40 => "NVFP4",
        _ => return None,
    })
}
