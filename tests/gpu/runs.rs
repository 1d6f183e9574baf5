//! `graftling train` as a user runs it: stopped, killed, resumed, repeated, refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use graftling::model::{Base, BaseDropout, BottleneckConfig, Config, Model, SavedAdapter, Trains};
use graftling::text::{Batch, Batches, DataOptions, Dataset, Task};
use graftling::train::{Checkpoint, Checkpoints, RunState, TrainOptions, Trainer};
use serde_json::Value;

use crate::harness::{self, device};

pub const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/base");

/// A temporary directory with a few hundred bytes of text to learn from. It is removed at the end of the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("graftling-{}-runs-{name}", std::process::id()));
        fs::create_dir_all(folder.join("data")).expect("a directory");
        fs::write(folder.join("data/train.txt"), "fn main() { let x = f(y, z); }\n".repeat(12)).expect("a text");
        fs::write(folder.join("data/valid.txt"), "let y = g(x); // and no more\n".repeat(2)).expect("a text");
        Folder(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A `graftling` command that runs in this directory.
    pub fn command(&self, line: &str) -> Command {
        let mut command = harness::command();
        command.current_dir(&self.0).args(line.split_whitespace()).stdin(Stdio::null());
        command
    }

    /// A training command on the text with small settings and the options in `line`.
    pub fn train(&self, line: &str) -> Command {
        let small = format!("train --model {BASE} --data data --batch-size 1 --max-length 16 --dropout 0.1 --seed 3");
        self.command(&format!("{small} {line}"))
    }

    pub fn files(&self, directory: &str) -> BTreeMap<String, Vec<u8>> {
        let files = self.files_at_top(directory);
        assert_eq!(files.len(), fs::read_dir(self.path(directory)).expect("a directory").count(), "{directory} has directories");
        files
    }

    /// The files of a directory, without those in directories in it.
    pub fn files_at_top(&self, directory: &str) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.path(directory)).expect("a directory").map(|entry| entry.expect("an entry"));
        let files = entries.filter(|entry| entry.path().is_file());
        files.map(|entry| (entry.file_name().into_string().expect("a name"), fs::read(entry.path()).expect("a file"))).collect()
    }

    /// The steps whose loss is in `metrics.jsonl`.
    fn steps(&self, run: &str) -> Vec<u64> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line.get("loss").is_some()).filter_map(|line| line["step"].as_u64()).collect()
    }

    /// Waits up to a minute for a path to appear.
    fn wait_for(&self, path: &str) {
        let begin = Instant::now();
        while !self.path(path).exists() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{path} does not appear");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn succeeds(mut command: Command) -> Output {
    let output = command.output().expect("the command runs");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    output
}

/// The last line of standard output as JSON.
pub fn result(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().expect("a line")).expect("the last line is JSON")
}

/// Expects exactly one error on standard error, which contains these words, and this exit code.
pub fn fails(mut command: Command, code: i32, words: &[&str]) -> Output {
    let output = command.output().expect("the command runs");
    check_failure(&output, code, words);
    output
}

fn check_failure(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "'{said}' does not say {words:?}");
    assert!(!said.contains("panicked"), "{said}");
}

fn background(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts")
}

