//! Several adapters on the tiny models: `tests/fixtures/make_combined.py` computed the expected values with the `adapters` library and PEFT.

use std::path::PathBuf;

use graftling::AdapterSet;
use graftling::generate::Generator;
use graftling::gpu::Memory;
use graftling::model::{
    AdapterExpression, BaseIdentity, Model, SavedAdapter, SavedSetup, Trains, average, is_adapter, read_adapter, write_adapter,
};
use graftling::train::Evaluator;
use graftling::weights::Weights;

use crate::harness::{close, device};
use crate::pretrained::{Fixture, error};
use crate::whole::{gradients, last_logits, thirty_losses};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Where the adapters of a case are saved. The case is LOWER+UPPER, `lora LOWER+UPPER`, or a single one or a fusion.
fn paths(model: &str, case: &str) -> (Option<PathBuf>, PathBuf) {
    let (room, pair) = case.strip_prefix("lora ").map_or(("models", case), |pair| ("lora", pair));
    let path = |name: &str| {
        fixtures().join(if name.ends_with("_inv") || name.starts_with("fuse_") { "combined" } else { room }).join(model).join(name)
    };
    pair.split_once('+').map_or((None, path(pair)), |(lower, upper)| (Some(path(lower)), path(upper)))
}

/// The model with frozen adapters and one that trains on top, without dropout, and its memory.
fn stacked(fixture: &Fixture, below: &SavedSetup, upper: &SavedAdapter) -> (Model, Memory) {
    let changes: Vec<_> =
        [below.sources(&fixture.config), upper.sources(&fixture.config)].into_iter().flat_map(|w| w.expect("tensors")).collect();
    let sources: Vec<_> = [&fixture.weights].into_iter().chain(&changes).collect();
    let mut setup = below.setup().under(&upper.config);
    setup.adapters.iter_mut().for_each(|adapter| adapter.config = adapter.config.clone().with_dropout(0.0));
    let model = Model::new(&fixture.config, &sources, setup, Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &sources, 0, true).expect("memory");
    (model, memory)
}

/// Every stack, adapters with an invertible one, and fusions: the logits, every gradient of the upper adapter, the losses of 30 steps, and its tensors
/// after them. The lower adapter stays as it is, to the bit.
#[test]
fn stacks_train_as_in_the_libraries() {
    for (name, places) in [("gpt2", 11), ("llama", 11), ("llama.gguf", 11), ("qwen2", 5)] {
        let fixture = Fixture::open(name);
        let model = name.strip_suffix(".gguf").unwrap_or(name);
        let expected = Weights::read(&fixtures().join("combined").join(model).join("expected.safetensors")).expect("the expected values");
        let cases: Vec<_> = expected.tensors.keys().filter_map(|name| name.strip_suffix("/logits")).collect();
        assert_eq!(cases.len(), places);
        for case in cases {
            let values = |key: &str| -> Vec<f64> {
                let weight = expected.tensors.get(&format!("{case}/{key}")).unwrap_or_else(|| panic!("{name} has no '{case}/{key}'"));
                weight.to_f32().into_iter().map(f64::from).collect()
            };
            follow(&fixture, case, &values);
        }
    }
}

