//! Adapters combined, as a user runs the command: one trained on top of another, and averages.

use std::fs;

use crate::runs::{Folder, fails, result, said, succeeds};

#[test]
fn an_adapter_on_top_of_another() {
    let folder = Folder::new("under");
    succeeds(folder.train("--adapter seq_bn_inv[reduction_factor=8] --adapter-name lang --steps 3 --learning-rate 1e-2 --out low --quiet"));
    let options = "--under low/adapter --adapter double_seq_bn --adapter-name task --learning-rate 1e-2 --save-every 1";
    let below = folder.files("low/adapter");
    let output = succeeds(folder.train(&format!("{options} --steps 4 --out whole --json")));
    let top = result(&output);
    assert_eq!(top["use"], "stack(low/adapter,whole/adapter)");
    assert!(said(&output).contains("--adapter \"stack(low/adapter,whole/adapter)\""), "{}", said(&output));
    assert_eq!(folder.files("low/adapter"), below);
    let tensors = fs::read(folder.path("whole/adapter/adapter.safetensors")).expect("the adapter");
    let header = String::from_utf8_lossy(&tensors);
    assert!(header.contains(".adapters.task.") && !header.contains("lang"));

    // Two steps and then two more end with the same bytes, as does a repetition from another directory.
    succeeds(folder.train(&format!("{options} --steps 2 --out resumed --quiet")));
    succeeds(folder.command("train --out resumed --resume --steps 4 --quiet"));
    assert_eq!(folder.files("resumed/adapter"), folder.files("whole/adapter"));
    fs::create_dir(folder.path("elsewhere")).expect("a directory");
    let mut again = folder.command("train --config ../whole/run.toml --out ../again --quiet");
    succeeds({
        again.current_dir(folder.path("elsewhere"));
        again
    });
    assert_eq!(folder.files("again/adapter"), folder.files("whole/adapter"));

    // Evaluated together, it has the loss of the next step; alone, it has another, and a warning.
    let eval = |adapter: &str| {
        let base = top["checkpoint"].as_str().expect("a path").replace("checkpoints/step-000004", "run.toml");
        let toml: toml::Table = fs::read_to_string(folder.path(&base)).expect("the options").parse().expect("TOML");
        let model = toml["model"].as_str().expect("a model");
        let line = format!("eval --model {model} --data data/valid.txt --max-length 16 --json --adapter {adapter}");
        let output = succeeds(folder.command(&line));
        (result(&output)["loss"].as_f64().expect("a loss"), said(&output))
    };
    let (together, words) = eval("stack(low/adapter,whole/adapter)");
    assert!((together - top["eval_loss"].as_f64().expect("a loss")).abs() < 1e-6 && !words.contains("warning"), "{together} {words}");
    let (alone, words) = eval("whole/adapter");
    assert!((alone - together).abs() > 1e-3, "{alone} {together}");
    assert!(
        words.contains("whole/adapter was trained on top of low/adapter") && words.contains("stack(low/adapter,whole/adapter)"),
        "{words}"
    );
    let (average, _) = eval("stack(low/adapter,average(whole/adapter:3,again/adapter:1))");
    assert!((average - together).abs() < 1e-6, "{average} {together}");

    // A third one, on both; then the lowest changes, and with it all that stands on it.
    succeeds(folder.train("--under stack(low/adapter,whole/adapter) --steps 1 --adapter lora --out third --quiet"));
    fs::rename(folder.path("low"), folder.path("kept")).expect("a directory");
    succeeds(folder.train("--adapter seq_bn_inv[reduction_factor=8] --adapter-name lang --steps 2 --out low --quiet"));
    let words = ["low/adapter: does not have the weights that this run began with"];
    fails(folder.command("train --out resumed --resume --steps 5 --quiet"), 3, &words);
    fs::remove_dir_all(folder.path("low")).expect("the run");
    fails(folder.command("train --out resumed --resume --steps 5 --quiet"), 3, &["low/adapter/adapter_config.json"]);
}

