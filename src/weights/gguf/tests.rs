//! Good and bad files, built byte by byte.

use std::path::Path;

use super::build::*;
use super::*;
use crate::random::Random;

/// A valid file with every kind of value and several formats. It ends in 12 bytes of padding.
fn valid() -> Vec<u8> {
    let entries = [
        entry("general.architecture", STRING, &text("llama")),
        entry("u8", 0, &[200]),
        entry("i8", 1, &[200]),
        entry("u16", 2, &[0, 200]),
        entry("i16", 3, &[0, 200]),
        entry("u32", U32, &u32::MAX.to_le_bytes()),
        entry("i32", 5, &(-5_i32).to_le_bytes()),
        entry("f32", F32, &0.1_f32.to_le_bytes()),
        entry("bool", 7, &[1]),
        entry("u64", 10, &(1_u64 << 40).to_le_bytes()),
        entry("i64", 11, &7_i64.to_le_bytes()),
        entry("f64", 12, &1e-5_f64.to_le_bytes()),
        entry("general.alignment", U32, &32_u32.to_le_bytes()),
        array("tokens", STRING, 3, &[text("a"), text(""), text("Ġß")].concat()),
        array("scores", F32, 2, bytemuck::cast_slice(&[0.5_f32, f32::NEG_INFINITY])),
        array("types", 5, 2, bytemuck::cast_slice(&[1_i32, -2])),
        array("counts", U32, 2, bytemuck::cast_slice(&[1_u32, i32::MAX as u32])),
        array("large counts", U32, 2, bytemuck::cast_slice(&[1_u32, 1 << 31])),
        array("flags", 7, 2, &[0, 1]),
        array("empty", STRING, 0, &[]),
    ];
    let tensors = [
        described("token_embd.weight", &[32, 3], 8, 0), // 102 bytes of Q8_0, then 26 of padding.
        described("norm", &[5], 0, 128),                // 20 bytes of F32, then 12 of padding.
        described("blk.0.attn_q.weight", &[64, 1, 2], 2, 160), // 72 bytes of Q4_0, then 24 of padding.
        described("blk.0.ffn_up.weight", &[256, 1], 12, 256), // 144 bytes of Q4_K, then 16 of padding.
        described("half", &[2, 2], 1, 416),             // 8 bytes of F16.
        described("last", &[10], 30, 448),              // 20 bytes of BF16, then 12 of padding.
    ];
    file(&entries, &tensors, 480)
}

fn read(file: &[u8]) -> Result<Gguf> {
    Gguf::from_bytes(Path::new("model.gguf"), file.to_vec())
}

/// The error's message, after checking that it is one short sentence.
fn problem(what: &str, result: Result<Gguf>) -> String {
    let error = result.err().unwrap_or_else(|| panic!("{what}: no error"));
    assert!(matches!(error, Error::File { .. }), "{what}: {error:?}");
    let message = error.to_string();
    assert!(message.starts_with("model.gguf: ") && message.contains("; "), "{what}: {message}");
    assert!(message.len() < 400 && !message.contains(char::is_control), "{what}: {message}");
    message
}

/// Calls every reader of a file.
fn use_all(gguf: &Gguf) -> usize {
    let mut seen = 0;
    for key in gguf.metadata().keys() {
        seen +=
            gguf.value::<u32>(key).is_ok() as usize + gguf.value::<f32>(key).is_ok() as usize + gguf.value::<bool>(key).is_ok() as usize;
        seen += gguf.value::<&str>(key).map_or(0, |text| text.unwrap_or_default().len());
        seen += gguf.value::<Strings>(key).map_or(0, |strings| strings.into_iter().flatten().map(str::len).sum());
        seen += gguf.value::<Vec<f32>>(key).is_ok() as usize + gguf.value::<Vec<i32>>(key).is_ok() as usize;
    }
    for tensor in gguf.tensors() {
        assert_eq!(tensor.row_bytes() * tensor.shape.rows() as usize, tensor.bytes.len(), "{}", tensor.name);
        seen += tensor.to_f32().len() + gguf.get(tensor.name, tensor.shape).is_ok() as usize;
    }
    seen
}

