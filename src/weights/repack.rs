//! Converting blocks between their layout in a file and on the device.
//!
//! Kernels read whole words, so the device stores groups that are whole words: one block, or two adjacent blocks if a single one is not.
//! The groups span all elements of a tensor, so the two blocks of a group can belong to different rows. In a group of two, each part of
//! the first block is followed by the same part of the second:
//!
//! | format | file | device |
//! |---|---|---|
//! | Q4_1, Q5_1, Q2_K, Q4_K, Q5_K, IQ4_XS | blocks of 20, 24, 84, 144, 176, 136 bytes | the same |
//! | Q4_0, IQ4_NL | d 2, values 16 | d 4, values 32 |
//! | MXFP4 | exponent 1, values 16 | exponents 4, each in 2 bytes, values 32 |
//! | Q5_0 | d 2, fifth bits 4, low bits 16 | d 4, fifth bits 8, low bits 32 |
//! | Q8_0 | d 2, values 32 | d 4, values 64 |
//! | Q3_K | high bits 32, low bits 64, scales 12, d 2 | high bits 64, low bits 128, scales 24, d 4 |
//! | Q6_K | low bits 128, high bits 64, scales 16, d 2 | low bits 256, high bits 128, scales 32, d 4 |
//!
//! If the last group has only one block, its second half is zero.

use std::borrow::Cow;

use super::quant::GgmlType;
use crate::graph::DType;

impl GgmlType {
    /// The format on the device.
    pub fn dtype(self) -> DType {
        match self {
            GgmlType::F32 => DType::F32,
            GgmlType::F16 => DType::F16,
            GgmlType::Bf16 => DType::Bf16,
            GgmlType::Q4_0 => DType::Q4_0,
            GgmlType::Q4_1 => DType::Q4_1,
            GgmlType::Q5_0 => DType::Q5_0,
            GgmlType::Q5_1 => DType::Q5_1,
            GgmlType::Q8_0 => DType::Q8_0,
            GgmlType::Q4K => DType::Q4K,
            GgmlType::Q5K => DType::Q5K,
            GgmlType::Q6K => DType::Q6K,
            GgmlType::Q2K => DType::Q2K,
            GgmlType::Q3K => DType::Q3K,
            GgmlType::Iq4Nl => DType::Iq4Nl,
            GgmlType::Iq4Xs => DType::Iq4Xs,
            GgmlType::Mxfp4 => DType::Mxfp4,
        }
    }

    /// The parts of a block, if a group is two blocks: the size of each in the file, and on the device, where zeros fill it up.
    fn parts(self) -> Option<&'static [[usize; 2]]> {
        match self {
            GgmlType::Q4_0 | GgmlType::Iq4Nl => Some(&[[2, 2], [16, 16]]),
            GgmlType::Q5_0 => Some(&[[2, 2], [4, 4], [16, 16]]),
            GgmlType::Q8_0 => Some(&[[2, 2], [32, 32]]),
            GgmlType::Q3K => Some(&[[32, 32], [64, 64], [12, 12], [2, 2]]),
            GgmlType::Q6K => Some(&[[128, 128], [64, 64], [16, 16], [2, 2]]),
            GgmlType::Mxfp4 => Some(&[[1, 2], [16, 16]]),
            _ => None,
        }
    }
}

/// Converts all blocks of a tensor from the file's layout to the device's, [`DType::bytes`] in size.
///
/// # Panics
/// If `blocks` is not a whole number of blocks.
pub fn repack(format: GgmlType, blocks: &[u8]) -> Cow<'_, [u8]> {
    let bytes = format.block_bytes();
    assert!(blocks.len().is_multiple_of(bytes), "{} bytes are not whole blocks of {format}", blocks.len());
    let Some(parts) = format.parts() else { return Cow::Borrowed(blocks) };
    let group_bytes = format.dtype().bytes(2 * format.block_len() as u64) as usize;
    let mut groups = vec![0; (blocks.len() / bytes).div_ceil(2) * group_bytes];
    for (pair, group) in blocks.chunks(2 * bytes).zip(groups.chunks_exact_mut(group_bytes)) {
        for (block, from, to, len) in places(parts, pair.len() / bytes) {
            group[to..to + len].copy_from_slice(&pair[block * bytes + from..][..len]);
        }
    }
    Cow::Owned(groups)
}

