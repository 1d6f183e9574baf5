//! The check of kernels on first use: what is wrong is replaced, and what was found is remembered.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use graftling::Result;
use graftling::doctor::{Avoided, Verdicts, self_check};
use graftling::gpu::Device;
use graftling::graph::wgsl::Constant;
use graftling::graph::{DType, Graph, Kernel, Parameters, Traits};
use graftling::measure;
use graftling::model::{AdapterConfig, Base, Model, Trains};
use graftling::ops::{self, Activation, Attention, FeedForward, Linear, Rope, RopePairs};
use graftling::train::{TrainOptions, Trainer, recordings};
use graftling::weights::GgmlType;
use graftling::{generate, words};
use serde_json::Value;

use crate::harness;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/base");
const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");

/// A directory that is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("graftling-{}-self-check-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a directory");
        std::fs::write(folder.join("text.txt"), "let y = g(x); // and no more\n".repeat(8)).expect("a text");
        Folder(folder)
    }

    fn verdicts(&self, device: &Device) -> Verdicts {
        Verdicts::in_file(&self.0.join("kernels.json"), device.info())
    }

    /// Runs a command that remembers kernels in this directory.
    fn run(&self, line: &str) -> Output {
        let mut command = harness::command();
        command.current_dir(&self.0).env("XDG_CACHE_HOME", &self.0).args(line.split_whitespace()).arg("--json");
        command.output().expect("the command runs")
    }

    /// The standard error of a command that succeeds, and its result.
    fn succeeds(&self, line: &str) -> (String, Value) {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {said}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (said, serde_json::from_str(text.lines().last().expect("a line")).expect("JSON"))
    }

    fn cache(&self) -> PathBuf {
        self.0.join("graftling/kernels.json")
    }

    /// Makes the remembered checks whose names begin like this wrong. Returns how many there are.
    fn condemn(&self, start: &str) -> usize {
        let text = std::fs::read(self.cache()).expect("the verdicts");
        let mut all: BTreeMap<String, BTreeMap<String, Option<String>>> = serde_json::from_slice(&text).expect("JSON");
        let checks = all.values_mut().flatten().filter(|(name, _)| name.starts_with(start));
        let count = checks.map(|(_, wrong)| *wrong = Some("made up".into())).count();
        std::fs::write(self.cache(), serde_json::to_vec(&all).expect("JSON")).expect("written");
        count
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A device that runs the kernels of a GPU, changed by `tamper`.
fn gpu(tamper: fn(&Kernel, String) -> String) -> Device {
    let mut device = Device::open(None).expect("these tests need a device");
    device.limit(|traits| traits.cpu = false);
    device.tamper(tamper);
    device
}

fn model(base: &Base) -> Model {
    Model::new(&base.config, &[&base.weights], Some(&AdapterConfig::default()), Trains::adapters()).expect("a model")
}

/// The files that a device avoids after the check, and whether anything was compared.
fn checked(device: &mut Device, folder: &Folder, model: &Model) -> Result<(Vec<Avoided>, bool)> {
    let (compared, mut verdicts) = (Cell::new(false), folder.verdicts(device));
    let avoided = self_check(device, &mut verdicts, |traits| recordings(model, traits, [2, 64], true), || compared.set(true))?;
    Ok((avoided, compared.get()))
}

/// The loss after three steps.
fn trained(device: &Device, base: &Base, model: &Model) -> f32 {
    let memory = model.upload(device, &[&base.weights], 0, true).expect("memory");
    let mut trainer = Trainer::new(device, model, &memory, TrainOptions::default()).expect("a trainer");
    let batch = measure::batch(2, 64, base.config.vocab_size);
    for _ in 0..2 {
        measure::step(&mut trainer, &batch).expect("a step");
    }
    trainer.step(std::slice::from_ref(&batch)).expect("a step");
    trainer.finish().expect("a step").expect("a report").loss
}

/// Products do not compile, and the fused adapter computes wrong numbers: both are replaced, and training comes out right.
#[test]
fn wrong_kernels_are_replaced() {
    let folder = Folder::new("replaced");
    let base = Base::open(BASE.as_ref()).expect("the base");
    let model = model(&base);
    let tamper = |kernel: &Kernel, source: String| match kernel.file {
        "matmul_gpu" => format!("{source}\nfn broken() -> u32 {{ return 1.5; }}"),
        "adapter" => source.replace("params.scaling", "(1.5 * params.scaling)"),
        _ => source,
    };
    let mut device = gpu(tamper);
    let (avoided, compared) = checked(&mut device, &folder, &model).expect("others take their place");
    assert_eq!(avoided.iter().map(|a| a.file).collect::<Vec<_>>(), ["matmul_gpu", "adapter"]);
    assert!(compared && avoided[0].wrong.contains("does not compile") && avoided[1].wrong.contains(" is "), "{avoided:?}");
    assert!(avoided[1].to_string().starts_with("the kernels of adapter compute wrong results on this device, so others"), "{}", avoided[1]);
    let files = |traits: &Traits| {
        let graphs = recordings(&model, traits, [2, 64], true).expect("recordings");
        graphs.iter().flat_map(Graph::line).map(|dispatch| dispatch.kernel.file).collect::<HashSet<_>>()
    };
    let used = files(device.traits());
    assert!(used.contains("matmul_any") && !used.contains("matmul_gpu") && !used.contains("adapter"), "{used:?}");

    let (right, replaced) = (trained(harness::device(), &base, &model), trained(&device, &base, &model));
    assert!((right - replaced).abs() < 1e-4 * right, "{replaced}, not {right}");

    // It is remembered: another process compares nothing and avoids the same.
    let mut device = gpu(|_, source| source);
    assert_eq!(checked(&mut device, &folder, &model).expect("remembered"), (avoided, false));
    assert_eq!(files(device.traits()), used);
}

/// A wrong kernel without another for its place is an error.
#[test]
fn a_kernel_that_cannot_be_replaced_is_an_error() {
    let folder = Folder::new("alone");
    let base = Base::open(BASE.as_ref()).expect("the base");
    let mut device = gpu(|kernel, source| match kernel.file {
        "attention" => source.replace("params.scale", "(1.5 * params.scale)"),
        _ => source,
    });
    let error = checked(&mut device, &folder, &model(&base)).expect_err("attention is wrong");
    let said = error.to_string();
    assert_eq!(error.exit_code(), 1);
    assert!(said.contains("the kernels of attention compute wrong results (") && said.contains("no others can take their place"), "{said}");
    assert!(folder.verdicts(&device).wrong().any(|(name, _)| name.starts_with("attention ")), "it is remembered");
}

static COMPILED: Mutex<Vec<Kernel>> = Mutex::new(Vec::new());

/// Whatever training and generating dispatch has been compared, in the format that it reads, on every class of device.
#[test]
fn every_kernel_is_checked() {
    let collect = |kernel: &Kernel, source: String| {
        COMPILED.lock().expect("no panic").push(kernel.clone());
        source
    };
    for (name, adapter) in [
        (BASE.to_string(), "identity_bn"),
        (format!("{MODELS}/llama.gguf"), "seq_bn_inv"),
        (format!("{MODELS}/qwen3.gguf"), "adapter_plus"),
    ] {
        let base = Base::open(name.as_ref()).expect("a model");
        let adapter = AdapterConfig::parse(adapter).expect("an adapter");
        let model = Model::new(&base.config, &[&base.weights], Some(&adapter), Trains::adapters()).expect("a model");
        let length = base.config.context.min(64);
        let record = |traits: &Traits| {
            let mut graphs = recordings(&model, traits, [2, length], true)?;
            graphs.extend(generate::recordings(&model, traits, length)?);
            Ok(graphs)
        };
        for cpu in [true, false] {
            COMPILED.lock().expect("no panic").clear();
            let mut device = Device::open(None).expect("these tests need a device");
            device.limit(|traits| traits.cpu &= cpu);
            device.tamper(collect);
            let folder = Folder::new(&format!("every-{:?}-{cpu}", base.config.family));
            let mut verdicts = folder.verdicts(&device);
            let avoided = self_check(&mut device, &mut verdicts, record, || ()).expect("a working device");
            assert_eq!(avoided, []);
            let of = |kernel: &Kernel| {
                let word = |wanted| kernel.constants.iter().find(|(name, _)| *name == wanted).map(|(_, word)| *word);
                (kernel.file, kernel.entry, word("FORMAT"), word("EPILOGUE"))
            };
            let compared: HashSet<_> = COMPILED.lock().expect("no panic").iter().map(of).collect();
            let graphs = record(device.traits()).expect("recordings");
            let missing: HashSet<_> =
                graphs.iter().flat_map(Graph::line).map(|d| of(&d.kernel)).filter(|kernel| !compared.contains(kernel)).collect();
            assert!(missing.is_empty(), "{name}, {}: {missing:?}", words::count(missing.len(), "kernel"));
        }
    }
}

/// A product so large that a GPU uses its largest tiles is compared with such tiles.
#[test]
fn large_tiles_are_checked() {
    static LARGE: AtomicBool = AtomicBool::new(false);
    let large = |kernel: &Kernel| kernel.file == "matmul_gpu" && kernel.constants.contains(&("QUADS", Constant::Number(2)));
    let mut device = gpu(|kernel, source| {
        LARGE.fetch_or(kernel.constants.contains(&("QUADS", Constant::Number(2))), Ordering::Relaxed);
        source
    });
    let record = |traits: &Traits| {
        let mut parameters = Parameters::default();
        let weight = parameters.add("w", [4096, 20], DType::F32, false);
        let mut g = Graph::new(traits, &parameters, false);
        let x = g.input("x", [1024, 20], DType::F32);
        ops::linear(&mut g, x, &Linear::new(weight, None));
        assert!(g.line().iter().any(|dispatch| large(&dispatch.kernel)));
        Ok(vec![g])
    };
    let folder = Folder::new("large");
    let mut verdicts = folder.verdicts(&device);
    assert_eq!(self_check(&mut device, &mut verdicts, record, || ()).expect("a working device"), []);
    assert!(LARGE.load(Ordering::Relaxed));
}

/// The comparisons of frozen matrices have whole blocks, whatever the format.
#[test]
fn block_formats_are_checked() {
    for (format, half) in [(GgmlType::F16, true), (GgmlType::Q4_1, false), (GgmlType::Q8_0, true), (GgmlType::Q4K, true)] {
        let mut parameters = Parameters::default();
        let mut frozen = |name: &str, shape: [u32; 2]| parameters.add(name.to_string(), shape, format.dtype(), false);
        let (tokens_table, qkv) = (frozen("tokens", [67, 256]), frozen("qkv", [64, 256]));
        let (input, output) = (frozen("input", [512, 256]), frozen("output", [256, 256]));
        let form = Attention { heads: 2, key_value_heads: 1, head_size: 16, causal: true, dropout: 0.0 };
        let record = |traits: &Traits| {
            let mut g = Graph::new(traits, &parameters, true);
            g.set_half(half);
            let [tokens, targets] = ["tokens", "targets"].map(|name| g.input(name, [1, 5], DType::U32));
            let (lengths, table) = (g.input("lengths", [1], DType::U32), g.input("table", [5, 16], DType::F32));
            let x = ops::embedding(&mut g, tokens, tokens_table, None);
            let rotation = Rope { heads: 2, key_value_heads: 1, head_size: 16, pairs: RopePairs::Halves, table };
            ops::self_attention(&mut g, x, &Linear::new(qkv, None), &rotation, lengths, form);
            let [input, output] = [input, output].map(|weight| Linear::new(weight, None));
            let layers = FeedForward { input: &input, output: &output, activation: Activation::Silu, gated: true };
            let x = ops::feed_forward(&mut g, x, &layers);
            ops::cross_entropy(&mut g, x, &Linear::new(tokens_table, None), targets);
            Ok(vec![g])
        };
        for cpu in [true, false] {
            let mut device = Device::open(None).expect("these tests need a device");
            device.limit(|traits| traits.cpu &= cpu);
            let folder = Folder::new(&format!("blocks-{format}-{half}-{cpu}"));
            let mut verdicts = folder.verdicts(&device);
            assert_eq!(
                self_check(&mut device, &mut verdicts, record, || ()).expect("a working device"),
                [],
                "{format}, f16 {half}, cpu {cpu}"
            );
        }
    }
}

#[test]
fn commands_check_once_and_say_what_they_replace() {
    let folder = Folder::new("commands");
    let eval = format!("eval --model {BASE} --data text.txt --max-length 64");
    let first = "checking   kernels on ";
    let (said, right) = folder.succeeds(&eval);
    assert!(said.contains(first) && !said.contains("warning"), "{said}");
    assert_eq!(right["warnings"], serde_json::json!([]));
    assert!(!folder.succeeds(&eval).0.contains(first));
    let (_, listed) = folder.succeeds("devices --device 0");
    assert!(listed["devices"][0]["checked"].as_u64() > Some(5), "{listed}");

    let train = format!("train --model {BASE} --data text.txt --max-length 32 --batch-size 1 --steps 1 --out");
    let (said, trained) = folder.succeeds(&format!("{train} right"));
    assert!(said.contains(first) && !said.contains("compute wrong results"), "{said}");

    // The fast products of this device are called wrong.
    let file = if harness::unchecked().traits().cpu { "matmul_cpu" } else { "matmul_gpu" };
    assert!(folder.condemn(file) > 0);
    let (said, replaced) = folder.succeeds(&eval);
    let warning = format!("the kernels of {file} compute wrong results on this device, so others take their place (made up)");
    assert!(said.contains(&format!("warning: {warning}")) && said.contains(first), "{said}");
    assert_eq!(replaced["warnings"], serde_json::json!([warning]));
    let loss = |result: &Value| result["loss"].as_f64().expect("a loss");
    assert!((loss(&right) - loss(&replaced)).abs() < 1e-4 * loss(&right), "{replaced}, not {right}");
    let (_, replaced) = folder.succeeds(&format!("{train} replaced"));
    assert_eq!(replaced["warnings"][0], warning);
    let loss_of = |result: &Value| result["loss_after"].as_f64().expect("a loss");
    assert!((loss_of(&trained) - loss_of(&replaced)).abs() < 1e-4 * loss_of(&trained), "{replaced}, not {trained}");
    let (_, listed) = folder.succeeds("devices --device 0");
    assert!(listed["devices"][0]["wrong"].as_object().expect("names").values().all(|wrong| wrong == "made up"), "{listed}");

    // A kernel that has no other.
    assert_eq!(folder.condemn("optimizer"), 1);
    let output = folder.run(&format!("{train} other"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the kernels of optimizer compute wrong results (made up), and no others can take their place"), "{said}");

    // A damaged file is as good as none.
    std::fs::write(folder.cache(), "{").expect("written");
    let (said, again) = folder.succeeds(&eval);
    assert!(said.contains(first) && !said.contains("warning"), "{said}");
    assert_eq!(loss(&again), loss(&right));
}
