//! Adapters combined, as a user runs the command: one trained on top of another, and averages.

use std::fs;

use crate::runs::{Place, fails, result, said, succeeds};

#[test]
fn an_adapter_on_top_of_another() {
    let place = Place::new("under");
    succeeds(place.train("--adapter seq_bn_inv[reduction_factor=8] --adapter-name lang --steps 3 --learning-rate 1e-2 --out low --quiet"));
    let options = "--under low/adapter --adapter double_seq_bn --adapter-name task --learning-rate 1e-2 --save-every 1";
    let below = place.files("low/adapter");
    let output = succeeds(place.train(&format!("{options} --steps 4 --out whole --json")));
    let top = result(&output);
    assert_eq!(top["use"], "stack(low/adapter,whole/adapter)");
    assert!(said(&output).contains("--adapter \"stack(low/adapter,whole/adapter)\""), "{}", said(&output));
    assert_eq!(place.files("low/adapter"), below);
    let tensors = fs::read(place.path("whole/adapter/adapter.safetensors")).expect("the adapter");
    let header = String::from_utf8_lossy(&tensors);
    assert!(header.contains(".adapters.task.") && !header.contains("lang"));

    // Two steps and then two more end with the same bytes, as does a repetition from another directory.
    succeeds(place.train(&format!("{options} --steps 2 --out resumed --quiet")));
    succeeds(place.command("train --out resumed --resume --steps 4 --quiet"));
    assert_eq!(place.files("resumed/adapter"), place.files("whole/adapter"));
    fs::create_dir(place.path("elsewhere")).expect("a directory");
    let mut again = place.command("train --config ../whole/run.toml --out ../again --quiet");
    succeeds({
        again.current_dir(place.path("elsewhere"));
        again
    });
    assert_eq!(place.files("again/adapter"), place.files("whole/adapter"));

    // Evaluated together, it has the loss of the next step; alone, it has another, and a warning.
    let eval = |adapter: &str| {
        let base = top["checkpoint"].as_str().expect("a path").replace("checkpoints/step-000004", "run.toml");
        let toml: toml::Table = fs::read_to_string(place.path(&base)).expect("the options").parse().expect("TOML");
        let model = toml["model"].as_str().expect("a model");
        let line = format!("eval --model {model} --data data/valid.txt --max-length 16 --json --adapter {adapter}");
        let output = succeeds(place.command(&line));
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
    succeeds(place.train("--under stack(low/adapter,whole/adapter) --steps 1 --adapter lora --out third --quiet"));
    fs::rename(place.path("low"), place.path("kept")).expect("a directory");
    succeeds(place.train("--adapter seq_bn_inv[reduction_factor=8] --adapter-name lang --steps 2 --out low --quiet"));
    let words = ["low/adapter: does not have the weights that this run began with"];
    fails(place.command("train --out resumed --resume --steps 5 --quiet"), 3, &words);
    fs::remove_dir_all(place.path("low")).expect("the run");
    fails(place.command("train --out resumed --resume --steps 5 --quiet"), 3, &["low/adapter/adapter_config.json"]);
}

/// `adapters average` writes what an average in an expression is.
#[test]
fn an_average_of_runs() {
    let place = Place::new("average");
    for (rate, out) in [("1e-2", "one"), ("3e-2", "other")] {
        succeeds(place.train(&format!("--adapter lora --steps 3 --learning-rate {rate} --out {out} --quiet")));
    }
    let output = succeeds(place.command("adapters average one/adapter other/adapter --weights 0.7,0.3 --out mean --json"));
    assert_eq!(result(&output)["out"], "mean");
    succeeds(place.train("--init-adapter mean --steps 1 --out more --quiet"));
    fails(place.command("adapters average one/adapter mean/none --out new"), 3, &["mean/none/adapter_config.json"]);
    assert!(!place.path("new").exists());
}
