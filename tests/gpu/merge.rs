//! `merge`: a LoRA in the weights of its base gives what the base gives with the LoRA, in both file formats and from one to the other.

use std::path::{Path, PathBuf};
use std::process::Output;

use graftling::model::{Base, Merged, Model, SavedAdapter, Trains, merge, read_adapter};
use graftling::weights::{GgmlType, Gguf, Weights};

use crate::harness::{close, command, device};
use crate::peft;
use crate::pretrained::Fixture;
use crate::whole::logits;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder for the result, which is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = Folder(std::env::temp_dir().join(format!("graftling-merge-{}-{name}", std::process::id())));
        folder.clear();
        folder
    }

    fn clear(&self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The logits of the fixture's batch by the model at `path`.
fn logits_of(fixture: &Fixture, path: &Path) -> Vec<f32> {
    let (config, weights) = Base::open_weights(path).expect("a model");
    let model = Model::new(&config, &[&weights], None, Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &[&weights], 0, false).expect("memory");
    logits(&model, &memory, &fixture.batch())
}

fn with_lora(fixture: &Fixture, saved: &SavedAdapter) -> Vec<f64> {
    let changes = saved.sources(&fixture.config).expect("the adapter's tensors");
    let sources: Vec<_> = [&fixture.weights].into_iter().chain(&changes).collect();
    let model = Model::new(&fixture.config, &sources, Some(&saved.config), Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &sources, 0, false).expect("memory");
    logits(&model, &memory, &fixture.batch()).into_iter().map(f64::from).collect()
}

/// Every LoRA of PEFT among the fixtures: rsLoRA, patterns of ranks and alphas, a trained head, GPT-2's transposed matrices, permuted heads.
#[test]
fn a_merged_model_is_its_base_with_the_lora() {
    for (name, cases) in peft::CASES {
        let fixture = Fixture::open(name);
        let base = self::fixture("models").join(name);
        for case in cases {
            let saved = read_adapter(&peft::path(name, case)).expect("an adapter");
            let want = with_lora(&fixture, &saved);
            let folder = Folder::new(&format!("{case}-{name}"));
            // Some of the bases are in bf16, to which the sum would be rounded.
            let merged = merge(&base, &saved, &folder.0, Some(GgmlType::F32)).expect("a merged model");
            assert!(merged.modules > 0, "{name} {case}: {merged:?}");
            close(&format!("{name} with {case} merged"), &logits_of(&fixture, &folder.0), &want, 1e-5);
        }
    }
}

/// From a GGUF file into a directory, and from there into a GGUF file, whose tokenizer and metadata are then those of the first.
#[test]
fn models_cross_from_one_format_to_the_other() {
    for name in ["gpt2.gguf", "llama.gguf", "qwen2.gguf", "qwen3.gguf"] {
        let fixture = Fixture::open(name);
        let base = self::fixture("models").join(name);
        let saved = read_adapter(&peft::path(name, "all")).expect("an adapter");
        let want = with_lora(&fixture, &saved);
        let (directory, file) = (Folder::new(&format!("{name}-directory")), Folder::new(&format!("crossed-{name}")));
        merge(&base, &saved, &directory.0, Some(GgmlType::F32)).expect("a directory");
        close(&format!("{name} in a directory"), &logits_of(&fixture, &directory.0), &want, 1e-5);

        // A LoRA that does nothing: B is zero.
        let mut nothing = saved.clone();
        for (tensor, weight) in &mut nothing.weights.tensors {
            if tensor.ends_with("lora_B.weight") {
                *weight = graftling::weights::Weight::from_f32(weight.shape.clone(), &vec![0.0; weight.shape.len() as usize]);
            }
        }
        nothing.made_on = None;
        merge(&directory.0, &nothing, &file.0, None).expect("a file");
        close(&format!("{name} in a file again"), &logits_of(&fixture, &file.0), &want, 1e-5);
        let [first, last] = [&base, &file.0].map(|path| Gguf::open(path).expect("a file"));
        for (key, value) in first.metadata() {
            // Only the base has blocks, in one case.
            if !["general.name", "general.file_type", "general.quantization_version"].contains(&&key[..]) {
                assert_eq!(last.metadata().get(key), Some(value), "{name}: {key}");
            }
        }
        let shapes = |file: &Gguf| file.tensors().map(|t| (t.name.to_string(), t.shape.clone())).collect::<Vec<_>>();
        assert_eq!(shapes(&last), shapes(&first), "{name}");
        let texts =
            [&base, &directory.0, &file.0].map(|path| Base::open(path).expect("a model").tokenizer.encode("a b  c\n").expect("tokens"));
        assert!(texts[0] == texts[1] && texts[0] == texts[2], "{name}: {texts:?}");
    }
}

/// Only what has a LoRA changes; all else has the bytes of the base's file, in its order, and so have the metadata.
#[test]
fn untouched_tensors_keep_their_bytes() {
    let (base, folder) = (fixture("models/qwen3.gguf"), Folder::new("untouched.gguf"));
    let saved = read_adapter(&peft::path("qwen3", "default")).expect("an adapter");
    merge(&base, &saved, &folder.0, None).expect("a file");
    let [old, new] = [&base, &folder.0].map(|path| std::fs::read(path).expect("the file"));
    assert_eq!(old.len(), new.len());
    let [old, new] = [&base, &folder.0].map(|path| Gguf::open(path).expect("a file"));
    assert_eq!(old.metadata(), new.metadata());
    for (old, new) in old.tensors().zip(new.tensors()) {
        assert_eq!((old.name, old.shape, old.format), (new.name, new.shape, new.format));
        let changed = old.name.contains("attn_q.") || old.name.contains("attn_v.");
        assert_eq!(old.bytes != new.bytes, changed, "{}", old.name);
    }

    let (base, folder) = (fixture("models/gpt2"), Folder::new("untouched"));
    let saved = read_adapter(&peft::path("gpt2", "default")).expect("an adapter");
    merge(&base, &saved, &folder.0, None).expect("a directory");
    let [old, new] = [&base, &folder.0].map(|path| Weights::read_directory(path).expect("the weights").tensors);
    assert!(old.keys().eq(new.keys()));
    for (name, old) in &old {
        assert_eq!(*old != new[name], name.contains("c_attn.weight"), "{name}");
    }
    for file in ["config.json", "generation_config.json"] {
        let [old, new] = [&base, &folder.0].map(|path| std::fs::read(path.join(file)).expect(file));
        assert_eq!(old, new, "{file}");
    }
}

/// Formats that are asked for: vectors stay f32, rows that are not whole blocks become F16, and the head has at least 8 bits.
#[test]
fn matrices_get_the_format_that_is_asked_for() {
    let base = fixture("models/qwen3.gguf");
    let saved = read_adapter(&peft::path("qwen3", "all")).expect("an adapter");
    let fixture = Fixture::open("qwen3.gguf");
    let want = with_lora(&fixture, &saved);
    for (format, file_type, tolerance) in [
        (GgmlType::F16, 1, 2e-3),
        (GgmlType::Bf16, 32, 2e-2),
        (GgmlType::Q8_0, 7, 4e-2),
        (GgmlType::Q5_1, 9, 0.3),
        (GgmlType::Q4_0, 2, 0.6),
    ] {
        let folder = Folder::new(&format!("{format}.gguf"));
        let Merged { tensors, converted, coarse, .. } = merge(&base, &saved, &folder.0, Some(format)).expect("a file");
        let file = Gguf::open(&folder.0).expect("a file");
        assert_eq!(file.tensors().len(), tensors);
        assert_eq!(file.value::<u32>("general.file_type").expect("a number"), Some(file_type), "{format}");
        for tensor in file.tensors() {
            let head = tensor.name == "token_embd.weight" || tensor.name == "output.weight";
            let expected = match (tensor.shape.axes(), format.block_len()) {
                ([_], _) => GgmlType::F32,
                ([_, row], len) if row % len as u64 != 0 => GgmlType::F16,
                (_, 1) => format,
                _ if head && fixture.config.tied => GgmlType::Q8_0,
                _ => format,
            };
            assert_eq!(tensor.format, expected, "{} of {format}", tensor.name);
        }
        assert!(!converted.is_empty());
        assert_eq!(coarse > 0, [GgmlType::Q5_1, GgmlType::Q4_0].contains(&format), "{coarse} of {format}");
        close(&format!("qwen3 in {format}"), &logits_of(&fixture, &folder.0), &want, tolerance);
    }
}

/// A changed tensor in a format that cannot be written becomes Q8_0; the others stay.
#[test]
fn what_cannot_be_written_becomes_finer() {
    let base = fixture("models/qwen3.gguf");
    let saved = read_adapter(&peft::path("qwen3", "default")).expect("an adapter");
    let (halves, again) = (Folder::new("halves.gguf"), Folder::new("again.gguf"));
    // IQ4_NL takes the place of Q4_0, whose blocks have the same size.
    merge(&base, &saved, &halves.0, Some(GgmlType::Q4_0)).expect("a file");
    let mut bytes = std::fs::read(&halves.0).expect("the file");
    let file = Gguf::open(&halves.0).expect("a file");
    let names: Vec<_> = file.tensors().filter(|t| t.format == GgmlType::Q4_0).map(|t| t.name.to_string()).collect();
    let mut count = 0;
    for name in &names {
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).expect("the name");
        let id = at + name.len() + 4 + 2 * 8;
        assert_eq!(bytes[id], 2, "{name}");
        bytes[id] = 20;
        count += 1;
    }
    drop(file);
    std::fs::write(&halves.0, bytes).expect("the file");
    let merged = merge(&halves.0, &saved, &again.0, None).expect("a file");
    let file = Gguf::open(&again.0).expect("a file");
    let finer = file.tensors().filter(|t| t.format == GgmlType::Q8_0 && names.contains(&t.name.to_string())).count();
    let kept = file.tensors().filter(|t| t.format == GgmlType::Iq4Nl).count();
    assert!(finer > 0 && kept > 0 && finer + kept == count, "{finer} and {kept} of {count}");
    assert_eq!(merged.converted.into_iter().collect::<Vec<_>>(), [(["iq4_nl", "q8_0"], finer)]);
}

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).output().expect("the command")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What cannot be done gets one sentence, and leaves nothing behind.
#[test]
fn refusals() {
    let (llama, gguf) = (fixture("models/llama"), fixture("models/llama.gguf"));
    let (lora, bottleneck) = (peft::path("llama", "all"), llama.join("seq_bn"));
    let out = Folder::new("refused");
    let file = Folder::new("refused.gguf");
    let cases: [(&[&str], i32, &str); 7] = [
        (
            &["--model", text(&llama), "--adapter", text(&bottleneck), "--out", text(&out.0)],
            3,
            "is a bottleneck adapter, which is not linear and so cannot be folded",
        ),
        (&["--model", text(&llama), "--adapter", text(&lora), "--out", text(&out.0), "--type", "q8_0"], 2, "which has no q8_0"),
        (&["--model", text(&llama), "--adapter", text(&lora), "--out", text(&llama)], 2, "exists; remove it"),
        (&["--model", text(&gguf), "--adapter", text(&lora), "--out", text(&gguf)], 2, "is the model itself"),
        (&["--model", text(&llama), "--adapter", text(&lora), "--out", text(&file.0)], 3, "tokenizer.json"),
        (&["--model", "builtin", "--adapter", text(&lora), "--out", text(&out.0)], 3, "model"),
        (&["--model", text(&gguf), "--adapter", text(&lora), "--out", text(&file.0), "--type", "q6_k"], 2, "q6_k"),
    ];
    for (arguments, code, words) in cases {
        let output = run(&[&["merge"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(!out.0.exists() && !file.0.exists() && !file.0.with_added_extension("partial").exists(), "{arguments:?}");
    }
    let output = run(&["merge", "--model", text(&gguf), "--adapter", text(&lora), "--out", text(&file.0), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON object");
    assert_eq!(json["modules"], 21, "{json}");
    assert_eq!(json["converted"], serde_json::json!([]), "{json}");
}
