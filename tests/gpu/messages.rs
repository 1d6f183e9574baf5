//! Mistakes that users make, and the command's messages about them, as a sentence and as JSON.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness;

/// A directory in which all the mistakes can be made.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("graftling-{}-messages", std::process::id()));
        for directory in ["lora", "run/adapter", "hub/model", "mine"] {
            fs::create_dir_all(folder.join(directory)).expect("a directory");
        }
        let fixtures = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"));
        fs::copy(fixtures.join("models/llama.gguf"), folder.join("hub/model/tiny.Q4_1.gguf")).expect("a model");
        for file in ["adapter_config.json", "adapter.safetensors"] {
            fs::copy(fixtures.join("adapters/llama-seq").join(file), folder.join("run/adapter").join(file)).expect("an adapter");
        }
        let row = r#"{"prompt": "a", "completion": "b"}"#;
        let chat = |role: &str| format!(r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "{role}", "content": "b"}}]}}"#);
        let files = [
            ("lora/adapter_config.json", r#"{"peft_type": "LORA", "r": 8, "target_modules": ["in_proj"], "use_dora": true}"#.to_string()),
            ("text.txt", "In the beginning was the word, and the word was with the model.".into()),
            ("rows.jsonl", row.into()),
            ("mine/train.jsonl", row.into()),
            ("cut.jsonl", format!("{row}\n{{\"prompt\": \"a\", \"compl\n{row}\n")),
            ("assistent.jsonl", format!("{row}\n\n{}\n", chat("assistent"))),
            ("gpt.jsonl", chat("gpt")),
            ("narrator.jsonl", chat("narrator")),
            ("chat.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}".into()),
        ];
        for (file, text) in files {
            fs::write(folder.join(file), text).expect("a file");
        }
        // The small GPT with a chat template.
        fs::create_dir_all(folder.join("chatty")).expect("a directory");
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/base")).join(file), folder.join("chatty").join(file))
                .expect("a file");
        }
        fs::rename(folder.join("chat.jinja"), folder.join("chatty/chat_template.jinja")).expect("a template");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The command line, the exit code, and the whole sentence, or its beginning if it ends with `…` here.