/// Two trainers, the second resuming from the first one's checkpoint, reach the same state as a single one.
#[test]
fn a_trainer_goes_on_from_a_checkpoint() {
    let (folder, device) = (Folder::new("checkpoint"), device());
    let base = Base::open(BASE.as_ref()).expect("the base");
    let config = Config { dropout: BaseDropout::all(0.1), ..base.config.clone() };
    let adapters = BottleneckConfig { dropout: 0.1, ..BottleneckConfig::default() }.into();
    let trains = Trains { norms: true, ..Trains::adapters() };
    let model = Model::new(&config, &[&base.weights], Some(&adapters), trains).expect("a model");
    let data = DataOptions { max_length: 16, train_on_prompt: false, task: Task::Language };
    let data = Dataset::read(&folder.path("data/train.txt"), &base.tokenizer, &data).expect("data");
    let save = |memory: &_| {
        let trained = model.download(device, memory, |name| model.trains(name)).expect("weights");
        SavedAdapter::of(&model, &trained, "mine", &base.identity(BASE)).expect("an adapter")
    };
    let take = |trainer: &mut Trainer, batches: &mut Batches, steps: usize| {
        for _ in 0..steps {
            let pair: Vec<Batch> = batches.take(2).collect();
            trainer.step(&pair).expect("a step");
        }
        while trainer.finish().expect("a report").is_some() {}
    };

    let memory = model.upload(device, &[&base.weights], 0, true).expect("memory");
    let mut trainer = Trainer::new(device, &model, &memory, TrainOptions::default()).expect("a trainer");
    let mut batches = Batches::new(&data, 1, Some(5));
    let checkpoints = Checkpoints::of(&folder.path("run"));
    for _ in 0..2 {
        take(&mut trainer, &mut batches, 1);
        let (trainer_state, moments) = (trainer.state().expect("a state"), trainer.moments(|_| true).expect("moments"));
        let state = RunState { trainer: trainer_state, position: batches.position(), ..RunState::default() };
        checkpoints.write(&Checkpoint { adapter: save(&memory), base_of: None, moments, state }).expect("a checkpoint");
    }
    take(&mut trainer, &mut batches, 2);
    let alone = (save(&memory), trainer.moments(|_| true).expect("moments"), trainer.state().expect("a state"));

    let found = checkpoints.newest();
    assert!(found.torn.is_empty(), "{:?}", found.torn);
    let Checkpoint { adapter, moments, state, .. } = found.newest.expect("a checkpoint");
    assert_eq!((state.trainer.step, state.trainer.batches, state.trainer.updates), (2, 4, 2));
    let changes = adapter.sources(&config).expect("its tensors");
    let sources: Vec<_> = [&base.weights].into_iter().chain(&changes).collect();
    let memory = model.upload(device, &sources, 0, true).expect("memory");
    let mut trainer = Trainer::new(device, &model, &memory, TrainOptions::default()).expect("a trainer");
    trainer.restore(&state.trainer, &moments).expect("it fits");
    take(&mut trainer, &mut Batches::new(&data, 1, Some(5)).starting_at(state.position), 2);
    let after = (save(&memory), trainer.moments(|_| true).expect("moments"), trainer.state().expect("a state"));
    assert_eq!(after.0.weights.tensors, alone.0.weights.tensors);
    assert_eq!(after.0.base.expect("norms").tensors, alone.0.base.expect("norms").tensors);
    assert_eq!(after.1.tensors, alone.1.tensors);
    assert_eq!(after.2, alone.2);

    // However a file of the newest checkpoint is damaged, the one before it is used.
    let newest = checkpoints.path(2);
    for file in fs::read_dir(&newest).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        let whole = fs::read(&file).expect("a file");
        // In the state, damages a digit.
        let digit = whole.iter().rposition(|&byte| byte == b'2').filter(|_| file.ends_with("state.json"));
        let mut flipped = whole.clone();
        flipped[digit.unwrap_or(whole.len() / 2)] ^= 1;
        for torn in [None, Some(&whole[..whole.len() / 2]), Some(&[][..]), Some(&flipped[..])] {
            match torn {
                None => fs::remove_file(&file),
                Some(bytes) => fs::write(&file, bytes),
            }
            .expect("it is done");
            let found = checkpoints.newest();
            let step = found.newest.map(|checkpoint| checkpoint.state.trainer.step);
            assert_eq!((step, found.torn.len()), (Some(1), 1), "{} {:?}", file.display(), torn.map(<[u8]>::len));
            assert_eq!(found.torn[0].exit_code(), 3);
        }
        fs::write(&file, &whole).expect("it is put back");
    }
    assert_eq!(checkpoints.newest().newest.map(|checkpoint| checkpoint.state.trainer.step), Some(2));
}