fn follow(fixture: &Fixture, case: &str, values: &dyn Fn(&str) -> Vec<f64>) {
    let (device, batch) = (device(), fixture.batch());
    let (what, directory) = (format!("{} {case}", fixture.name), fixture.name.strip_suffix(".gguf").unwrap_or(fixture.name));
    let (lower, upper) = paths(directory, case);
    let mut upper = read_adapter(&upper).expect("an adapter");
    let parts = std::mem::take(&mut upper.parts);
    let below = lower.iter().map(|path| read_adapter(path).expect("an adapter")).chain(parts.clone()).collect();
    let (model, memory) = stacked(fixture, &SavedSetup::of(below), &upper);

    close(&format!("{what}: logits"), &last_logits(&model, &memory, &batch), &values("logits"), 2e-5);

    let tensors = on_disk(fixture, &model, &gradients(&model, &memory, &batch));
    assert!(!tensors.is_empty());
    for (name, got) in tensors {
        // It adds the same to all scores of a token, so its gradient is that of rounding.
        if name.ends_with("key.bias") {
            assert!(got.iter().all(|v| v.abs() < 1e-6), "{what}: the gradient of {name}");
            continue;
        }
        let want = values(&format!("grad/{name}"));
        let none = want.iter().all(|v| v.abs() < 1e-12) && got.iter().all(|v| v.abs() < 1e-7);
        assert!(none || error(&got, &want) < 1e-4, "{what}: the gradient of {name} is off by {:e}", error(&got, &want));
    }

    let frozen = model.frozen_fingerprint(device, &memory).expect("a fingerprint");
    let losses = thirty_losses(&what, &model, &memory, &batch, &values("loss_curve"));
    assert_eq!(model.frozen_fingerprint(device, &memory).expect("a fingerprint"), frozen, "{what}: what is frozen has changed");
    let trained = model.download(device, &memory, |name| model.trains(name)).expect("the tensors");
    for (name, got) in on_disk(fixture, &model, &trained).into_iter().filter(|(name, _)| !name.ends_with("key.bias")) {
        let off = error(&got, &values(&format!("final/{name}")));
        assert!(off <= 1e-2, "{what}: {name} is off by {off:e} after 30 steps");
    }

    // Read back as an expression, it gives the same loss.
    let place = std::env::temp_dir().join(format!("graftling-{}-combined", std::process::id()));
    let identity = BaseIdentity::of(&fixture.config, &fixture.weights, fixture.name);
    let everything = model.download(device, &memory, is_adapter).expect("the tensors");
    let saved = SavedAdapter::of(&model, &everything, "top", &identity).expect("an adapter");
    write_adapter(&place, &SavedAdapter { parts, ..saved }).expect("an adapter");
    let lower = lower.map_or(String::new(), |lower| format!("'{}',", lower.display()));
    let expression = format!("stack({lower}'{}')", place.display());
    let both = AdapterExpression::parse(expression.as_ref()).expect("an expression").read().expect("both adapters");
    let loss = loss(fixture, &both);
    assert!((loss - f64::from(losses[30])).abs() < 1e-6, "{what}: the loss after reading it back is {loss}, not {}", losses[30]);
    match std::env::var_os("KEEP_ADAPTERS") {
        // For `make_combined.py check`, which computes the loss with the library.
        Some(kept) => {
            let kept = PathBuf::from(kept).join(format!("{}-{case}", fixture.name));
            std::fs::rename(&place, &kept).expect("a directory");
            println!("{lower} {}: loss {loss:.6}", kept.display());
        }
        None => std::fs::remove_dir_all(&place).expect("the adapter"),
    }
}

/// Tensors of the upper adapter under their names on disk, with `probe` for a bottleneck adapter's name.
fn on_disk(fixture: &Fixture, model: &Model, tensors: &Weights) -> Vec<(String, Vec<f32>)> {
    let identity = BaseIdentity::of(&fixture.config, &fixture.weights, fixture.name);
    let saved = SavedAdapter::of(model, tensors, "probe", &identity).expect("an adapter");
    assert!(saved.base.is_none() && saved.head.is_none());
    let lora = saved.config.to_string().starts_with("lora");
    let name = |name: String| {
        if lora {
            format!("base_model.model.{name}")
        } else {
            name.replace("adapters.default.", "adapters.probe.").replace("layer.default.", "layer.a,b.")
        }
    };
    saved.weights.tensors.into_iter().map(|(own, weight)| (name(own), weight.to_f32())).collect()
}

/// The loss of a model with saved adapters, all frozen.
fn loss(fixture: &Fixture, saved: &SavedSetup) -> f64 {
    let changes = saved.sources(&fixture.config).expect("the adapters' tensors");
    let sources: Vec<_> = [&fixture.weights].into_iter().chain(&changes).collect();
    let model = Model::new(&fixture.config, &sources, saved.setup(), Trains::adapters()).expect("a model");
    let memory = model.upload(device(), &sources, 0, false).expect("memory");
    Evaluator::new(device(), &model, &memory).loss(&[fixture.batch()]).expect("a loss")
}