#[test]
fn a_file_comes_back() {
    for version in [2_u32, 3] {
        let mut file = valid();
        file[4..8].copy_from_slice(&version.to_le_bytes());
        let gguf = read(&file).unwrap_or_else(|e| panic!("{e}"));
        let names: Vec<_> = gguf.tensors().map(|tensor| tensor.name).collect();
        assert_eq!(names, ["blk.0.attn_q.weight", "blk.0.ffn_up.weight", "half", "last", "norm", "token_embd.weight"]);
        let data = file.len() - 480;
        let axes = |name: &str| gguf.tensor(name).expect("it is there").shape.axes().to_vec();
        let bytes = |name: &str| gguf.tensor(name).expect("it is there").bytes;
        assert_eq!(axes("token_embd.weight"), [3, 32]);
        assert_eq!(axes("blk.0.attn_q.weight"), [2, 1, 64]);
        assert_eq!(bytes("token_embd.weight"), &file[data..data + 102]);
        assert_eq!(bytes("norm"), &file[data + 128..data + 148]);
        assert_eq!(bytes("last"), &file[data + 448..data + 468]);
        assert_eq!(gguf.tensor("blk.0.attn_q.weight").expect("it is there").row_bytes(), 36);
        assert_eq!(gguf.tensor("norm").expect("it is there").format, GgmlType::F32);
        assert!(gguf.tensor("nothing").is_none());
    }
}

#[test]
fn values_come_back_in_types_that_hold_them() {
    let gguf = read(&valid()).unwrap_or_else(|e| panic!("{e}"));
    for (key, expected) in [("u8", 200), ("u16", 200 << 8), ("u32", u32::MAX), ("i64", 7), ("general.alignment", 32)] {
        assert_eq!(gguf.required::<u32>(key).expect(key), expected, "{key}");
    }
    let metadata = gguf.metadata();
    assert_eq!(metadata["i8"], Value::Integer(-56));
    assert_eq!(metadata["i16"], Value::Integer(-14336));
    assert_eq!(metadata["u64"], Value::Integer(1 << 40));
    assert_eq!(gguf.required::<f32>("f32").expect("f32"), 0.1);
    assert_eq!(gguf.required::<f32>("f64").expect("f64"), 1e-5);
    assert!(gguf.required::<bool>("bool").expect("bool"));
    assert_eq!(gguf.required::<&str>("general.architecture").expect("a string"), "llama");
    assert_eq!(gguf.required::<Vec<f32>>("scores").expect("scores"), [0.5, f32::NEG_INFINITY]);
    assert_eq!(gguf.required::<Vec<i32>>("types").expect("types"), [1, -2]);
    assert_eq!(gguf.required::<Vec<i32>>("counts").expect("counts"), [1, i32::MAX]);
    assert!(gguf.required::<Vec<i32>>("large counts").is_err());
    let tokens = gguf.required::<Strings>("tokens").expect("tokens");
    assert_eq!(tokens.len(), 3);
    assert_eq!(tokens.collect::<Vec<_>>(), ["a", "", "Ġß"]);
    assert_eq!(gguf.required::<Strings>("empty").expect("empty").len(), 0);
    assert_eq!(gguf.value::<u32>("nothing").expect("a missing key is no error"), None);

    let message = |error: Option<Error>| error.expect("an error").to_string();
    assert_eq!(
        message(gguf.required::<u32>("nothing").err()),
        "model.gguf: has no key 'nothing'; convert the model again with a current converter"
    );
    assert_eq!(
        message(gguf.value::<u32>("i32").err()),
        "model.gguf: key 'i32' is the integer -5, expected an integer from 0 to 4294967295; convert the model again"
    );
    assert!(message(gguf.value::<u32>("u64").err()).contains("the integer 1099511627776"));
    assert!(message(gguf.value::<u32>("types").err()).contains("an array of 2 I32"));
    assert!(message(gguf.value::<f32>("u8").err()).contains("expected a finite floating-point number;"));
    assert!(message(gguf.value::<Strings>("scores").err()).contains("expected an array of strings;"));
    assert!(message(gguf.value::<&str>("tokens").err()).contains("an array of 3 String"));
    assert!(message(gguf.value::<bool>("f32").err()).contains("the number 0.1"));
}