/// A run killed at any moment, even with its newest checkpoint torn, ends with the same bytes. So does a repetition from `run.toml`.
#[test]
fn killed_resumed_and_repeated() {
    let folder = Folder::new("killed");
    // 0.3 epochs of 23 sequences are seven steps.
    let options = "--epochs 0.3 --save-every 1 --eval-every 3";
    let whole = result(&succeeds(folder.train(&format!("{options} --out whole --json"))));
    assert_eq!(whole["adapter_moved"], true);
    let adapter = folder.files("whole/adapter");
    let options_file = fs::read_to_string(folder.path("whole/run.toml")).expect("the options");
    for line in ["steps = 7", "max-length = 16", "learning-rate = 0.0001", "train-on-prompt = false"] {
        assert!(options_file.lines().any(|l| l == line), "{line} in {options_file}");
    }
    assert!(!options_file.contains("epochs"), "{options_file}");
    let kept = Checkpoints::of(&folder.path("whole")).steps();
    assert!(kept.ends_with(&[5, 6, 7]) && kept.len() <= 4, "{kept:?}");

    let mut child = background(folder.train(&format!("{options} --out killed")));
    folder.wait_for("killed/checkpoints/step-000002");
    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
    let checkpoints = Checkpoints::of(&folder.path("killed"));
    let newest = *checkpoints.steps().last().expect("a checkpoint");
    let moments = checkpoints.path(newest).join("moments.safetensors");
    let bytes = fs::read(&moments).expect("moments");
    fs::write(&moments, &bytes[..bytes.len() - 9]).expect("a torn file");
    let output = succeeds(folder.command("train --out killed --resume --json"));
    let said = said(&output);
    assert!(said.contains("passed over a checkpoint") && said.contains(&format!("step-{newest:06}")), "{said}");
    assert_eq!(folder.files("killed/adapter"), adapter);
    assert_eq!(folder.steps("killed"), [1, 2, 3, 4, 5, 6, 7]);
    let resumed = result(&output);
    for key in ["loss_before", "loss_after", "eval_loss", "steps"] {
        assert_eq!(resumed[key], whole[key], "{key}");
    }

    succeeds(folder.command("train --config whole/run.toml --out again --quiet"));
    assert_eq!(folder.files("again/adapter"), adapter);
}

/// Whatever would mix up runs, and unknown options, are refused before anything is touched.
#[test]
fn refusals() {
    let folder = Folder::new("refusals");
    fails(folder.command("train --out run --resume"), 3, &["run.toml", "without --resume"]);
    fs::create_dir_all(folder.path("run/adapter")).expect("a directory");
    fails(folder.train("--out run"), 2, &["run already has a run", "--resume"]);
    let written = "learning-rate = 1e-3\nbatch-size = 1\nsteps = 4\nadapter-name = \"mine\"\n";
    fs::write(folder.path("run/run.toml"), written).expect("options");
    fails(folder.command("train --out run --resume --learning-rate 1e-4"), 2, &["--learning-rate is 0.0001", "0.001"]);
    fails(folder.command("train --out run --resume --adapter-name other"), 2, &["--adapter-name is \"other\"", "mine"]);
    fails(folder.command("train --out run --resume --steps 5"), 2, &["--model is missing"]);

    for (text, words) in [
        ("learning_rate = 1", ["'learning_rate' is not an option", "did you mean 'learning-rate'?"]),
        ("colour = 1", ["'colour' is not an option", "--help"]),
        ("steps = 0", ["0", "--steps"]),
        ("steps = {}", ["'steps' cannot be {}", "--help"]),
        ("steps = 1\nepochs = 2", ["both 'steps' and 'epochs'", "remove one"]),
        ("optimizer = 'sgd'", ["sgd", "--optimizer"]),
        ("steps = 1\nsteps = 2", ["line 2", "not TOML"]),
        ("steps", ["line 1", "not TOML"]),
    ] {
        fs::write(folder.path("config.toml"), text).expect("options");
        let mut words = words.to_vec();
        words.push("config.toml: ");
        fails(folder.train("--config config.toml --out new"), 3, &words);
    }
    fails(folder.train("--config nowhere.toml --out new"), 3, &["nowhere.toml"]);
    fails(folder.train("--config data --out new"), 3, &["data: is not a file"]);
    fails(folder.train("--steps 1 --full-steps 2 --out new"), 2, &["--full-steps is 2"]);
    assert!(!folder.path("new").exists());
}

