//! The quantised formats of GGUF files: block sizes, layouts and decoding.
//!
//! The layouts and formulas follow the public ggml specification; the bytes are little-endian, and `d`, `m` and `dmin` are f16.
//! A block holds consecutive elements of the contiguous axis, so a row is a whole number of blocks.
//!
//! Every product below is exact in f32, which has 24 significant bits: the scale d has 11, that of a sub-block at most 7, and a quantised
//! value at most 5 (in Q8_0, without sub-blocks, 7). Only the final sum of some formats rounds, once. So a kernel computes the same bits
//! whatever the order of the factors, with or without fused multiply-add.

use std::fmt;
use std::str::FromStr;

#[cfg(test)]
mod tests;

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
    pub const ALL: [GgmlType; 11] = [
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

    /// Decodes whole blocks, of one row or several, into `values` in order. Only the final sum of Q4_1, Q5_1, Q4_K and Q5_K rounds.
    ///
    /// # Panics
    /// If `blocks` is not a whole number of blocks, or `values` does not have exactly their elements.
    pub fn decode(self, blocks: &[u8], values: &mut [f32]) {
        match self {
            GgmlType::F32 => each(blocks, values, |b, v: &mut [f32; 1]| v[0] = f32::from_le_bytes(*b)),
            GgmlType::F16 => each(blocks, values, |b: &[u8; 2], v: &mut [f32; 1]| v[0] = f16_at(b, 0)),
            GgmlType::Bf16 => each(blocks, values, |b, v: &mut [f32; 1]| v[0] = half::bf16::from_le_bytes(*b).to_f32()),
            GgmlType::Q4_0 => each(blocks, values, q4_0),
            GgmlType::Q4_1 => each(blocks, values, q4_1),
            GgmlType::Q5_0 => each(blocks, values, q5_0),
            GgmlType::Q5_1 => each(blocks, values, q5_1),
            GgmlType::Q8_0 => each(blocks, values, q8_0),
            GgmlType::Q4K => each(blocks, values, q4_k),
            GgmlType::Q5K => each(blocks, values, q5_k),
            GgmlType::Q6K => each(blocks, values, q6_k),
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
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

/// Decodes block by block; the array lengths of `decode` are the block's sizes.
fn each<const BYTES: usize, const LEN: usize>(blocks: &[u8], values: &mut [f32], decode: impl Fn(&[u8; BYTES], &mut [f32; LEN])) {
    let ((blocks, rest), (values, values_rest)) = (blocks.as_chunks(), values.as_chunks_mut());
    assert!(
        rest.is_empty() && values_rest.is_empty() && blocks.len() == values.len(),
        "the bytes and values are not the same number of whole blocks"
    );
    for (block, values) in blocks.iter().zip(values) {
        decode(block, values);
    }
}

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_bits(u16_at(block, at)).to_f32()
}

/// d, 16 bytes. Byte j holds element j in its low bits and element j + 16 in its high bits, here and in the next three formats.
fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (j, &q) in block[2..].iter().enumerate() {
        values[j] = d * (f32::from(q & 15) - 8.0);
        values[j + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

/// d, m, 16 bytes.
fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (j, &q) in block[4..].iter().enumerate() {
        values[j] = d * f32::from(q & 15) + m;
        values[j + 16] = d * f32::from(q >> 4) + m;
    }
}

/// The quantised values of Q5_0 and Q5_1: 32 fifth bits, one per element, then 16 bytes.
fn five_bits(bytes: &[u8]) -> [f32; 32] {
    let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    std::array::from_fn(|e| {
        let low = bytes[4 + e % 16] >> (e / 16 * 4) & 15;
        let high = (fifth >> e & 1) as u8;
        f32::from(low | high << 4)
    })
}

/// d, fifth bits, 16 bytes.
fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    *values = five_bits(&block[2..]).map(|q| d * (q - 16.0));
}

/// d, m, fifth bits, 16 bytes.
fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    *values = five_bits(&block[4..]).map(|q| d * q + m);
}

/// d, 32 signed bytes.
fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (value, &q) in values.iter_mut().zip(&block[2..]) {
        *value = d * f32::from(q as i8);
    }
}

/// Scale and minimum of a sub-block of Q4_K and Q5_K, from the block's 12 bytes of 6-bit numbers: the first four scales and minima are in
/// the low bits of bytes 0–3 and 4–7; the last four have their low 4 bits in bytes 8–11 and their high 2 bits at the top of bytes 0–7.
fn scale_and_min(bytes: &[u8], sub: usize) -> (f32, f32) {
    let (scale, min) = if sub < 4 {
        (bytes[sub] & 63, bytes[sub + 4] & 63)
    } else {
        (bytes[sub + 4] & 15 | bytes[sub - 4] >> 6 << 4, bytes[sub + 4] >> 4 | bytes[sub] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// d, dmin, 12 bytes of scales, 128 bytes. Each run of 32 bytes holds one sub-block of 32 in its low bits and the next in its high bits.
fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (sub, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], sub);
        let (scale, min) = (d * scale, dmin * min);
        let bytes = &block[16 + sub / 2 * 32..];
        for (value, &q) in values.iter_mut().zip(bytes) {
            *value = scale * f32::from(q >> (sub % 2 * 4) & 15) - min;
        }
    }
}

/// d, dmin, 12 bytes of scales, 32 bytes of fifth bits, 128 bytes as in Q4_K. Bit s of fifth byte i belongs to element i of sub-block s.
fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let fifths = &block[16..48];
    for (sub, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], sub);
        let (scale, min) = (d * scale, dmin * min);
        let bytes = &block[48 + sub / 2 * 32..];
        for ((value, &q), &fifth) in values.iter_mut().zip(bytes).zip(fifths) {
            let q = q >> (sub % 2 * 4) & 15 | (fifth >> sub & 1) << 4;
            *value = scale * f32::from(q) - min;
        }
    }
}

/// 128 bytes of low bits, 64 of high bits, 16 signed scales, d. Each half block of 128 elements has 64 bytes of low bits, whose low and
/// high nibbles are elements 0–63 and 64–127, and 32 bytes of high bits, two bits for each of elements i, i + 32, i + 64 and i + 96.
fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    for (e, value) in values.iter_mut().enumerate() {
        let (half, i) = (e / 128, e % 128);
        let low = block[half * 64 + i % 64] >> (i / 64 * 4) & 15;
        let high = block[128 + half * 32 + i % 32] >> (i / 32 * 2) & 3;
        let scale = f32::from(block[192 + e / 16] as i8);
        *value = d * scale * (f32::from(low | high << 4) - 32.0);
    }
}