#[test]
fn a_tensor_is_given_out_only_as_it_was_asked_for() {
    let mut file = valid();
    let norm = file.len() - 480 + 128;
    file[norm..norm + 20].copy_from_slice(bytemuck::cast_slice(&[1.0_f32, -2.0, 3.0, f32::MAX, 5.0]));
    let gguf = read(&file).unwrap_or_else(|e| panic!("{e}"));
    let tensor = gguf.get("norm", &Shape::from([5])).expect("it is as asked for");
    assert_eq!(tensor.to_f32(), [1.0, -2.0, 3.0, f32::MAX, 5.0]);

    let message = |gguf: &Gguf, name, shape| gguf.get(name, &shape).expect_err("it is not as asked for").to_string();
    assert!(message(&gguf, "nothing", Shape::from([5])).contains("has no tensor 'nothing'"));
    assert!(message(&gguf, "norm", Shape::from([4])).contains("'norm' has the shape (5), but the metadata require (4)"));
    file[norm + 12..norm + 16].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let gguf = read(&file).unwrap_or_else(|e| panic!("{e}"));
    assert!(message(&gguf, "norm", Shape::from([5])).contains("'norm' has a number that is not finite at element 3"));
}

#[test]
fn a_file_that_ends_anywhere_too_soon_is_an_error() {
    let file = valid();
    let needed = file.len() - 12;
    for len in 0..needed {
        let message = problem(&format!("{len} bytes"), read(&file[..len]));
        assert!(message.contains("cut short") || (len < 4 && message.contains("not a GGUF file")), "{len} bytes: {message}");
    }
    for len in needed..=file.len() {
        assert!(read(&file[..len]).is_ok(), "{len} bytes have all tensors");
    }
}