/// A run that diverges keeps the checkpoints that it has saved, whose values are all finite, and saves no adapter.
#[test]
fn a_diverged_run_keeps_its_checkpoints() {
    let folder = Folder::new("diverged");
    fails(folder.train("--out run --steps 20 --save-every 1 --learning-rate 1e38"), 6, &["training diverged", "10 steps in a row"]);
    let checkpoints = Checkpoints::of(&folder.path("run"));
    let found = checkpoints.newest();
    assert!(found.newest.is_some() && found.torn.is_empty() && checkpoints.steps().len() > 1, "{:?}", found.torn);
    assert!(!folder.path("run/adapter").exists());
}

#[test]
fn places_that_cannot_be_written() {
    let folder = Folder::new("unwritable");
    fs::write(folder.path("file"), "").expect("a file");
    fails(folder.train("--out file/run"), 1, &["cannot write file/run"]);
    #[cfg(target_os = "linux")]
    {
        fs::create_dir(folder.path("run")).expect("a directory");
        std::os::unix::fs::symlink("/dev/full", folder.path("run/run.toml.partial")).expect("a link");
        fails(folder.train("--out run --quiet"), 1, &["cannot write run/run.toml", "space"]);
        assert_eq!(fs::read_dir(folder.path("run")).expect("a directory").count(), 0, "something is left");
    }
}

/// The first Ctrl-C saves and stops.
#[cfg(unix)]
#[test]
fn interrupted() {
    let folder = Folder::new("interrupted");
    let child = background(folder.train("--out run --steps 100000 --quiet"));
    folder.wait_for("run/metrics.jsonl");
    while folder.steps("run").len() < 2 {
        std::thread::sleep(Duration::from_millis(2));
    }
    fails(folder.command("train --out run --resume"), 2, &["another process is training in run"]);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(sent.success());
    let output = child.wait_with_output().expect("it ends");
    check_failure(&output, 130, &["stopping after this step", "interrupted after step", "--resume"]);
    let steps = Checkpoints::of(&folder.path("run")).steps();
    let &[step] = &steps[..] else { panic!("{steps:?}") };
    assert!(!folder.path("run/adapter").exists() && folder.path("run/loss.svg").exists());
    let output = succeeds(folder.command(&format!("train --out run --resume --steps {} --json", step + 1)));
    assert_eq!(result(&output)["steps"], step + 1);
    assert_eq!(folder.steps("run"), (1..=step + 1).collect::<Vec<_>>());
}

/// A base that the first phase changed is saved with the adapter and in checkpoints.
#[test]
fn everything_first_and_then_adapters() {
    let folder = Folder::new("full");
    let trained = result(&succeeds(folder.train("--out run --steps 4 --full-steps 3 --save-every 1 --eval-every 2 --json")));
    let adapter = folder.files("run/adapter");
    assert!(adapter.contains_key("base.safetensors"), "{:?}", adapter.keys());
    let eval = format!("eval --model {BASE} --adapter run/adapter --data data --batch-size 1 --max-length 16 --json");
    let measured = result(&succeeds(folder.command(&eval)));
    assert_eq!(measured["loss"], trained["eval_loss"]);
    let plain = result(&succeeds(folder.command(&eval.replace("--adapter run/adapter", ""))));
    assert_ne!(plain["loss"], trained["eval_loss"]);

    // The base that both share is on disk only once.
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let file = |step| fs::metadata(Checkpoints::of(&folder.path("run")).path(step).join("base.safetensors")).expect("a base").ino();
        assert!(file(3) == file(4) && file(2) != file(3));
    }
    // Resumed from the second phase, and from the first.
    for step in [3, 2] {
        fs::remove_dir_all(folder.path("run/adapter")).expect("it goes");
        let checkpoints = Checkpoints::of(&folder.path("run"));
        checkpoints.steps().into_iter().filter(|&s| s > step).for_each(|s| fs::remove_dir_all(checkpoints.path(s)).expect("it goes"));
        assert_eq!(checkpoints.steps().last(), Some(&step));
        succeeds(folder.command("train --out run --resume --quiet"));
        assert_eq!(folder.files("run/adapter"), adapter);
    }
}

