//! Good and bad files, built byte by byte.

use serde_json::{Value, json};

use super::gguf::build;
use super::*;
use crate::files::Folder;
use crate::graph::DType;

/// A file with this header followed by `data` bytes 0, 1, 2, …
fn file(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let data: Vec<u8> = (0..data).map(|i| i as u8).collect();
    [&(header.len() as u64).to_le_bytes(), header, &data].concat()
}

fn entry(dtype: &str, shape: &[u64], start: u64, end: u64) -> Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] })
}

/// The message of an error, after checking that it is one short sentence.
fn sentence<T>(what: &str, result: Result<T>) -> String {
    let Err(error) = result else { panic!("{what} is accepted") };
    assert_eq!(error.exit_code(), 3, "{what}: {error}");
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 500, "{what}: {message}");
    message
}

#[test]
fn tensors_stay_in_their_file() {
    let folder = Folder::new("weights-mapped");
    let header = json!({
        "__metadata__": { "format": "pt" }, "a": entry("F32", &[2, 1], 0, 8), "b": entry("BF16", &[3], 8, 14), "c": entry("F16", &[1], 14, 16),
        "d.attn.bias": entry("U8", &[2, 2], 16, 20), "e": entry("I64", &[], 20, 28), "nothing": entry("F32", &[0, 3], 28, 28),
    });
    let path = folder.put("model.safetensors", file(header.to_string(), 28));
    let weights = Weights::read(&path).expect("a file");
    assert!(matches!(weights.tensors["a"].bytes(), std::borrow::Cow::Borrowed(_)));
    assert_eq!(*weights.tensors["b"].bytes(), [8, 9, 10, 11, 12, 13]);
    assert_eq!(weights.get("c", &[1].into()).expect("c").to_f32(), [half::f16::from_le_bytes([14, 15]).to_f32()]);
    assert_eq!(weights.tensors["a"].to_f32(), [f32::from_le_bytes([0, 1, 2, 3]), f32::from_le_bytes([4, 5, 6, 7])]);
    assert_eq!(*weights.tensors["b"].in_format(DType::F32), *bytemuck::cast_slice::<f32, u8>(&weights.tensors["b"].to_f32()));
    assert_eq!(weights.get("nothing", &[0, 3].into()).expect("it is there").to_f32(), [] as [f32; 0]);
    assert_eq!(weights.tensors.len() + weights.unsupported.len(), 6);

    // A tensor that is not a weight does no harm until it is requested.
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

/// A tensor of 2 rows of 64 in Q8_0, and a single f32.
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
    // Bytes downloaded from the device make the same tensor.
    let owned = Weight::new(weight.dtype, weight.shape.clone(), bytes.into_owned());
    assert_eq!((owned.to_f32(), &owned), (values, weight));
    assert_eq!(*weights.get("v", &[1, 1].into()).expect("a tensor").bytes(), 1.5_f32.to_le_bytes());
    assert!(sentence("another shape", weights.get("q", &[64, 2].into())).contains("some.gguf: tensor 'q' has the shape (2, 64)"));

    let mut damaged = gguf();
    let scale = damaged.len() - 4 - 160 + 34; // The scale of the second block.
    damaged[scale..scale + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    let message = sentence("a scale that is not a number", open(damaged).get("q", &[2, 64].into()));
    assert!(message.contains("'q' has a number that is not finite at element 32 or soon after"), "{message}");
}

#[test]
fn bad_safetensors_are_errors_that_name_what_is_wrong() {
    let folder = Folder::new("weights-bad");
    let max = u64::MAX;
    let one = |entry: Value| file(json!({ "a": entry }).to_string(), 8);
    let two = |a: Value, b: Value| file(json!({ "a": a, "b": b }).to_string(), 8);
    let f32 = |shape: &[u64], start, end| entry("F32", shape, start, end);
    let long = |len: u64| [&len.to_le_bytes()[..], &[b' '; 64]].concat();
    let whole = one(f32(&[2], 0, 8));
    let same = r#"{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#;

    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("0 bytes", vec![], "header too small"),
        ("7 bytes", vec![1; 7], "header too small"),
        ("no header", long(0), "JSON"),
        ("only spaces", long(64), "JSON"),
        ("a header longer than the file", long(65), "header length"),
        ("a header of 100,000,000 bytes", long(100_000_000), "header length"),
        ("a header of more", long(100_000_001), "header too large"),
        ("a header of 2^64 - 1 bytes", long(max), "header too large"),
        ("a header that wraps", long(max - 7), "header too large"),
        ("a GGUF file", build::file(&[], &[], 64), "header"),
        ("not UTF-8", file([b'{', 0xff, b'}'], 0), "UTF-8"),
        ("not JSON", file("{\"a\"", 0), "JSON"),
        ("a list", file("[]", 0), "JSON"),
        ("JSON too deep", file(format!("{{\"a\": {}", "[".repeat(100_000)), 0), "JSON"),
        ("no shape", file(r#"{"a": {"dtype": "F32", "data_offsets": [0, 8]}}"#, 8), "missing field `shape`"),
        ("an unknown format", one(entry("F33", &[2], 0, 8)), "F33"),
        ("a format of control characters", one(entry("\x1b[2J\n", &[2], 0, 8)), "\\u{1b}[2J\\n"),
        ("a negative extent", file(r#"{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}"#, 8), "JSON"),
        ("an extent of 2.0", file(r#"{"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}"#, 8), "JSON"),
        ("one name twice", file(format!(r#"{{"a": {same}, "a": {same}}}"#), 8), "'a' appears twice"),
        (
            "one name twice, of other formats",
            file(format!(r#"{{"a": {}, "a": {same}}}"#, entry("U32", &[2], 0, 8)), 8),
            "'a' appears twice",
        ),
        ("one key twice", file(format!(r#"{{"a": {}}}"#, same.replace("{", r#"{"shape": [8], "#)), 8), "duplicate field"),
        // Offsets.
        ("overlap", two(f32(&[1], 0, 4), f32(&[2], 0, 8)), "offset for tensor `b`"),
        ("a hole", two(f32(&[], 0, 4), entry("BF16", &[1], 6, 8)), "offset for tensor `b`"),
        ("a hole in front", one(f32(&[1], 4, 8)), "offset for tensor `a`"),
        ("backwards", one(f32(&[2], 8, 0)), "offset"),
        ("past the end", one(f32(&[3], 0, 12)), "not fully covered"),
        ("before the end", one(f32(&[1], 0, 4)), "not fully covered"),
        ("2^64 - 1", one(f32(&[2], 0, max)), "shape"),
        ("offsets that wrap", two(f32(&[2], 0, 8), f32(&[2], 8, max)), "shape"),
        ("other bytes than the shape", one(f32(&[3], 0, 8)), "invalid shape"),
        ("other bytes than the format", one(entry("F16", &[2], 0, 8)), "invalid shape"),
        ("no extent", one(f32(&[0], 0, 8)), "invalid shape"),
        ("extents that wrap", one(f32(&[1 << 32, 1 << 32], 0, 8)), "overflow"),
        ("bytes that wrap", one(f32(&[1 << 62], 0, 8)), "overflow"),
        ("extents that wrap before a 0", one(f32(&[max, max, 0], 0, 8)), "overflow"),
        (
            "an extent of 2^32",
            file(json!({ "a": f32(&[0, 1 << 32], 0, 0) }).to_string(), 0),
            "'a' has the impossible shape (0, 4294967296)",
        ),
        ("rows of 2^32", file(json!({ "a": f32(&[1 << 31, 2, 0], 0, 0) }).to_string(), 0), "'a' has the impossible shape"),
        ("half a byte", one(entry("F4", &[1], 0, 8)), "byte boundary"),
    ];
    for (what, bytes, expected) in cases {
        let message = sentence(what, Weights::read(&folder.put("bad.safetensors", bytes)));
        assert!(message.contains("bad.safetensors: is not a valid safetensors file (") && message.contains(expected), "{what}: {message}");
    }
    for len in 0..whole.len() {
        sentence("cut short", Weights::read(&folder.put("bad.safetensors", &whole[..len])));
    }
    assert!(Weights::read(&folder.put("bad.safetensors", &whole)).is_ok());
    assert!(sentence("a directory", Weights::read(&folder.0)).contains("is not a file; give the path of a .safetensors file"));
    assert!(sentence("nothing", Weights::read(&folder.0.join("nothing"))).contains("nothing: cannot be read"));
}

#[test]
fn a_tensor_is_given_out_only_as_it_was_asked_for() {
    let folder = Folder::new("weights-get");
    let header = json!({ "f32": entry("F32", &[2, 2], 0, 16), "f16": entry("F16", &[2], 16, 20), "bf16": entry("BF16", &[2], 20, 24) });
    let good = file(header.to_string(), 24);
    let path = folder.put("a.safetensors", &good);
    let weights = Weights::read(&path).expect("a file");
    weights.get("f32", &[2, 2].into()).expect("a tensor");
    weights.check().expect("all finite");
    assert!(sentence("missing", weights.get("f64", &[2].into())).contains("a.safetensors: has no tensor 'f64'"));
    for shape in [Shape::from([4]), [2, 3].into(), [2, 2, 1].into(), [0].into()] {
        let message = sentence("another shape", weights.get("f32", &shape));
        assert!(message.contains(&format!("'f32' has the shape (2, 2), but the config requires {shape}")), "{message}");
    }
    // The last number of each tensor.
    let data = good.len() - 24;
    for (name, shape, at, element, values) in [
        ("f32", Shape::from([2, 2]), 14, 3, [[0x80, 0x7f], [0xc0, 0xff]]),
        ("f16", [2].into(), 18, 1, [[0x00, 0x7c], [0x01, 0xfe]]),
        ("bf16", [2].into(), 22, 1, [[0x80, 0xff], [0xc0, 0x7f]]),
    ] {
        for bits in values {
            let mut damaged = good.clone();
            damaged[data + at..data + at + 2].copy_from_slice(&bits);
            let weights = Weights::read(&folder.put("a.safetensors", damaged)).expect("a file that is whole");
            let expected = format!("tensor '{name}' has a number that is not finite at element {element};");
            for message in [sentence("NaN", weights.get(name, &shape)), sentence("NaN", weights.check())] {
                assert!(message.contains(&expected), "{message}");
            }
        }
    }
}

#[test]
fn a_directory_has_its_weights_in_one_file_or_in_several() {
    let folder = Folder::new("weights-directory");
    let read = || Weights::read_directory(&folder.0);
    let message = sentence("an empty directory", read());
    assert!(message.contains("has no model.safetensors and no model.safetensors.index.json"), "{message}");
    folder.put("pytorch_model.bin", []);
    assert!(sentence("pickled weights", read()).contains("convert them to safetensors"));

    let part = |names: &[&str]| {
        let entries = names.iter().enumerate().map(|(i, name)| (name.to_string(), entry("F32", &[1], 4 * i as u64, 4 * i as u64 + 4)));
        file(Value::Object(entries.collect()).to_string(), 4 * names.len())
    };
    folder.put("one.safetensors", part(&["a", "b"]));
    folder.put("two.safetensors", file(json!({ "c": entry("F32", &[1], 0, 4), "mask": entry("BOOL", &[1], 4, 5) }).to_string(), 5));
    folder.put("both.safetensors", part(&["a", "c"]));
    let index = |map: Value| drop(folder.put("model.safetensors.index.json", json!({ "metadata": {}, "weight_map": map }).to_string()));
    let good = json!({ "a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors", "mask": "two.safetensors" });
    index(good.clone());
    let weights = read().expect("two files");
    assert_eq!(weights.tensors.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(weights.unsupported.keys().collect::<Vec<_>>(), ["mask"]);
    assert!(sentence("missing", weights.get("d", &[1].into())).contains("model.safetensors.index.json: has no tensor 'd'"));
    assert!(sentence("shape", weights.get("c", &[2].into())).contains("two.safetensors: tensor 'c'"));

    for (key, value, expected) in [
        ("a", json!("three.safetensors"), "lists three.safetensors, which is missing"),
        ("a", json!("two.safetensors"), "one.safetensors: has a tensor 'a', which model.safetensors.index.json places in two.safetensors"),
        ("a", json!(null), "names no file for the tensor 'a'"),
        (
            "b",
            json!("both.safetensors"),
            "both.safetensors: has a tensor 'a', which model.safetensors.index.json places in one.safetensors",
        ),
        ("d", json!("one.safetensors"), "places the tensor 'd' in one.safetensors, which does not have it"),
        ("a", json!("model.safetensors.index.json"), "model.safetensors.index.json: is not a valid safetensors file"),
    ] {
        let mut map = good.clone();
        map[key] = value;
        index(map);
        let message = sentence(key, read());
        assert!(message.contains(expected), "{message}");
    }
    let names = [
        "",
        ".",
        "..",
        "../one.safetensors",
        "./one.safetensors",
        "one.safetensors/",
        "/etc/passwd",
        "..\\one",
        "C:one",
        "a\0b",
        "x\x1b[2J/y",
    ];
    for name in names {
        let mut map = good.clone();
        map["a"] = name.into();
        index(map);
        let message = sentence(name, read());
        assert!(message.contains("which is not a file name; fetch it again"), "{name}: {message}");
    }
    let mut map = good.clone();
    map.as_object_mut().expect("an object").remove("a");
    index(map);
    assert!(sentence("unlisted", read()).contains("one.safetensors: has a tensor 'a', which model.safetensors.index.json does not list"));
    for (text, expected) in [
        ("", "JSON"),
        ("{}", "has no object 'weight_map'"),
        ("[]", "has no object 'weight_map'"),
        (r#"{"weight_map": []}"#, "has no object 'weight_map'"),
        (r#"{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}"#, "the key 'a' appears twice"),
    ] {
        folder.put("model.safetensors.index.json", text);
        let message = sentence(text, read());
        assert!(message.contains(expected), "{text}: {message}");
    }
    folder.put("model.safetensors.index.json", [0xff]);
    assert!(sentence("not text", read()).contains("line 1 is not UTF-8"));

    // A single file takes precedence over the index.
    folder.put("model.safetensors", part(&["x"]));
    assert_eq!(read().expect("one file").tensors.len(), 1);
    assert!(sentence("a file", Weights::read_directory(&folder.0.join("one.safetensors"))).contains("is not a directory"));
}

#[test]
fn matrices_are_rounded_to_half_precision() {
    let mut weights = Weights::default();
    let numbers = [1.0, 1.0 + f32::EPSILON, 65_504.0, 1e-30];
    weights.tensors.insert("matrix".into(), Weight::from_f32([2, 2].into(), &numbers));
    weights.tensors.insert("vector".into(), Weight::from_f32([2].into(), &[1e30, 0.1]));
    weights.tensors.insert("large".into(), Weight::from_f32([1, 2].into(), &[0.0, 70_000.0]));
    weights.tensors.insert("damaged".into(), Weight::from_f32([1, 2].into(), &[0.0, f32::NAN]));
    let halved = weights.clone().halved();
    let matrix = halved.get("matrix", &[2, 2].into()).expect("numbers that f16 holds");
    assert_eq!((matrix.dtype, matrix.to_f32()), (DType::F16, vec![1.0, 1.0, 65_504.0, 0.0]));
    // A weight that trains is not rounded.
    assert_eq!(matrix.in_format(DType::F32), weights.tensors["matrix"].bytes());
    assert_eq!(halved.tensors["vector"], weights.tensors["vector"]);
    let large = sentence("a large number", halved.get("large", &[1, 2].into()));
    assert!(large.contains("'large'") && large.contains("element 1") && large.contains("--precision f32"), "{large}");
    let damaged = sentence("a value that is not a number", halved.get("damaged", &[1, 2].into()));
    assert!(damaged.contains("not finite"), "{damaged}");
}