/// A bottleneck below a LoRA and the reverse: neither has weights where the other does, so the order does not matter.
#[test]
fn methods_can_be_mixed() {
    let fixture = Fixture::open("llama");
    let read = |text: &str| AdapterExpression::parse(text.as_ref()).expect(text).read().expect(text);
    let [bottleneck, lora] = ["models/llama/seq_bn", "lora/llama/all"].map(|path| fixtures().join(path).display().to_string());
    let [one, other] = [(&bottleneck, &lora), (&lora, &bottleneck)].map(|(a, b)| loss(&fixture, &read(&format!("stack({a},{b})"))));
    assert_eq!(one.to_bits(), other.to_bits());
    let alone = [&bottleneck, &lora].map(|path| loss(&fixture, &read(path)));
    assert!(alone.iter().all(|alone| (alone - one).abs() > 1e-2), "{alone:?} {one}");
}

/// Parallel adapters in a stack add their branches, since each reads the residual stream.
#[test]
fn parallel_adapters_add_up() {
    let fixture = Fixture::open("gpt2");
    let path = fixtures().join("models/gpt2/par_bn").display().to_string();
    let read = |text: &str| AdapterExpression::parse(text.as_ref()).expect(text).read().expect(text);
    let twice = loss(&fixture, &read(&format!("stack({path},{path})")));
    // One adapter with twice the branch.
    let mut saved = read_adapter(path.as_ref()).expect("an adapter");
    for (_, weight) in saved.weights.tensors.iter_mut().filter(|(name, _)| name.contains("adapter_up")) {
        let doubled: Vec<_> = weight.to_f32().iter().map(|v| 2.0 * v).collect();
        *weight = graftling::weights::Weight::from_f32(weight.shape.clone(), &doubled);
    }
    let doubled = loss(&fixture, &SavedSetup::of(vec![saved]));
    assert!((twice - doubled).abs() < 1e-6, "{twice} and {doubled}");
}

#[test]
fn an_average_is_the_librarys() {
    let [one, other, mean] = ["models/llama/seq_bn", "combined/llama/other", "combined/llama/average"].map(|path| fixtures().join(path));
    let text = format!("average({}:1.4,{}:.6)", one.display(), other.display());
    let expression = AdapterExpression::parse(text.as_ref()).expect("an expression");
    let (got, want) = (expression.read_one("--adapter").expect("an average"), read_adapter(&mean).expect("the library's"));
    assert_eq!(got.weights.tensors.len(), want.weights.tensors.len());
    for (name, weight) in &got.weights.tensors {
        let want = &want.weights.tensors[&name.replace(".probe.", ".mean.")];
        let near = weight.to_f32().into_iter().zip(want.to_f32()).all(|(got, want)| (got - want).abs() <= 1e-7 * want.abs().max(1.0));
        assert!(near, "{name}");
    }
    // It can be written, and is the same afterwards.
    let fixture = Fixture::open("llama");
    let place = std::env::temp_dir().join(format!("graftling-{}-average", std::process::id()));
    write_adapter(&place, &got).expect("an adapter");
    let losses =
        [SavedSetup::of(vec![got]), SavedSetup::of(vec![read_adapter(&place).expect("an adapter")])].map(|saved| loss(&fixture, &saved));
    assert_eq!(losses[0].to_bits(), losses[1].to_bits());
    std::fs::remove_dir_all(&place).expect("the adapter");
}