/// A run warns when training begins to go wrong, and again at the end.
#[test]
fn runs_that_go_wrong() {
    let folder = Folder::new("wrong");
    let warnings = |output: &Output| {
        let said = said(output);
        said.lines().filter_map(|line| line.strip_prefix("warning: ")).map(str::to_string).collect::<Vec<_>>()
    };
    let output = succeeds(folder.train("--out dead --steps 12 --learning-rate 1e9 --json"));
    let told = warnings(&output);
    assert!(told[0].starts_with("the gradient has vanished: since step "), "{told:?}");
    let last = told.last().expect("a warning");
    assert!(last.contains("nothing was learned from step ") && last.ends_with("a --clip-norm"), "{told:?}");
    // The first warning comes while it happens.
    let said = said(&output);
    let at = |words: &str| said.find(words).unwrap_or_else(|| panic!("{words} in {said}"));
    assert!(at(&told[0]) < at("step 12/12") && at("step 12/12") < at(last), "{said}");
    assert_eq!(result(&output)["warnings"], serde_json::json!(told));

    // The loss rises at once, so nothing is ever better than the base.
    let output = succeeds(folder.train("--out risen --steps 14 --learning-rate 3 --train head --json --quiet"));
    let told = warnings(&output);
    assert!(told[0].starts_with("the loss has risen from 6.9195 at step 1 to ") && told[0].contains(" since step 2; "), "{told:?}");
    assert!(
        told[1].contains("the loss rose from 6.9195 to ") && told[1].contains("the adapter is worse than its base: use a lower"),
        "{told:?}"
    );
    assert_eq!(told.len(), 2);

    // Warnings from before an interruption are part of the result too.
    fs::remove_dir_all(folder.path("risen/adapter")).expect("it goes");
    let resumed = succeeds(folder.command("train --out risen --resume --steps 15 --json --quiet"));
    assert_eq!(result(&resumed)["warnings"][0], told[0]);

    // On a text that the base knows and the adapter forgets, the best checkpoint is kept and named.
    fs::write(folder.path("data/valid.txt"), "And the LORD said unto Moses, ".repeat(3)).expect("a text");
    let output = succeeds(folder.train("--out worse --steps 10 --eval-every 2 --save-every 1 --learning-rate 3e-3"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let best = printed.split("(best ").nth(1).and_then(|rest| rest.split(": ").nth(1)).and_then(|rest| rest.split(')').next());
    let best = best.unwrap_or_else(|| panic!("no best in {printed}"));
    assert!(folder.path(best).join("adapter.safetensors").exists() && !best.ends_with("10"), "{printed}");
    let told = warnings(&output);
    assert!(
        told[0].contains("the validation loss rose from 0.7673 to ") && told[0].contains(&format!("{best} is better than the adapter")),
        "{told:?}"
    );
}

/// Without validation data, the checkpoint with the lowest mean loss is the best one and is kept.
#[test]
fn the_best_checkpoint_without_validation() {
    let folder = Folder::new("best");
    fs::remove_file(folder.path("data/valid.txt")).expect("a file");
    let line = "--out run --steps 60 --save-every 5 --learning-rate 3 --train head --warmup-steps 300 --json --quiet";
    let output = succeeds(folder.train(line));
    let result = result(&output);
    let (best, kept) = (result["best"]["step"].as_u64().expect("a step"), Checkpoints::of(&folder.path("run")).steps());
    assert_eq!(kept, [best, 50, 55, 60], "{result}");
    assert!(said(&output).contains(&format!("run/checkpoints/step-{best:06} is better than the adapter")), "{}", said(&output));
    assert!(result["best"]["loss"].as_f64() < result["loss_after"].as_f64() && result["best"]["eval_loss"].is_null(), "{result}");
}

/// At the end, a run reports its losses, the best checkpoint and its size on disk; and its plot names what was trained.
#[test]
fn the_last_words() {
    let folder = Folder::new("words");
    let output = succeeds(folder.train("--out run --steps 5 --eval-every 1 --save-every 2 --learning-rate 1e-3"));
    let (printed, said) = (String::from_utf8_lossy(&output.stdout).into_owned(), said(&output));
    assert!(printed.starts_with("saved run/adapter after 5 steps: loss ") && printed.contains(", validation "), "{printed}");
    assert!(said.contains("kernels    ") && said.contains(" compiled in ") && said.contains("s left"), "{said}");
    let words = said.lines().find(|line| line.starts_with("disk ")).expect("a line on the disk");
    assert!(words.contains("run takes ") && words.ends_with(", 4, 5"), "{words}");
    assert!(!folder.path("run/lock").exists());
    let picture = fs::read_to_string(folder.path("run/loss.svg")).expect("a picture");
    assert!(picture.contains(">base, identity_bn<"), "{picture}");
    // The best validation loss is named unless it is the last.
    let metrics = fs::read_to_string(folder.path("run/metrics.jsonl")).expect("metrics");
    let evaluated = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?.get("eval_loss")?.as_f64().expect("a loss"));
    let losses: Vec<_> = metrics.lines().filter_map(evaluated).collect();
    assert_eq!((losses.len(), losses[1..].iter().any(|&loss| loss < losses[5])), (6, printed.contains("(best ")), "{printed}");
}

/// A run can be resumed from any directory, even if it was started with relative paths.
#[test]
fn resumed_from_elsewhere() {
    let folder = Folder::new("elsewhere");
    fs::create_dir_all(folder.path("sub")).expect("a directory");
    fs::write(folder.path("base.txt"), "").expect("a file");
    std::os::unix::fs::symlink(BASE, folder.path("base")).expect("a link");
    let small = "train --model base --data data --batch-size 1 --max-length 16 --out run --save-every 1";
    succeeds(folder.command(&format!("{small} --steps 2 --quiet")));
    let options = fs::read_to_string(folder.path("run/run.toml")).expect("the options");
    for (key, name) in [("model", "base"), ("data", "data")] {
        let line = format!("{key} = \"{}\"", folder.path(name).display());
        assert!(options.lines().any(|l| l == line), "{line} in {options}");
    }
    let elsewhere = |line: &str| {
        let mut command = folder.command(line);
        command.current_dir("/");
        command
    };
    let out = folder.path("run").display().to_string();
    succeeds(elsewhere(&format!("train --out {out} --resume --steps 3 --quiet")));
    let mut relative = folder.command("train --out ../run --resume --steps 4 --data ../data --model ../base --quiet");
    relative.current_dir(folder.path("sub"));
    succeeds(relative);
    fails(folder.command("train --out run --resume --steps 5 --data base.txt"), 2, &["--data is", "base.txt"]);
    let [run, whole] = ["run/adapter", "whole/adapter"].map(|adapter| move |folder: &Folder| folder.files(adapter));
    succeeds(folder.command(&format!("{} --steps 4 --quiet", small.replace("--out run", "--out whole"))));
    assert_eq!(run(&folder), whole(&folder));

    // Options files from before paths were absolute still work in the directory where they were written; builtin is not a path.
    let old = options.replace(&format!("{}/", folder.0.display()), "");
    assert!(old.contains("model = \"base\""), "{old}");
    fs::write(folder.path("run/run.toml"), old).expect("options");
    succeeds(folder.command("train --out run --resume --steps 5 --quiet"));
    succeeds(
        folder
            .command(&format!("{} --steps 1 --quiet", small.replace("--model base", "--model builtin").replace("--out run", "--out own"))),
    );
    let options = fs::read_to_string(folder.path("own/run.toml")).expect("the options");
    assert!(options.contains("model = \"builtin\"\n") && options.contains("out = \"own\"\n"), "{options}");
}

#[test]
fn runs_that_come_to_nothing() {
    let folder = Folder::new("nothing");
    let output = succeeds(folder.train("--out still --steps 1 --learning-rate 0 --json --quiet"));
    assert!(said(&output).contains("no weight of the adapter has moved"), "{}", said(&output));
    assert_eq!(result(&output)["adapter_moved"], false);

    let output =
        fails(folder.train("--out wild --steps 50 --learning-rate 1e38 --save-every 1 --quiet"), 6, &["diverged", "learning rate"]);
    assert!(said(&output).contains("is the last checkpoint; its weights are finite"), "{}", said(&output));
    assert!(!folder.path("wild/adapter").exists() && folder.path("wild/loss.svg").exists());
    let found = Checkpoints::of(&folder.path("wild")).newest();
    assert!(found.newest.is_some() && found.torn.is_empty(), "{:?}", found.torn);
}