#[test]
fn bad_files_are_errors_that_name_what_is_wrong() {
    let max = u64::MAX;
    let half = 1_u64 << 63;
    let long = "n".repeat(64);
    let key = |value: Vec<u8>| file(&[value], &[], 64);
    let one = |tensor: Vec<u8>| file(&[], &[tensor], 64);
    let two = |second: Vec<u8>| file(&[], &[described("a", &[4], 0, 0), second], 64);
    let aligned = |kind, value: &[u8]| file(&[entry("general.alignment", kind, value)], &[described("a", &[4], 0, 0)], 64);
    let axes = |count: u32| [&text("a")[..], &count.to_le_bytes(), &[1; 64]].concat();
    // The length and first bytes of a string or array that is not complete.
    let lying = |kind: u32, len: u64| entry("k", kind, &[&len.to_le_bytes()[..], &[0; 40]].concat());
    let lying_array = |kind: u32, len: u64| array("k", kind, len, &[0; 40]);
    let headed = |word: u32| [b"GGUF", &word.to_le_bytes()[..], &[0; 16]].concat();
    let sized = |tensors, entries| [counts(tensors, entries), vec![0; 64]].concat();
    let mut not_utf8 = text("kk");
    not_utf8[8] = 0xff;

    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("empty", vec![], "not a GGUF file"),
        ("safetensors", b"\x10\0\0\0\0\0\0\0{\"a\":{}}".to_vec(), "not a GGUF file"),
        ("version 0", headed(0), "version 0"),
        ("version 1", headed(1), "version 1"),
        ("version 4", headed(4), "version 4"),
        ("big-endian", headed(3 << 24), "big-endian"),
        // Counts.
        ("entries 2^63", sized(0, half), "9223372036854775808 metadata entries"),
        ("entries 2^64 - 1", sized(0, max), "metadata entries"),
        ("entries that wrap", sized(0, max / 13 + 2), "metadata entries"),
        ("entries past the end", sized(0, 5), "the list of its 5 metadata entries"),
        ("tensors 2^63", sized(half, 0), "9223372036854775808 tensors"),
        ("tensors that wrap", sized(1 << 59, 0), "tensors"),
        ("tensors past the end", sized(3, 0), "the list of its 3 tensors"),
        // Metadata.
        ("key length 2^64 - 1", [counts(0, 1), vec![0xff; 32]].concat(), "the key of metadata entry 0"),
        ("key length 2^63", [&counts(0, 1)[..], &half.to_le_bytes(), &[0; 32]].concat(), "the key of metadata entry 0"),
        ("empty key", key(entry("", U32, &[0; 4])), "the key of metadata entry 0 has 0 bytes"),
        ("long key", key(entry(&"k".repeat(65536), U32, &[0; 4])), "the key of metadata entry 0 has 65536 bytes"),
        ("key not UTF-8", key([&not_utf8[..], &U32.to_le_bytes(), &[0; 4]].concat()), "the key of metadata entry 0 is not UTF-8"),
        ("key twice", file(&[entry("k", U32, &[0; 4]), entry("k", U32, &[0; 4])], &[], 0), "the key 'k' appears twice"),
        ("key of control characters", key(entry("\x1b[2J\n", 13, &[0; 4])), "'\\u{1b}[2J\\n'"),
        ("kind 13", key(entry("k", 13, &[0; 8])), "key 'k' is of the unknown kind 13"),
        ("kind 2^32 - 1", key(entry("k", u32::MAX, &[0; 8])), "of the unknown kind 4294967295"),
        ("string length 2^63", key(lying(STRING, half)), "the value of key 'k'"),
        ("string length 2^64 - 1", key(lying(STRING, max)), "the value of key 'k'"),
        ("string length that wraps", key(lying(STRING, max - 24)), "the value of key 'k'"),
        ("string not UTF-8", key(entry("k", STRING, &not_utf8)), "the value of key 'k' is not UTF-8"),
        ("bool 2", key(entry("k", 7, &[2])), "the value of key 'k' is neither true nor false"),
        ("array of arrays", key(lying_array(ARRAY, 1)), "an array of arrays"),
        ("array of kind 13", key(lying_array(13, 1)), "of the unknown kind 13"),
        ("array length 2^63", key(lying_array(0, half)), "the value of key 'k'"),
        ("array length that wraps u32", key(lying_array(U32, 1 << 62)), "the value of key 'k'"),
        ("array length that wraps u64", key(lying_array(10, 1 << 61)), "the value of key 'k'"),
        ("array length that wraps strings", key(lying_array(STRING, 1 << 61)), "the value of key 'k'"),
        ("array past the end", key(lying_array(F32, 1000)), "the value of key 'k'"),
        ("array of strings past the end", key(array("k", STRING, 2, &[&text("a")[..], &[0xff; 8]].concat())), "the value of key 'k'"),
        ("array of strings not UTF-8", key(array("k", STRING, 1, &not_utf8)), "the value of key 'k' is not UTF-8"),
        ("array of bools 2", key(array("k", 7, 2, &[1, 2])), "neither true nor false"),
        ("one part", key(entry("split.count", 2, &[3, 0])), "one of 3 parts"),
        ("parts as text", key(entry("split.count", STRING, &text("3"))), "key 'split.count' is a string"),
        // Alignment.
        ("alignment 0", aligned(U32, &0_u32.to_le_bytes()), "'general.alignment' is the integer 0"),
        ("alignment 13", aligned(U32, &13_u32.to_le_bytes()), "'general.alignment' is the integer 13"),
        ("alignment 2^31", aligned(U32, &0x8000_0000_u32.to_le_bytes()), "'general.alignment' is the integer 2147483648"),
        ("alignment -32", aligned(5, &(-32_i32).to_le_bytes()), "'general.alignment' is the integer -32"),
        ("alignment as text", aligned(STRING, &text("32")), "'general.alignment' is a string"),
        // Tensors.
        ("name length 2^64 - 1", [counts(1, 0), vec![0xff; 64]].concat(), "the name of tensor 0"),
        ("empty name", one(described("", &[4], 0, 0)), "the name of tensor 0 has 0 bytes"),
        ("long name", one(described(&long, &[4], 0, 0)), "the name of tensor 0 has 64 bytes"),
        ("name not UTF-8", one([&not_utf8[..], &[0; 40]].concat()), "the name of tensor 0 is not UTF-8"),
        ("name twice", two(described("a", &[4], 0, 32)), "the tensor 'a' appears twice"),
        ("no axes", one(axes(0)), "tensor 'a' has 0 axes"),
        ("5 axes", one(axes(5)), "tensor 'a' has 5 axes"),
        ("2^32 - 1 axes", one(axes(u32::MAX)), "tensor 'a' has 4294967295 axes"),
        ("extent 0", one(described("a", &[4, 0], 0, 0)), "tensor 'a' has an axis of extent 0"),
        ("extent 2^63", one(described("a", &[half], 0, 0)), "an axis of extent 9223372036854775808"),
        ("extent 2^64 - 1", one(described("a", &[4, max], 0, 0)), "an axis of extent 18446744073709551615"),
        ("elements that wrap", one(described("a", &[1 << 31, 1 << 31, 1 << 31, 1 << 31], 0, 0)), "impossible shape"),
        ("elements that wrap to 0", one(described("a", &[1 << 31, 1 << 31, 4, 1], 0, 0)), "impossible shape"),
        ("bytes that wrap", one(described("a", &[0xffff_fffc, 0xffff_ffff], 0, 0)), "impossible shape (4294967295, "),
        ("bytes that wrap in f32", one(described("a", &[1 << 31, 0xffff_ffff], 0, 0)), "impossible shape (4294967295, "),
        ("format 4", one(described("a", &[32], 4, 0)), "tensor 'a' has the unknown type 4"),
        ("format IQ2_XXS", one(described("a", &[256], 16, 0)), "tensor 'a' has the type IQ2_XXS, which is not supported"),
        ("format 2^32 - 1", one(described("a", &[32], u32::MAX, 0)), "unknown type 4294967295"),
        ("row of half a block", one(described("a", &[48, 2], 8, 0)), "'a' has rows of 48 elements, but Q8_0 has blocks of 32"),
        ("row of an eighth of a block", one(described("a", &[32], 14, 0)), "rows of 32 elements, but Q6_K has blocks of 256"),
        ("first offset", one(described("a", &[4], 0, 32)), "'a' begins at offset 32 of the data, expected 0"),
        ("overlap", two(described("b", &[4], 0, 0)), "'b' begins at offset 0 of the data, expected 32"),
        ("gap", two(described("b", &[4], 0, 64)), "'b' begins at offset 64 of the data, expected 32"),
        ("offset not aligned", two(described("b", &[4], 0, 16)), "'b' begins at offset 16 of the data, expected 32"),
        ("offset 2^63", two(described("b", &[4], 0, half)), "'b' begins at offset 9223372036854775808"),
        ("offset that wraps", two(described("b", &[4], 0, max - 15)), "'b' begins at offset"),
        ("data past the end", two(described("b", &[9], 0, 32)), "the data of its last tensor, 'b'"),
        ("no data", file(&[], &[described("a", &[4], 0, 0)], 0), "the data of its last tensor, 'a'"),
    ];
    for (what, file, expected) in cases {
        let message = problem(what, read(file));
        assert!(message.contains(expected), "{what}: {message}");
    }
}