/// A LoRA whose B is another's tripled: their equal mean is the first with B doubled, also after it is written.
#[test]
fn loras_are_averaged() {
    for model in ["llama", "gpt2"] {
        let fixture = Fixture::open(model);
        let saved = read_adapter(&fixtures().join("lora").join(model).join("all")).expect("a LoRA");
        let scaled = |factor: f32| {
            let mut saved = saved.clone();
            for (_, weight) in saved.weights.tensors.iter_mut().filter(|(name, _)| name.contains("lora_B")) {
                let values: Vec<_> = weight.to_f32().iter().map(|v| factor * v).collect();
                *weight = graftling::weights::Weight::from_f32(weight.shape.clone(), &values);
            }
            saved
        };
        let mean = average(&[(saved.clone(), 1.0), (scaled(3.0), 1.0)], "the mean").expect("an average");
        let place = std::env::temp_dir().join(format!("graftling-{}-lora-average-{model}", std::process::id()));
        write_adapter(&place, &mean).expect("a LoRA");
        let again = read_adapter(&place).expect("a LoRA");
        assert_eq!(again.config.to_string(), saved.config.to_string());
        let losses = [scaled(2.0), mean, again].map(|saved| loss(&fixture, &SavedSetup::of(vec![saved])));
        assert!((losses[0] - losses[1]).abs() < 1e-6, "{model}: {losses:?}");
        assert_eq!(losses[1].to_bits(), losses[2].to_bits());
        std::fs::remove_dir_all(&place).expect("the adapter");
    }
}

#[test]
fn what_cannot_be_averaged_is_named() {
    let read = |path: &str| read_adapter(&fixtures().join(path)).expect("an adapter");
    let cases = [
        ("models/llama/seq_bn", "models/llama/seq_rf8", "models/llama/seq_rf8: is seq_bn[reduction_factor=8"),
        ("models/llama/seq_bn", "lora/llama/all", "another form than seq_bn"),
        ("models/llama/seq_bn", "models/gpt2/seq_bn", "gpt2/seq_bn: is for a gpt2 model, not for a llama model"),
        ("models/llama/seq_bn_head_trained", "models/llama/seq_bn", "llama/seq_bn: has no head"),
        ("lora/llama/all", "lora/llama/default", "another form than lora"),
    ];
    for (one, other, words) in cases {
        let problem = average(&[(read(one), 1.0), (read(other), 1.0)], "the mean").err().unwrap_or_else(|| panic!("{one} and {other}"));
        assert!(problem.to_string().contains(words), "'{problem}' does not say '{words}'");
    }
    let mut damaged = read("models/llama/seq_bn");
    let (name, weight) = damaged.weights.tensors.iter_mut().next().expect("a tensor");
    *weight = graftling::weights::Weight::from_f32(weight.shape.clone(), &vec![f32::NAN; weight.shape.len() as usize]);
    let name = name.clone();
    let problem = average(&[(read("models/llama/seq_bn"), 1.0), (damaged, 1.0)], "the mean").expect_err("a NaN");
    assert!(problem.to_string().contains(&name), "{problem}");
}

/// Models with different adapters on one base: the base is in memory once, and each gives the loss that it gives by itself, whichever ran before.
#[test]
fn adapters_share_a_base() {
    let fixture = Fixture::open("llama.gguf");
    let plain = Model::new(&fixture.config, &[&fixture.weights], None, Trains::adapters()).expect("a model");
    let base = plain.upload(device(), &[&fixture.weights], 0, false).expect("memory");
    let plain_loss = |memory: &Memory| Evaluator::new(device(), &plain, memory).loss(&[fixture.batch()]).expect("a loss").to_bits();
    let before = plain_loss(&base);
    for path in ["models/llama/double_seq_bn", "lora/llama/all", "combined/llama/seq_bn_inv", "lora/llama/head"] {
        let saved = AdapterExpression::Saved(fixtures().join(path)).read().expect("an adapter");
        let changes = saved.sources(&fixture.config).expect("the adapter's tensors");
        let sources: Vec<_> = [&fixture.weights].into_iter().chain(&changes).collect();
        let model = Model::new(&fixture.config, &sources, saved.setup(), Trains::adapters()).expect("a model");
        let memory = model.upload_beside(device(), &base, &sources).expect("memory");
        let own: u64 = changes.iter().flat_map(|weights| weights.tensors.values()).map(|weight| weight.bytes().len() as u64).sum();
        // The activations are those of the base's program, and a little is not weights.
        let scratch = base.bytes() - plain.upload(device(), &[&fixture.weights], 0, false).expect("memory").bytes();
        assert!((own..own + 64 * 1024).contains(&(memory.bytes() - scratch)), "{path}: {} beside {scratch} for {own}", memory.bytes());
        let beside = Evaluator::new(device(), &model, &memory).loss(&[fixture.batch()]).expect("a loss");
        assert_eq!(beside.to_bits(), loss(&fixture, &saved).to_bits(), "{path}");
        assert_eq!(plain_loss(&base), before, "{path}");
    }
}

