//! The demo as a user runs it: its output, files and exit codes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// The example's binary; `cargo test --test gpu` alone does not build it.
static DEMO: LazyLock<PathBuf> = LazyLock::new(|| {
    let status = Command::new(env!("CARGO")).args(["build", "--quiet", "--example", "adapt_gpu"]).status().expect("cargo runs");
    assert!(status.success(), "the example does not build");
    let tests = std::env::current_exe().expect("a path");
    let target = tests.parent().and_then(Path::parent).expect("target/debug/deps");
    target.join("examples").join(format!("adapt_gpu{}", std::env::consts::EXE_SUFFIX))
});

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(&*DEMO).args(arguments).env_remove("XDG_RUNTIME_DIR").envs(environment.iter().copied()).output().expect("the example runs")
}

/// Expects one error on standard error that contains these words, and this exit code.
fn fails(arguments: &[&str], environment: &[(&str, &str)], code: i32, words: &[&str]) {
    let output = run(arguments, environment);
    let said = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = said.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert_eq!(errors.len(), 1, "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: '{said}' lacks '{word}'");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_short_run() {
    let place = std::env::temp_dir().join(format!("graftling-{}-demo", std::process::id()));
    let out = place.join("out");
    let text = place.join("text.txt");
    std::fs::create_dir_all(&place).expect("a directory");
    std::fs::write(&text, "let x = f(y);\n".repeat(300)).expect("a text");
    let (out, text) = (out.to_str().expect("a path"), text.to_str().expect("a path"));
    let arguments = ["--text", text, "--out", out, "--steps", "6", "--full-steps", "2", "--train", "head", "--batch-size", "4", "--json"];
    let output = run(&arguments, &[]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: serde_json::Value = serde_json::from_str(printed.lines().last().expect("a line")).expect("the last line is JSON");
    for text in ["device", "backend"] {
        assert!(result[text].as_str().is_some_and(|v| !v.is_empty()), "{result}");
    }
    for number in ["total_params", "trainable_params", "loss_before", "loss_after", "seconds", "tokens_per_second"] {
        assert!(result[number].as_f64().is_some_and(|v| v > 0.0), "{number} in {result}");
    }
    assert_eq!(result["frozen_unchanged"], true);
    assert!(result["loss_after"].as_f64() < result["loss_before"].as_f64(), "{result}");
    for file in ["adapter/adapter_config.json", "adapter/adapter.safetensors", "adapter/model_head.safetensors", "base/model.safetensors"] {
        assert!(Path::new(out).join(file).exists(), "{file} was not saved");
    }
    graftling::model::Base::open(&Path::new(out).join("base")).expect("the changed base opens");
    std::fs::remove_dir_all(place).expect("the directory is removed");
}

#[test]
fn mistakes_and_their_exit_codes() {
    let empty = std::env::temp_dir().join(format!("graftling-{}-empty.txt", std::process::id()));
    std::fs::write(&empty, "").expect("a file");
    let empty = empty.to_str().expect("a path");
    fails(&["--text", empty], &[], 3, &["empty"]);
    std::fs::write(empty, "too short").expect("a file");
    fails(&["--text", empty], &[], 3, &[empty, "9 tokens"]);
    std::fs::write(empty, [0xff, 0xfe, 0x00]).expect("a file");
    fails(&["--text", empty], &[], 3, &[empty, "UTF-8"]);
    std::fs::remove_file(empty).expect("the file is removed");
    fails(&["--text", "no-such-file"], &[], 3, &["no-such-file"]);
    fails(&["--model", "no-such-model"], &[], 3, &["no-such-model", "does not exist"]);
    fails(&["--device", "no such device"], &[], 4, &["no such device"]);
    fails(&["--learning-rate", "nan"], &[], 2, &["learning rate", "NaN"]);
    fails(&["--steps", "many"], &[], 2, &["--steps"]);
    fails(&["--train", "everything"], &[], 2, &["--train"]);
    if cfg!(target_os = "linux") {
        fails(&[], &[("VK_DRIVER_FILES", "/nonexistent"), ("WGPU_BACKEND", "vulkan")], 4, &["no GPU device", "mesa-vulkan-drivers"]);
    }
}