/// Tensors whose sizes add up to more than 64 bits: the offset of the next one must not wrap.
#[test]
fn sums_of_sizes_do_not_wrap() {
    // The largest allowed extents: each tensor has 2^64 - 2^34 + 4 bytes or a little less.
    let axes = [0xffff_ffff, 0xffff_ffff_u64];
    let bytes = 0xffff_ffff_u128 * 0xffff_ffff * 4;
    assert!(bytes > u128::from(u64::MAX), "one alone does not fit");
    let message = problem("one", read(&file(&[], &[described("a", &axes, 0, 0)], 64)));
    assert!(message.contains("impossible shape (4294967295, 4294967295)"), "{message}");

    let axes = [0xffff_ffff, 0x3fff_ffff_u64];
    let next = (0xffff_ffff_u64 * 0x3fff_ffff * 4).next_multiple_of(32);
    let tensors = [described("a", &axes, 0, 0), described("b", &axes, 0, next)];
    let message = problem("two", read(&file(&[], &tensors, 64)));
    assert!(message.contains("'b' has the impossible shape"), "{message}");
}

#[test]
fn alignments_that_are_possible_work() {
    for alignment in [1_u32, 8, 64, 65536] {
        let entries = [entry("general.alignment", U32, &alignment.to_le_bytes())];
        let next = 16_u64.next_multiple_of(alignment.into());
        let tensors = [described("a", &[4], 0, 0), described("b", &[1], 0, next)];
        let mut file = [counts(2, 1), entries.concat(), tensors.concat()].concat();
        file.resize(file.len().next_multiple_of(alignment as usize) + next as usize, 7);
        file.extend(1.5_f32.to_le_bytes());
        let gguf = read(&file).unwrap_or_else(|e| panic!("{alignment}: {e}"));
        assert_eq!(gguf.tensor("b").expect("it is there").to_f32(), [1.5], "{alignment}");
    }
}

