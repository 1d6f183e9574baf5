//! Decoding blocks to values.

/// Decodes block by block; the array lengths of `decode` are the block's sizes.
pub(super) fn each<const BYTES: usize, const LEN: usize>(
    blocks: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let ((blocks, rest), (values, values_rest)) = (blocks.as_chunks(), values.as_chunks_mut());
    assert!(
        rest.is_empty() && values_rest.is_empty() && blocks.len() == values.len(),
        "the bytes and values are not the same number of whole blocks"
    );
    for (block, values) in blocks.iter().zip(values) {
        decode(block, values);
    }
}

pub(super) fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_bits(u16_at(block, at)).to_f32()
}

/// d, 16 bytes. Byte j holds element j in its low bits and element j + 16 in its high bits, here and in the next three formats.
pub(super) fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (j, &q) in block[2..].iter().enumerate() {
        values[j] = d * (f32::from(q & 15) - 8.0);
        values[j + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

/// d, m, 16 bytes.
pub(super) fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
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
pub(super) fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    *values = five_bits(&block[2..]).map(|q| d * (q - 16.0));
}

/// d, m, fifth bits, 16 bytes.
pub(super) fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    *values = five_bits(&block[4..]).map(|q| d * q + m);
}

/// d, 32 signed bytes.
pub(super) fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
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
pub(super) fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
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
pub(super) fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
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
pub(super) fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    for (e, value) in values.iter_mut().enumerate() {
        let (half, i) = (e / 128, e % 128);
        let low = block[half * 64 + i % 64] >> (i / 64 * 4) & 15;
        let high = block[128 + half * 32 + i % 32] >> (i / 32 * 2) & 3;
        let scale = f32::from(block[192 + e / 16] as i8);
        *value = d * scale * (f32::from(low | high << 4) - 32.0);
    }
}

/// 16 scales, each with a minimum in its high nibble; 64 bytes, d, dmin. Each half block of 128 elements has 32 bytes, with two bits for each of
/// elements i, i + 32, i + 64 and i + 96.
pub(super) fn q2_k(block: &[u8; 84], values: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (e, value) in values.iter_mut().enumerate() {
        let (half, i) = (e / 128, e % 128);
        let q = block[16 + half * 32 + i % 32] >> (i / 32 * 2) & 3;
        let scale = block[e / 16];
        *value = d * f32::from(scale & 15) * f32::from(q) - dmin * f32::from(scale >> 4);
    }
}

/// 32 bytes of high bits, 64 of low bits as in Q2_K, 12 bytes of scales, d. Bit e / 32 of high byte e % 32 belongs to element e. The low four bits of
/// scale s are in byte s % 8, the high two in byte 8 + s % 4.
pub(super) fn q3_k(block: &[u8; 110], values: &mut [f32; 256]) {
    let (scales, d) = (&block[96..108], f16_at(block, 108));
    for (e, value) in values.iter_mut().enumerate() {
        let (half, i, s) = (e / 128, e % 128, e / 16);
        let low = block[32 + half * 32 + i % 32] >> (i / 32 * 2) & 3;
        let high = block[e % 32] >> (e / 32) & 1;
        let scale = scales[s % 8] >> (s / 8 * 4) & 15 | (scales[8 + s % 4] >> (s / 4 * 2) & 3) << 4;
        *value = d * (f32::from(scale) - 32.0) * (f32::from(low | high << 2) - 4.0);
    }
}

/// The values that the four bits of IQ4_NL and IQ4_XS stand for.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Those of MXFP4, doubled: a sign, two bits of exponent and one of mantissa.
const FP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 16 bytes that stand for values of a table, in the order of Q4_0.
fn looked_up(scale: f32, bytes: &[u8], table: &[i8; 16], values: &mut [f32]) {
    for (j, &q) in bytes.iter().enumerate() {
        values[j] = scale * f32::from(table[usize::from(q & 15)]);
        values[j + 16] = scale * f32::from(table[usize::from(q >> 4)]);
    }
}

/// d, 16 bytes.
pub(super) fn iq4_nl(block: &[u8; 18], values: &mut [f32; 32]) {
    looked_up(f16_at(block, 0), &block[2..], &IQ4, values);
}

/// d, 16 bits with the high two of each scale, 4 bytes with the low four, then 16 bytes for each of 8 sub-blocks.
pub(super) fn iq4_xs(block: &[u8; 136], values: &mut [f32; 256]) {
    let (d, high) = (f16_at(block, 0), u16_at(block, 2));
    for (sub, values) in values.chunks_exact_mut(32).enumerate() {
        let low = block[4 + sub / 2] >> (sub % 2 * 4) & 15;
        let scale = low | ((high >> (2 * sub) & 3) as u8) << 4;
        looked_up(d * (f32::from(scale) - 32.0), &block[8 + sub * 16..][..16], &IQ4, values);
    }
}

/// An exponent e, 16 bytes. The scale is 2^(e − 128), half of what the format's specification says, since the table has twice the values.
pub(super) fn mxfp4(block: &[u8; 17], values: &mut [f32; 32]) {
    let e = u32::from(block[0]);
    // The smallest two are subnormal.
    let bits = if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 };
    looked_up(f32::from_bits(bits), &block[1..], &FP4, values);
}
