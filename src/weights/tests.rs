//! Files written here byte by byte, good ones and bad ones.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::gguf::build;
use super::*;
use crate::graph::DType;

/// A directory that is gone when the test is.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("graftling-weights-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Place(path)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("the file");
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A file of this header and so many bytes 0, 1, 2, … behind it.
fn file(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let data: Vec<u8> = (0..data).map(|i| i as u8).collect();
    [&(header.len() as u64).to_le_bytes(), header, &data].concat()
}

fn entry(dtype: &str, shape: &[u64], start: u64, end: u64) -> Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] })
}

/// The sentence of an error that is right in form.
fn sentence<T>(what: &str, result: Result<T>) -> String {
    let Err(error) = result else { panic!("{what} is accepted") };
    assert_eq!(error.exit_code(), 3, "{what}: {error}");
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 500, "{what}: {message}");
    message
}

#[test]
fn tensors_stay_in_their_file() {
    let place = Place::new("mapped");
    let header = json!({
        "__metadata__": { "format": "pt" }, "a": entry("F32", &[2, 1], 0, 8), "b": entry("BF16", &[3], 8, 14), "c": entry("F16", &[1], 14, 16),
        "d.attn.bias": entry("U8", &[2, 2], 16, 20), "e": entry("I64", &[], 20, 28), "nothing": entry("F32", &[0, 3], 28, 28),
    });
    let path = place.put("model.safetensors", file(header.to_string(), 28));
    let weights = Weights::read(&path).expect("a file");
    assert!(matches!(weights.tensors["a"].bytes(), std::borrow::Cow::Borrowed(_)));
    assert_eq!(*weights.tensors["b"].bytes(), [8, 9, 10, 11, 12, 13]);
    assert_eq!(weights.get("c", &[1].into()).expect("c").to_f32(), [half::f16::from_le_bytes([14, 15]).to_f32()]);
    assert_eq!(weights.tensors["a"].to_f32(), [f32::from_le_bytes([0, 1, 2, 3]), f32::from_le_bytes([4, 5, 6, 7])]);
    assert_eq!(*weights.tensors["b"].in_format(DType::F32), *bytemuck::cast_slice::<f32, u8>(&weights.tensors["b"].to_f32()));
    assert_eq!(weights.get("nothing", &[0, 3].into()).expect("it is there").to_f32(), [] as [f32; 0]);
    assert_eq!(weights.tensors.len() + weights.unsupported.len(), 6);

    // What is not a weight is in nobody's way until it is asked for.
    let message = sentence("a mask", weights.get("d.attn.bias", &[2, 2].into()));
    assert!(message.contains("d.attn.bias") && message.contains("U8"), "{message}");
    assert!(sentence("all", weights.check()).contains("d.attn.bias"));

    // The file may be replaced while it is open.
    let mut copy = weights.clone();
    copy.tensors.insert("z".into(), Weight::from_f32([1].into(), &[2.5]));
    copy.write(&path).expect("a file");
    let again = Weights::read(&path).expect("a file");
    assert_eq!(again.tensors, copy.tensors);
    assert_eq!(again.tensors["a"], weights.tensors["a"]);
    again.check().expect("all finite");
}

/// One tensor of 2 rows of 64 in Q8_0 and one number.
fn gguf() -> Vec<u8> {
    let mut file = build::file(&[], &[build::described("q", &[64, 2], 8, 0), build::described("v", &[1, 1], 0, 160)], 0);
    for block in 0..4 {
        file.extend(half::f16::from_f32(0.5 + f32::from(block)).to_le_bytes());
        file.extend([block + 1; 32]);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(1.5_f32.to_le_bytes());
    file
}

#[test]
fn tensors_of_gguf_are_laid_out_for_the_device_when_they_are_asked_for() {
    let open = |bytes| Weights::from_gguf(&Arc::new(Gguf::from_bytes(Path::new("some.gguf"), bytes).unwrap_or_else(|e| panic!("{e}"))));
    let weights = open(gguf());
    let weight = weights.get("q", &[2, 64].into()).expect("a tensor");
    assert_eq!(weight.dtype, DType::Q8_0);
    let values = weight.to_f32();
    assert_eq!([values[0], values[32], values[64], values[127]], [0.5, 3.0, 7.5, 14.0]);
    let bytes = weight.bytes();
    assert_eq!(bytes.len() as u64, weight.dtype.bytes(128));
    // What is downloaded from the device is the same tensor.
    let owned = Weight::new(weight.dtype, weight.shape.clone(), bytes.into_owned());
    assert_eq!((owned.to_f32(), &owned), (values, weight));
    assert_eq!(*weights.get("v", &[1, 1].into()).expect("a tensor").bytes(), 1.5_f32.to_le_bytes());
    assert!(sentence("another shape", weights.get("q", &[64, 2].into())).contains("some.gguf: tensor 'q' has the shape (2, 64)"));

    let mut damaged = gguf();
    let scale = damaged.len() - 4 - 160 + 34; // That of the second block.
    damaged[scale..scale + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    let message = sentence("a scale that is no number", open(damaged).get("q", &[2, 64].into()));
    assert!(message.contains("'q' has a number that is not finite at element 32 or soon after"), "{message}");
}