/// `adapters average` writes what an average in an expression is.
#[test]
fn an_average_of_runs() {
    let folder = Folder::new("average");
    for (rate, out) in [("1e-2", "one"), ("3e-2", "other")] {
        succeeds(folder.train(&format!("--adapter lora --steps 3 --learning-rate {rate} --out {out} --quiet")));
    }
    let output = succeeds(folder.command("adapters average one/adapter other/adapter --weights 0.7,0.3 --out mean --json"));
    assert_eq!(result(&output)["out"], "mean");
    succeeds(folder.train("--init-adapter mean --steps 1 --out more --quiet"));
    fails(folder.command("adapters average one/adapter mean/none --out new"), 3, &["mean/none/adapter_config.json"]);
    assert!(!folder.path("new").exists());
}

/// A fusion is saved with the adapters that it is of, resumes, and is read where an adapter is.
#[test]
fn a_fusion() {
    let folder = Folder::new("fusion");
    for (rate, out) in [("1e-2", "one"), ("3e-2", "other")] {
        succeeds(folder.train(&format!("--adapter seq_bn --steps 2 --learning-rate {rate} --out {out} --quiet")));
    }
    let options = "--fuse one/adapter --fuse other/adapter --learning-rate 1e-3 --save-every 1";
    let whole = result(&succeeds(folder.train(&format!("{options} --steps 3 --out whole --json"))));
    assert!(whole["use"].is_null() && whole["trains"]["adapters"].as_u64().is_some_and(|count| count > 100_000), "{whole}");
    for part in ["default", "default-2"] {
        let own = folder.files(&format!("whole/adapter/{part}"));
        assert!(own.contains_key("adapter.safetensors") && own.contains_key("adapter_config.json"));
    }
    succeeds(folder.train(&format!("{options} --steps 1 --out resumed --quiet")));
    succeeds(folder.command("train --out resumed --resume --steps 3 --quiet"));
    let top = |run: &str| {
        let mut files = folder.files_at_top(&format!("{run}/adapter"));
        files.extend(folder.files(&format!("{run}/adapter/default-2")));
        files
    };
    assert_eq!(top("resumed"), top("whole"));

    let loss = |adapter: &str| {
        let line = format!("eval --model {} --data data/valid.txt --max-length 16 --json --adapter {adapter}", crate::runs::BASE);
        let output = succeeds(folder.command(&line));
        assert!(!said(&output).contains("warning"), "{}", said(&output));
        result(&output)["loss"].as_f64().expect("a loss")
    };
    let fused = loss("fuse(whole/adapter)");
    assert!((fused - whole["eval_loss"].as_f64().expect("a loss")).abs() < 1e-6);
    assert_eq!(loss("whole/checkpoints/step-000003"), fused);
    succeeds(folder.train("--under whole/adapter --adapter lora --steps 1 --out top --quiet"));

    fails(folder.train("--fuse one/adapter --out new"), 2, &["a fusion needs at least two adapters"]);
    fails(folder.train("--fuse one/adapter --fuse top/adapter --out new"), 2, &["is lora", "only bottleneck adapters can be fused"]);
    fails(folder.train("--fuse one/adapter --fuse other/adapter --adapter lora --out new"), 2, &["--fuse trains a fusion"]);
    fails(folder.train("--init-adapter whole/adapter --out new"), 2, &["--init-adapter names a fusion"]);
    let eval = |adapter: &str| folder.command(&format!("eval --model {} --data data/valid.txt --adapter {adapter}", crate::runs::BASE));
    fails(eval("fuse(one/adapter)"), 3, &["one/adapter: is an adapter, not a fusion"]);
    fails(eval("average(one/adapter,whole/adapter)"), 3, &["whole/adapter: is a fusion, and fusions have no average"]);
    fs::remove_dir_all(folder.path("whole/adapter/default-2")).expect("a part");
    fails(eval("whole/adapter"), 3, &["is a fusion of 'default-2', which is neither in its directory nor beside it"]);
}
