//! The command as a user runs it: its output, files and exit codes.

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::harness;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/base");

fn graftling(arguments: &[&str]) -> Output {
    harness::command().args(arguments).env_remove("XDG_RUNTIME_DIR").output().expect("the command runs")
}

/// The last line of a successful command's standard output, as JSON.
fn json(arguments: &[&str]) -> Value {
    let output = graftling(&[arguments, &["--json", "--quiet"]].concat());
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {error}");
    serde_json::from_str(out.lines().last().expect("a line")).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
}

/// Expects one sentence on standard error that contains these words, and this exit code.
fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    let output = graftling(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let errors = said.lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!((output.status.code(), errors), (Some(code), 1), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: '{said}' does not say '{word}'");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// A directory that is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("graftling-{}-cli-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Folder(path)
    }

    /// The path of a file, which is written if there is a text for it.
    fn file(&self, name: &str, text: Option<&str>) -> String {
        let path = self.0.join(name);
        text.into_iter().for_each(|text| std::fs::write(&path, text).expect("the file"));
        path.to_str().expect("a path").into()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn inspecting() {
    let shown = json(&["inspect", BASE, "--adapter", "seq_bn[bottleneck=8]", "--batch-size", "2", "--max-length", "64"]);
    assert_eq!(
        (shown["architecture"].as_str(), shown["total_params"].as_u64()),
        (Some("graftling"), Some(875_264 + shown["trainable_params"].as_u64().expect("a number")))
    );
    assert!(shown["gpu_bytes"].as_u64() > shown["weight_bytes"].as_u64(), "{shown}");
    // The same model is built into the command.
    assert_eq!(json(&["inspect", "builtin"])["total_params"], json(&["inspect", BASE])["total_params"]);
    // No device takes that many rows at once, so the batch is cut.
    let cut = json(&["inspect", "builtin", "--batch-size", "65536"]);
    assert!(cut["micro_batch_size"].as_u64().is_some_and(|rows| 0 < rows && rows < 65_536), "{cut}");
    assert_eq!(shown["micro_batch_size"].as_u64(), Some(2));
    let text = String::from_utf8(graftling(&["inspect", BASE]).stdout).expect("text");
    assert!(text.contains("identity_bn") && text.contains("GPU memory"), "{text}");
}

/// f32 matrices take half the memory as f16, and the loss changes only by their rounding.
#[test]
fn half_precision() {
    let folder = Folder::new("half");
    let text = folder.file("text.txt", Some("hello world, hello model"));
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models/llama.gguf");
    let in_precision = |precision: &str| {
        let inspected = json(&["inspect", model, "--precision", precision]);
        let evaluated = json(&["eval", "--model", model, "--data", &text, "--precision", precision]);
        (inspected["weight_bytes"].as_f64().expect("a number"), evaluated["loss"].as_f64().expect("a number"))
    };
    let ((single, loss), (half, rounded)) = (in_precision("f32"), in_precision("f16"));
    assert!((0.5..0.52).contains(&(half / single)), "{half} of {single} bytes");
    assert!(loss != rounded && (loss - rounded).abs() < 5e-3, "{loss} and {rounded}");
}

#[test]
fn benching() {
    let result = json(&["bench", "--size", "256", "--batch-size", "1", "--max-length", "16"]);
    let products = result["matmul"].as_array().expect("products");
    assert!(products.len() == 15 && products.iter().all(|p| p["gflops"].as_f64() > Some(0.0) && p["m"] == 256), "{result}");
    let train = &result["train"][0];
    assert!(train["tokens_per_second"].as_f64() > Some(0.0) && train["gpu_bytes"].as_u64() > Some(0), "{result}");
    assert!(train["first_step_seconds"].as_f64() > Some(0.0), "{result}");
    let result = json(&["bench", "--only", "matmul", "--size", "64", "--formats", "f32,Q4_1,q4_k"]);
    let formats: Vec<_> = result["matmul"].as_array().expect("products").iter().map(|p| &p["format"]).collect();
    assert_eq!(formats, ["f32", "q4_1", "f32", "q4_1", "f32"], "{result}");
    assert_eq!(result["train"], serde_json::json!([]));
}

/// From rows of data to a saved adapter, its loss, and a text.
#[test]
fn training_evaluating_and_generating() {
    let folder = Folder::new("train");
    let rows: Vec<String> =
        (0..12).map(|i| format!("{{\"prompt\": \"{i} plus {i} is \", \"completion\": \"{}.\", \"id\": {i}}}", 2 * i)).collect();
    folder.file("train.jsonl", Some(&rows[..9].join("\n")));
    folder.file("valid.jsonl", Some(&rows[9..].join("\n")));
    let (data, run) = (folder.0.to_str().expect("a path"), folder.file("run", None));
    let common = ["--model", BASE, "--data", data, "--max-length", "32"];
    let before = json(&[&["eval"], &common[..]].concat());

    let train = [
        "train",
        "--out",
        &run,
        "--adapter",
        "double_seq_bn[bottleneck=8,dropout=0]",
        "--adapter-name",
        "sums",
        "--steps",
        "9",
        "--learning-rate",
        "3e-2",
    ];
    let options = ["--batch-size", "3", "--eval-every", "6", "--train", "head", "--clip-norm", "1"];
    let result = json(&[&train[..], &common, &options].concat());
    assert!(result["loss_after"].as_f64() < result["loss_before"].as_f64(), "{result}");
    let metrics = std::fs::read_to_string(format!("{run}/metrics.jsonl")).expect("metrics");
    let metrics: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let losses: Vec<_> = metrics.iter().filter(|line| line["loss"].is_number()).collect();
    for key in ["step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "gpu_bytes"] {
        assert!(losses.iter().all(|line| line[key].as_f64().is_some_and(|v| v > 0.0)), "{key} in {losses:?}");
    }
    assert_eq!((losses.len(), losses[8]["epoch"].as_f64()), (9, Some(3.0)));
    let evaluated: Vec<_> = metrics.iter().filter(|line| line["eval_loss"].is_number()).map(|line| line["step"].as_u64()).collect();
    assert_eq!(evaluated, [Some(0), Some(6), Some(9)]);

    let adapter = format!("{run}/adapter");
    for file in ["adapter_config.json", "adapter.safetensors", "model_head.safetensors", "head_config.json"] {
        assert!(PathBuf::from(&adapter).join(file).exists(), "{file} was not saved");
    }
    let after = json(&[&["eval", "--adapter", &adapter], &common[..]].concat());
    assert_eq!((&after["loss"], &before["tokens"]), (&result["eval_loss"], &after["tokens"]));
    assert!(after["loss"].as_f64() < before["loss"].as_f64() && after["perplexity"].is_number(), "{before} {after}");

    let generate = ["generate", "--model", "builtin", "--adapter", &adapter, "--prompt", "2 plus 2 is ", "--max-tokens", "5"];
    let generated = json(&generate);
    assert!(generated["text"].as_str().is_some_and(|text| !text.is_empty()) && generated["tokens"] == 5, "{generated}");
    let printed = graftling(&generate).stdout;
    assert_eq!(
        String::from_utf8_lossy(&printed).trim_end_matches('\n'),
        generated["text"].as_str().expect("a text").trim_end_matches('\n')
    );

    // Several adapters side by side, and the base.
    let pair = ["--adapter", adapter.as_str(), "--adapter", adapter.as_str()];
    let compared = json(&[&["eval"], &pair[..], &common].concat());
    assert_eq!(compared["loss"], before["loss"]);
    assert_eq!((&compared["adapters"][0]["loss"], &compared["adapters"][1]["loss"]), (&after["loss"], &after["loss"]));
    let generated_twice = json(&[&["generate", "--model", BASE, "--prompt", "2 plus 2 is ", "--max-tokens", "5"], &pair[..]].concat());
    assert_eq!((&generated_twice["results"][2]["text"], generated_twice["results"][0]["tokens"].as_u64()), (&generated["text"], Some(5)));

    // Training from a saved adapter starts where it ended.
    let again = folder.file("again", None);
    let go_on = ["train", "--out", &again, "--init-adapter", &adapter, "--steps", "1", "--batch-size", "3"];
    assert!(json(&[&go_on[..], &common].concat())["loss_before"].as_f64() < result["loss_before"].as_f64());
    fails(&[&["train", "--out", &run], &common[..]].concat(), 2, &["already"]);
}

/// A LoRA from a config string to a directory that PEFT reads, its loss, a text, and further training; stopped and resumed, it ends the same.
#[test]
fn a_lora() {
    let folder = Folder::new("lora");
    let data = folder.file("text.txt", Some(&"fn main() { let x = f(y, z); }\n".repeat(12)));
    let common = ["--model", BASE, "--data", &data, "--max-length", "16"];
    let spec = "lora[r=4,alpha=16,dropout=0.1,target_modules=[in_proj,down_proj],rslora=true]";
    let inspected = json(&["inspect", BASE, "--adapter", spec, "--batch-size", "1"]);
    let train = ["--batch-size", "2", "--learning-rate", "1e-2", "--adapter", spec];
    let [run, parts] = ["run", "parts"].map(|name| folder.file(name, None));
    let result = json(&[&["train", "--out", &run, "--steps", "8"], &common[..], &train].concat());
    assert!(result["loss_after"].as_f64() < result["loss_before"].as_f64(), "{result}");
    assert_eq!((&result["trainable_params"], &result["trains"]), (&inspected["trainable_params"], &inspected["trains"]));
    json(&[&["train", "--out", &parts, "--steps", "3"], &common[..], &train].concat());
    json(&["train", "--out", &parts, "--steps", "8", "--resume"]);
    let bytes = |run: &str, file: &str| std::fs::read(PathBuf::from(run).join("adapter").join(file)).expect(file);
    for file in ["adapter_config.json", "adapter_model.safetensors", "base.json"] {
        assert!(bytes(&run, file) == bytes(&parts, file), "{file} of the resumed run differs");
    }
    let config: Value = serde_json::from_slice(&bytes(&run, "adapter_config.json")).expect("JSON");
    assert_eq!((&config["peft_type"], &config["target_modules"]), (&"LORA".into(), &serde_json::json!(["in_proj", "down_proj"])));

    let adapter = format!("{run}/adapter");
    let (before, after) = (json(&[&["eval"], &common[..]].concat()), json(&[&["eval", "--adapter", &adapter], &common[..]].concat()));
    assert!(after["loss"].as_f64() < before["loss"].as_f64(), "{before} {after}");
    let generated = json(&["generate", "--model", BASE, "--adapter", &adapter, "--prompt", "fn main", "--max-tokens", "5"]);
    assert_eq!(generated["tokens"], 5);
    let again = folder.file("again", None);
    let go_on = json(&[&["train", "--out", &again, "--init-adapter", &adapter, "--steps", "1", "--dropout", "0"], &common[..]].concat());
    assert!(go_on["loss_before"].as_f64() < before["loss"].as_f64(), "{go_on} {before}");
}

#[test]
fn failures() {
    let folder = Folder::new("fails");
    let text = folder.file("text.txt", Some("In the beginning was the word, and the word was with the model."));
    let (out, empty) = (folder.file("run", None), folder.file("empty.txt", Some("")));
    let train = |more: &[&'static str]| {
        let common = ["train", "--model", BASE, "--out", &out, "--data", &text];
        common.iter().map(ToString::to_string).chain(more.iter().map(ToString::to_string)).collect::<Vec<_>>()
    };
    let train_fails = |more: &[&'static str], code, words: &[&str]| {
        let arguments = train(more);
        fails(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    train_fails(&["--adapter", "seq_bn[reduction_facto=4]"], 2, &["reduction_facto"]);
    train_fails(&["--adapter", "seq_bn[use_gating=True]"], 2, &["use_gating"]);
    train_fails(&["--adapter", "prefix_tuning"], 2, &["prefix_tuning"]);
    train_fails(&["--adapter", "lora[layers=[99]]"], 2, &["layers_to_transform", "99"]);
    train_fails(&["--max-length", "100000"], 2, &["--max-length", "context"]);
    train_fails(&["--learning-rate", "NaN"], 2, &["--learning-rate"]);
    train_fails(&["--precision", "f8"], 2, &["f8"]);
    train_fails(&["--eval-every", "5"], 2, &["valid.jsonl"]);
    train_fails(&["--device", "no such device"], 4, &["no such device"]);
    fails(&["train", "--model", BASE, "--out", &out, "--data", &empty], 3, &["empty.txt"]);
    fails(&["eval", "--model", "no/such/model", "--data", &text], 3, &["no/such/model"]);
    fails(&["eval", "--model", BASE, "--data", "no/such/data.txt"], 3, &["no/such/data.txt"]);
    fails(&["eval", "--model", BASE, "--data", &text, "--adapter", "no/such/adapter"], 3, &["no/such/adapter"]);
    fails(&["generate", "--model", BASE, "--chat", "Hello"], 3, &["chat template"]);
    fails(&["generate", "--model", BASE, "--prompt", ""], 2, &["prompt"]);
    fails(&["generate", "--model", BASE, "--prompt", "a", "--top-p", "0"], 2, &["top-p"]);
    fails(&["generate", "--model", BASE], 2, &["--prompt"]);
    assert!(!PathBuf::from(&out).join("adapter").exists());
}
