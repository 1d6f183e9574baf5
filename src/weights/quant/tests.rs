//! Decoding compared with Python's `gguf` package on the same blocks.

use safetensors::SafeTensors;

use super::*;

fn fixture() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/quant.safetensors");
    std::fs::read(path).expect("the fixture is there")
}

#[test]
fn every_format_decodes_to_the_bits_of_the_gguf_package() {
    let bytes = fixture();
    let file = SafeTensors::deserialize(&bytes).expect("the fixture is whole");
    for format in GgmlType::ALL {
        let tensor = |kind| file.tensor(&format!("{format}.{kind}")).expect("the fixture has the format");
        let (blocks, expected) = (tensor("blocks"), tensor("values"));
        assert_eq!(blocks.shape()[1], format.block_bytes(), "{format}");
        assert_eq!(expected.shape()[1], format.block_len(), "{format}");
        let expected: Vec<f32> = bytemuck::pod_collect_to_vec(expected.data());

        let mut values = vec![f32::NAN; expected.len()];
        format.decode(blocks.data(), &mut values);
        for (e, (value, expected)) in values.iter().zip(&expected).enumerate() {
            let (block, i) = (e / format.block_len(), e % format.block_len());
            assert_eq!(value.to_bits(), expected.to_bits(), "{format}, block {block}, element {i}: {value} for {expected}");
        }
        assert_eq!(format.first_non_finite(blocks.data()), None, "{format}");
    }
}

#[test]
fn values_are_rounded_to_the_bits_of_the_gguf_package() {
    let bytes = fixture();
    let file = SafeTensors::deserialize(&bytes).expect("the fixture is whole");
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(file.tensor("rounded").expect("the values").data());
    for format in GgmlType::WRITABLE {
        let expected = file.tensor(&format!("{format}.rounded")).expect("the fixture has the format").data();
        let blocks = format.encode(&values);
        assert_eq!(blocks.len(), expected.len(), "{format}");
        let bytes = format.block_bytes();
        for (i, (block, expected)) in blocks.chunks(bytes).zip(expected.chunks(bytes)).enumerate() {
            assert_eq!(block, expected, "{format}, block {i}");
        }
        assert_eq!(format.writable(), format);
    }
    assert!(GgmlType::ALL.into_iter().all(|format| GgmlType::WRITABLE.contains(&format.writable())));
}

#[test]
fn an_exponent_beyond_f32_is_found() {
    let mut blocks = [0x77; 34];
    for (e, found) in [(252, None), (253, Some(32)), (255, Some(32))] {
        (blocks[0], blocks[17]) = (120, e);
        assert_eq!(GgmlType::Mxfp4.first_non_finite(&blocks), found);
        let mut values = [0.0; 64];
        GgmlType::Mxfp4.decode(&blocks, &mut values);
        assert_eq!(values.iter().all(|v| v.is_finite()), found.is_none());
    }
}

#[test]
fn a_number_or_scale_that_is_not_finite_is_found() {
    let bytes = fixture();
    let file = SafeTensors::deserialize(&bytes).expect("the fixture is whole");
    for format in GgmlType::ALL.into_iter().filter(|&format| format != GgmlType::Mxfp4) {
        let blocks = file.tensor(&format!("{format}.blocks")).expect("the fixture has the format").data();
        let (len, bytes) = (format.block_len(), format.block_bytes());
        let places: &[usize] = match format.layout().scales {
            [] => &[0],
            scales => scales,
        };
        for &at in places {
            for (infinity, nan) in [(0x7c00_u16, 0x7e00), (0xfc00, 0xfdff)] {
                for bits in [infinity, nan] {
                    let mut damaged = blocks.to_vec();
                    let number = &mut damaged[3 * bytes + at..];
                    match format {
                        GgmlType::F32 => number[..4].copy_from_slice(&half::f16::from_bits(bits).to_f32().to_le_bytes()),
                        GgmlType::Bf16 => {
                            number[..2].copy_from_slice(&half::bf16::from_f32(half::f16::from_bits(bits).to_f32()).to_le_bytes())
                        }
                        _ => number[..2].copy_from_slice(&bits.to_le_bytes()),
                    }
                    let mut values = vec![0.0; damaged.len() / bytes * len];
                    format.decode(&damaged, &mut values);
                    assert!(values.iter().any(|v| !v.is_finite()), "{format}: {bits:#x} at {at} is a number");
                    assert_eq!(format.first_non_finite(&damaged), Some(3 * len), "{format}: {bits:#x} at {at}");
                }
            }
        }
    }
}

#[test]
fn ids_and_names_are_told_apart() {
    for format in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(format.id()), Some(format));
        assert_eq!(name_of_unsupported(format.id()), None, "{format} is supported");
    }
    assert_eq!(GgmlType::from_id(16), None);
    assert_eq!(name_of_unsupported(16), Some("IQ2_XXS"));
}