const MISTAKES: [(&str, i32, &str); 38] = [
    (
        "eval --model builtin --data text.txt --adapter lora",
        3,
        "lora/adapter_config.json: has use_dora (DoRA), which is not supported; merge the adapter with PEFT, or train it without",
    ),
    (
        "train --model builtin --data text.txt --out new --adapter lora[target_modules=[q_proj]]",
        2,
        "target_modules has 'q_proj', but a LoRA of this graftling model can be on in_proj, out_proj, up_proj, down_proj; did you mean \
         'in_proj'?",
    ),
    (
        "train --model builtin --data text.txt --out new --adapter lora[r=0]",
        2,
        "adapter 'lora[r=0]': r has the rank 0; it must be from 1 to 1024",
    ),
    ("eval --model builtin --data text.txt --adapter run", 3, "run: is a run, not an adapter; did you mean run/adapter?"),
    ("train --model builtin --data text.txt --out new --init-adapter run", 3, "run: is a run, not an adapter; did you mean run/adapter?"),
    ("inspect hub/model", 3, "hub/model: is a directory without config.json; give the GGUF file in it: hub/model/tiny.Q4_1.gguf"),
    (
        "generate --model HuggingFaceTB/SmolLM2-135M --prompt a",
        3,
        "HuggingFaceTB/SmolLM2-135M: does not exist, and Graftling does not download models; run `hf download HuggingFaceTB/SmolLM2-135M \
         --local-dir SmolLM2-135M` and give the directory SmolLM2-135M",
    ),
    ("inspect hub/other", 3, "hub/other: does not exist; give a model's directory or a .gguf file"),
    ("inspect TheBloke/some.gguf", 3, "TheBloke/some.gguf: does not exist; give a model's directory or a .gguf file"),
    (
        "eval --model chatty --data assistent.jsonl",
        3,
        "assistent.jsonl: line 3: message 2 has the role 'assistent', which is not known; the roles are system, user, assistant and tool; did \
         you mean 'assistant'?",
    ),
    (
        "train --model chatty --data gpt.jsonl --out new",
        3,
        "gpt.jsonl: line 1: message 2 has the role 'gpt', which is not known; the roles are system, user, assistant and tool; did you mean \
         'assistant'?",
    ),
    (
        "eval --model chatty --data narrator.jsonl --train-on-prompt",
        3,
        "narrator.jsonl: line 1: message 2 has the role 'narrator', which is not known; the roles are system, user, assistant and tool",
    ),
    ("eval --model builtin --data cut.jsonl", 3, "cut.jsonl: line 2 ends in the middle of a JSON object; complete or remove it"),
    ("eval --model builtin --data text.txt --device nvidia", 4, "no device matches 'nvidia'; the …"),
    (
        "train --model builtin --data text.txt --out text.txt",
        1,
        "cannot write text.txt: File exists (os error 17); a file with that name exists, so remove it or choose another place",
    ),
    (
        "train --model builtin --data text.txt --out text.txt/run",
        1,
        "cannot write text.txt/run: Not a directory (os error 20); part of this path is a file, so choose another place",
    ),
    ("generate --model builtin --prompt a --temperature -1", 2, "the temperature is -1; use 0 for greedy decoding, or a larger number"),
    ("generate --model builtin --prompt a --top-p -0.5", 2, "top-p is -0.5; use a probability above 0 and at most 1, …"),
    ("generate --model builtin --prompt a --max-tokens -1", 2, "invalid value '-1' for '--max-tokens <N>': -1 is not in 0..=4294967295"),
    ("train --model builtin --data text.txt --out new --learning-rate -1", 2, "--learning-rate is -1; it must be a number from 0 up"),
    ("train --model builtin --data text.txt --out new --clip-norm -1", 2, "--clip-norm is -1; it must be a number above 0"),
    (
        "train --model builtin --data text.txt --out new --steps -1",
        2,
        "invalid value '-1' for '--steps <STEPS>': it must be a whole number from 0 up",
    ),
    (
        "eval --model builtin --data text.txt --adapter run/adapter,lora",
        2,
        "invalid value 'run/adapter,lora' for '--adapter <DIR>': 'run/adapter,lora' is not a directory; repeat the option for several \
         adapters, or combine them as in stack(run/adapter,lora)",
    ),
    (
        "generate --model builtin --prompt a --adapter a,b",
        2,
        "invalid value 'a,b' for '--adapter <DIR>': 'a,b' is not a directory; repeat the option for several adapters, or combine them as in \
         stack(a,b)",
    ),
    (
        "eval --model builtin --data text.txt --adapter stak(run/adapter,lora)",
        2,
        "invalid value 'stak(run/adapter,lora)' for '--adapter <DIR>': there is no directory 'stak(run/adapter,lora)', and 'stak' is not a \
         combination; did you mean 'stack'?",
    ),
    ("eval --model builtin --data text.txt --adapter average(run/adapter,lora)", 3, "lora/adapter_config.json: has use_dora …"),
    ("train --model builtin --data text.txt --out new --init-adapter stack(run/adapter,run/adapter)", 2, "--init-adapter is stack(…"),
    (
        "adapters average run/adapter run/adapter --weights 1 --out new",
        2,
        "--weights has 1 weight for 2 adapters; give one for each, or leave it out",
    ),
    (
        "adapters average run/adapter run/adapter --weights 1,-1 --out new",
        2,
        "the weights of the average add up to 0, by which they cannot be divided; give others",
    ),
    ("adapters average run/adapter --out new", 2, "2 values required …"),
    ("adapters average run/adapter run/adapter --out run", 2, "--out run exists; remove it or choose another place"),
    (
        "train --model builtin --data rows.jsonl --out new --eval-every 5",
        2,
        "--eval-every needs validation data; give --data a directory with train.jsonl and valid.jsonl, or split rows off with --valid 0.1",
    ),
    (
        "train --model builtin --data mine --out new --eval-every 5",
        2,
        "--eval-every needs validation data; put a valid.jsonl into mine, or split rows off with --valid 0.1",
    ),
    (
        "train --model builtin --data text.txt --out new --steps 1 --full-steps 2",
        2,
        "--full-steps is 2, but the run has only 1 step; give more --steps",
    ),
    (
        "train --model builtin --data text.txt --out new --adapter seq_bm",
        2,
        "adapter 'seq_bm': there is no preset 'seq_bm'; the presets are identity_bn, double_seq_bn, double_seq_bn_inv, seq_bn, \
         seq_bn_inv, par_bn, scaled_par_bn, adapter_plus; did you mean 'seq_bn'?",
    ),
    ("eval --model builtin", 2, "the following required arguments were not provided: --data <DATA>"),
    ("eval --modle builtin --data text.txt", 2, "unexpected argument '--modle' found; tip: a similar argument exists: '--model'"),
    ("eval --model builtin --data text.txt --batch-size 0", 2, "invalid value '0' for '--batch-size <BATCH_SIZE>': 0 is not in 1..=65536"),
];

#[test]
fn mistakes_are_told_in_a_sentence_and_as_json() {
    let folder = Folder::new();
    for (line, code, sentence) in MISTAKES {
        // Only Linux's own messages are known here.
        let system = sentence.contains("os error") && !cfg!(target_os = "linux");
        let mut command = harness::command();
        let output = command.current_dir(&folder.0).args(line.split_whitespace()).arg("--json").output().expect("the command runs");
        let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert_eq!(
            said.lines().filter(|line| line.starts_with("error: ") && !line.contains("XDG_RUNTIME_DIR")).count(),
            1,
            "{line}: {said}"
        );
        let json: Value = serde_json::from_str(out.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{line}: {e}: {out}"));
        let error = json["error"].as_str().expect("an error");
        assert_eq!(json, serde_json::json!({"error": error, "exit_code": code}), "{line}");
        match sentence.strip_suffix('…') {
            Some(start) => assert!(error.starts_with(start), "{line}: {error}"),
            None if system => {}
            None => assert_eq!(error, sentence, "{line}"),
        }
        // Standard error has the same, up to where clap breaks it into lines.
        let start = error.split([':', ';']).next().expect("a part");
        assert!(said.contains(&format!("error: {start}")), "{line}: {said}");
    }
    assert!(!folder.0.join("new").exists());
}

/// Without `--json`, errors leave standard output empty; help is never followed by JSON.
#[test]
fn results_alone_are_on_standard_output() {
    let run = |line: &str| harness::command().args(line.split_whitespace()).output().expect("the command runs");
    for line in ["inspect no/such/model", "eval --modle x"] {
        assert!(run(line).stdout.is_empty(), "{line}");
    }
    let help = run("eval --help --json");
    assert!(help.status.success() && !String::from_utf8_lossy(&help.stdout).trim_end().ends_with('}'));
}