/// A file with only a vocabulary is valid.
#[test]
fn a_file_without_tensors_is_read() {
    let gguf = read(&[counts(0, 1), entry("k", U32, &[1, 0, 0, 0])].concat()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((gguf.tensors().len(), gguf.value::<u32>("k").expect("k")), (0, Some(1)));
}

/// Random damage, from single bits to words of extreme values, must never cause a panic.
#[test]
fn damage_never_panics() {
    const WORDS: [u64; 10] = [0, 1, 9, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 61, 1 << 63, u64::MAX];
    let file = valid();
    let header = file.len() - 480;
    assert!(use_all(&read(&file).unwrap_or_else(|e| panic!("{e}"))) > 0);
    let mut random = Random::new(3, 0);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..20_000 {
        let mut damaged = file.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(header as u64 - 8) as usize;
            let bytes = &mut damaged[at..at + 8];
            match random.below(4) {
                0 => bytes[0] ^= 1 << random.below(8),
                1 => bytes[0] = random.below(256) as u8,
                2 => bytes[..4].copy_from_slice(&(WORDS[random.below(10) as usize] as u32).to_le_bytes()),
                _ => bytes.copy_from_slice(&WORDS[random.below(10) as usize].to_le_bytes()),
            }
        }
        if random.below(8) == 0 {
            damaged.truncate(random.below(file.len() as u64) as usize);
        }
        match read(&damaged) {
            Ok(gguf) => {
                use_all(&gguf);
                good += 1;
            }
            Err(error) => {
                problem("damage", Err(error));
                bad += 1;
            }
        }
    }
    assert!(good > 500 && bad > 5000, "the damage is not of both kinds: {good} files are good, {bad} bad");
}

#[test]
fn a_path_without_a_file_is_an_error() {
    let directory = std::env::temp_dir().join(format!("graftling-gguf-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let open = |name: &str| Gguf::open(&directory.join(name));
    let message = |result: Result<Gguf>| result.err().expect("an error").to_string();
    assert!(message(open("nothing.gguf")).contains("cannot be read"));
    assert!(message(Gguf::open(&directory)).contains("is not a file"));
    std::fs::write(directory.join("empty.gguf"), []).expect("a file can be written");
    assert!(message(open("empty.gguf")).contains("is not a GGUF file"));
    std::fs::write(directory.join("valid.gguf"), valid()).expect("a file can be written");
    assert_eq!(open("valid.gguf").unwrap_or_else(|e| panic!("{e}")).tensors().len(), 6);
    std::fs::remove_dir_all(&directory).expect("the directory can be removed");
}