/// Converts a tensor of `len` elements back from the device's layout to blocks: the inverse of [`repack`].
///
/// # Panics
/// If `groups` has another length.
pub(super) fn unpack(format: GgmlType, groups: &[u8], len: usize) -> Cow<'_, [u8]> {
    assert_eq!(groups.len() as u64, format.dtype().bytes(len as u64), "bytes for {len} elements of {format}");
    let bytes = format.block_bytes();
    let Some(parts) = format.parts() else { return Cow::Borrowed(groups) };
    let group_bytes = format.dtype().bytes(2 * format.block_len() as u64) as usize;
    let mut blocks = vec![0; len / format.block_len() * bytes];
    for (pair, group) in blocks.chunks_mut(2 * bytes).zip(groups.chunks_exact(group_bytes)) {
        for (block, from, to, len) in places(parts, pair.len() / bytes) {
            pair[block * bytes + from..][..len].copy_from_slice(&group[to..to + len]);
        }
    }
    Cow::Owned(blocks)
}

/// For each part of each of `blocks` blocks: the block, the part's offset in the block and in the group, and its size in the file.
fn places(parts: &[[usize; 2]], blocks: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let starts = parts.iter().scan([0, 0], |at, &[len, wide]| {
        let [from, to] = std::mem::replace(at, [at[0] + len, at[1] + 2 * wide]);
        Some((from, to, len, wide))
    });
    starts.flat_map(move |(from, to, len, wide)| (0..blocks).map(move |block| (block, from, to + block * wide, len)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Shape;
    use crate::weights::{Weight, Weights};

    /// The bytes of `blocks` blocks, each different from its neighbours.
    fn bytes(format: GgmlType, blocks: usize) -> Vec<u8> {
        (0..blocks * format.block_bytes()).map(|i| (i * 89 + i / 256 * 7 + 1) as u8).collect()
    }

    #[test]
    fn unpacking_undoes_repacking() {
        for format in GgmlType::ALL {
            for blocks in [1, 2, 3, 6, 7] {
                let (file, len) = (bytes(format, blocks), blocks * format.block_len());
                let device = repack(format, &file);
                assert_eq!(device.len() as u64, format.dtype().bytes(len as u64), "{format}");
                assert_eq!(*unpack(format, &device, len), file, "{blocks} blocks of {format}");
                assert_eq!(matches!(device, Cow::Borrowed(_)), device[..] == file[..], "{format} is copied only where it must be");
            }
        }
    }

    #[test]
    fn parts_of_two_blocks_lie_side_by_side() {
        for format in GgmlType::ALL {
            let Some(parts) = format.parts() else { continue };
            assert_eq!(parts.iter().map(|part| part[0]).sum::<usize>(), format.block_bytes(), "{format}");
            assert!(format.dtype().group_len() as usize == 2 * format.block_len(), "{format}");
        }
        let file = bytes(GgmlType::Q5_0, 3);
        let (a, b, c) = (&file[..22], &file[22..44], &file[44..]);
        let two = [&a[..2], &b[..2], &a[2..6], &b[2..6], &a[6..], &b[6..]].concat();
        let one = [&c[..2], &[0; 2], &c[2..6], &[0; 4], &c[6..], &[0; 16]].concat();
        assert_eq!(*repack(GgmlType::Q5_0, &file), [two, one].concat());
    }

    /// Three rows of one block each, as a weight and as decoded values.
    fn weight(format: GgmlType) -> (Weight, Vec<f32>) {
        let mut file = bytes(format, 3);
        for block in file.chunks_exact_mut(format.block_bytes()) {
            // Keeps the scales finite, wherever they are in the block.
            block.iter_mut().for_each(|byte| *byte &= 0x3f);
        }
        let mut values = vec![0.0; 3 * format.block_len()];
        format.decode(&file, &mut values);
        let shape = Shape::from([3, format.block_len()].as_slice());
        (Weight::new(format.dtype(), shape, repack(format, &file).into_owned()), values)
    }

    #[test]
    fn a_weight_in_blocks_is_read_and_written_as_its_values() {
        let path = std::env::temp_dir().join(format!("graftling-repack-{}.safetensors", std::process::id()));
        let all: Vec<_> = GgmlType::ALL.into_iter().filter(|format| format.block_len() > 1).map(|f| (f.to_string(), weight(f))).collect();
        let tensors = all.iter().map(|(name, (weight, _))| (name.clone(), weight.clone())).collect();
        Weights { tensors, ..Weights::default() }.write(&path).expect("the place for temporary files is writable");
        let read = Weights::read(&path);
        std::fs::remove_file(&path).expect("the file is there");
        let read = read.expect("a file of numbers");
        for (name, (weight, values)) in all {
            assert_eq!(weight.to_f32(), values, "{name}");
            assert_eq!(read.tensors[&name], Weight::from_f32(weight.shape, &values), "{name}");
        }
    }

    #[test]
    #[should_panic(expected = "a weight in f32 cannot be converted to blocks of q4_0")]
    fn nothing_is_quantised() {
        Weight::from_f32(Shape::from([32]), &[0.0; 32]).in_format(DType::Q4_0);
    }
}
