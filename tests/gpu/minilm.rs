//! The real all-MiniLM-L6-v2 against `transformers`: `tests/fixtures/make_minilm.py` computed the expected values. `make model` fetches the
//! model.

use std::fs;
use std::path::{Path, PathBuf};

use graftling::embed::Embedder;
use graftling::gpu::Program;
use graftling::graph::Graph;
use graftling::model::{Base, Model, Trains};
use graftling::text::{Batch, Sequence};
use graftling::weights::Weights;
use serde_json::Value;

use crate::harness::{self, close, device};
use crate::whole::write_inputs;

fn file() -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/all-MiniLM-L6-v2");
    assert!(file.exists(), "{} is missing: scripts/fetch-minilm downloads it", file.display());
    file
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn expected(name: &str) -> Vec<f64> {
    let weights = Weights::read(&fixture("minilm.safetensors")).expect("a fixture");
    weights.tensors[name].to_f32().into_iter().map(f64::from).collect()
}

fn texts() -> Vec<(String, Vec<u32>)> {
    let json: Value = serde_json::from_slice(&fs::read(fixture("minilm.json")).expect("a fixture")).expect("JSON");
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let ids = |value: &Value| list(value).iter().map(|id| id.as_u64().expect("a number") as u32).collect();
    let text = |value: &Value| value.as_str().expect("a text").to_string();
    list(&json["texts"]).iter().map(text).zip(list(&json["tokens"]).iter().map(ids)).collect()
}

#[test]
fn hidden_states_and_sentence_vectors() {
    let base = Base::open(&file()).expect("the model");
    let model = Model::new(&base.config, &[&base.weights], None, Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &[&base.weights], 0, false).expect("memory");
    assert_eq!(base.config.encoder.map(|e| (e.pooler, e.head, e.token_types)), Some((true, false, 2)));
    let mut sequences = Vec::new();
    for (text, tokens) in texts() {
        let encoded = base.tokenizer.encode_pair(&text, None, 256).expect("tokens");
        assert_eq!(encoded.tokens, tokens, "{text}");
        sequences.push(Sequence::new(tokens));
    }
    let batch = Batch::of(&sequences.iter().collect::<Vec<_>>(), 256);

    let mut g = Graph::new(device().traits(), &model.parameters, false);
    let inputs = model.inputs(&mut g, batch.rows, batch.length, batch.length);
    let hidden = model.hidden(&mut g, &inputs, None);
    g.keep(hidden);
    let mut program = Program::new(device(), &memory, &g).expect("a program");
    write_inputs(device(), &program, &model, &inputs, &batch);
    program.run(device()).expect("a run");
    let hidden: Vec<f32> = program.read(device(), &memory, hidden).expect("a read");
    let width = base.config.hidden_size as usize;
    let rows = hidden.chunks(width * batch.length as usize).zip(&batch.lengths);
    let real: Vec<f32> = rows.flat_map(|(row, &length)| row[..width * length as usize].to_vec()).collect();
    close("hidden states", &real, &expected("hidden"), 1e-5);

    let vectors = Embedder::new(device(), &model, &memory).vectors(&batch).expect("vectors");
    let (got, want) = (vectors.concat(), expected("vectors"));
    let off = got.iter().zip(&want).map(|(&g, w)| (f64::from(g) - w).abs()).fold(0.0, f64::max);
    assert!(got.len() == want.len() && off < 1e-5, "the vectors are off by {off:e}");
}

/// The command gives the same vectors, in each form and from each kind of input.
#[test]
fn the_command_embeds() {
    let place = std::env::temp_dir().join(format!("graftling-{}-embed", std::process::id()));
    fs::create_dir_all(&place).expect("a directory");
    let texts: Vec<_> = texts().into_iter().map(|(text, _)| text).collect();
    fs::write(place.join("texts.txt"), texts.join("\n")).expect("a file");
    let rows: Vec<_> = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string()).collect();
    fs::write(place.join("texts.jsonl"), rows.join("\n")).expect("a file");
    let model = file().display().to_string();
    let run = |line: &str, input: &str| {
        let mut command = harness::command();
        fs::write(place.join("input"), input).expect("a file");
        command.current_dir(&place).args(["embed", "--model", &model]).args(line.split_whitespace());
        command.stdin(fs::File::open(place.join("input")).expect("a file")).output().expect("the command runs")
    };
    let want = expected("vectors");
    let check = |what: &str, got: Vec<f64>| {
        let off = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        assert!(got.len() == want.len() && off < 1e-5, "{what}: off by {off:e}");
    };
    let parsed = |lines: &str| -> Vec<f64> {
        let vector = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["vector"].as_array().expect("a list").clone();
        lines.lines().flat_map(vector).map(|number| number.as_f64().expect("a number")).collect()
    };
    for (line, input) in [("--data texts.txt", ""), ("--data texts.jsonl --batch-size 3", ""), ("--data -", &texts.join("\n"))] {
        let output = run(line, input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        check(line, parsed(&String::from_utf8_lossy(&output.stdout)));
    }
    let output = run("--data texts.txt --out vectors.npy --json", "");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&result["vectors"], &result["dimension"], &result["out"]), (&10.into(), &384.into(), &"vectors.npy".into()));
    let bytes = fs::read(place.join("vectors.npy")).expect("the array");
    check("npy", bytes[128..].chunks(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().expect("four bytes")))).collect());

    fs::write(place.join("empty.txt"), "One.\n\nThree.\n").expect("a file");
    let builtin =
        harness::command().current_dir(&place).args(["embed", "--model", "builtin", "--data", "texts.txt"]).output().expect("a run");
    for (output, code, words) in [
        (run("--data empty.txt", ""), 3, "line 2 has an empty 'text'"),
        (run("--data texts.txt --out vectors.bin", ""), 2, "name a .npy or a .jsonl file"),
        (builtin, 2, "is a decoder, but sentence vectors come from an encoder"),
    ] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(words), "'{said}' does not say '{words}'");
    }
    let mut generate = harness::command();
    let output = generate.args(["generate", "--model", &model, "--prompt", "Once"]).output().expect("a run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("is an encoder, which cannot continue a text"), "{said}");
    fs::remove_dir_all(&place).expect("it goes");
}