/// Each row of a batch has the logits of its own adapter, whatever the others have.
#[test]
fn every_row_has_its_own_adapter() {
    let fixture = Fixture::open("llama");
    let mut set = AdapterSet::new(device(), &fixture.config, &fixture.weights).expect("a set");
    let read = |path: &str| AdapterExpression::Saved(fixtures().join(path)).read().expect("an adapter");
    for (name, path) in [("bottleneck", "models/llama/seq_bn"), ("lora", "lora/llama/all"), ("fused", "combined/llama/fuse_dynamic")] {
        set.insert(name, &read(path)).expect("an adapter");
    }
    let tokens: Vec<u32> = (1..20).collect();
    let rows = [
        (Some("lora"), &tokens[..5]),
        (None, &tokens[2..9]),
        (Some("fused"), &tokens[..7]),
        (Some("lora"), &tokens[3..14]),
        (Some("bottleneck"), &tokens[..5]),
        (None, &tokens[..1]),
    ];
    let all = set.logits(&rows).expect("logits");
    for (i, (name, tokens)) in rows.into_iter().enumerate() {
        let (model, memory) = set.get(name).expect("a model");
        let alone = Generator::new(device(), model, memory, 16).expect("a generator").logits(tokens).expect("logits");
        let want: Vec<_> = alone.into_iter().map(f64::from).collect();
        close(&format!("row {i}"), &all[i], &want, 1e-5);
        let twin = (0..i).find(|&j| rows_equal(&all[i], &all[j]));
        assert_eq!(twin, None, "row {i}");
    }
    assert!(rows_equal(&set.logits(&rows).expect("logits")[3], &all[3]));
    set.remove("fused");
    let problem = |rows: &[(Option<&str>, &[u32])], set: &mut AdapterSet| set.logits(rows).expect_err("a mistake").to_string();
    assert!(problem(&[(Some("loar"), &[1])], &mut set).contains("no adapter 'loar' in the set; did you mean 'lora'?"));
    assert!(problem(&[(Some("fused"), &[1])], &mut set).contains("no adapter 'fused'"));
    assert!(problem(&[(None, &[])], &mut set).contains("row 0 has 0 tokens"));
    assert!(problem(&[(None, &[1]), (None, &[9999])], &mut set).contains("9999"));
}

fn rows_equal(one: &[f32], other: &[f32]) -> bool {
    one.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// The library's own LoRA has the loss that the library computes, on GPT-2's fused queries, keys and values too, and becomes PEFT's when saved.
#[test]
fn the_librarys_own_lora() {
    for name in ["gpt2", "llama", "qwen2"] {
        let fixture = Fixture::open(name);
        let directory = fixtures().join("combined").join(name);
        let expected = Weights::read(&directory.join("expected.safetensors")).expect("the expected values");
        let want = f64::from(expected.tensors["own_lora"].to_f32()[0]);
        let saved = read_adapter(&directory.join("own_lora")).expect("a LoRA");
        let got = loss(&fixture, &SavedSetup::of(vec![saved.clone()]));
        assert!((got - want).abs() < 1e-5, "{name}: {got}, not {want}");
        let place = std::env::temp_dir().join(format!("graftling-{}-own-lora-{name}", std::process::id()));
        write_adapter(&place, &saved).expect("a LoRA");
        let again = loss(&fixture, &SavedSetup::of(vec![read_adapter(&place).expect("a LoRA")]));
        assert_eq!(again.to_bits(), got.to_bits(), "{name}");
        std::fs::remove_dir_all(&place).expect("the adapter");
    }
}
