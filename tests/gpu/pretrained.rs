//! Tiny GPT-2, Llama, Qwen2 and Qwen3 models against `transformers` and `adapters`: `tests/fixtures/make_models.py` computed the expected
//! values.

use std::path::PathBuf;

use graftling::generate::Generator;
use graftling::gpu::Memory;
use graftling::model::{
    AdapterConfig, Base, BaseDropout, BaseIdentity, BottleneckConfig, Config, Model, SavedAdapter, Trains, read_adapter, write_adapter,
};
use graftling::text::{Batch, IGNORED};
use graftling::train::Evaluator;
use graftling::weights::Weights;

use crate::harness::{close, device};
use crate::whole::{gradients, logits, thirty_losses};

/// One of the fixture's models with its expected values.
pub struct Fixture {
    pub name: &'static str,
    pub config: Config,
    pub weights: Weights,
    pub expected: Weights,
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

impl Fixture {
    pub fn open(name: &'static str) -> Fixture {
        let (config, weights) = Base::open_weights(&path(name)).expect("a model");
        let directory = name.strip_suffix(".gguf").unwrap_or(name);
        let expected = Weights::read(&path(directory).join("expected.safetensors")).expect("the expected values");
        // The expected values are those of a model without its own dropout.
        Fixture { name, config: Config { dropout: BaseDropout::default(), ..config }, weights, expected }
    }

    pub fn f64(&self, name: &str) -> Vec<f64> {
        let weight = self.expected.tensors.get(name).unwrap_or_else(|| panic!("the fixture of {} has no '{name}'", self.name));
        weight.to_f32().into_iter().map(f64::from).collect()
    }

    fn u32(&self, name: &str) -> Vec<u32> {
        let bytes = std::fs::read(&self.expected.path).expect("the expected values");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        bytemuck::pod_collect_to_vec::<u8, i32>(file.tensor(name).expect(name).data()).into_iter().map(|v| v as u32).collect()
    }

    /// Two rows, the second shorter; nothing attends to the padding.
    pub fn batch(&self) -> Batch {
        let (tokens, lengths) = (self.u32("tokens"), self.u32("lengths"));
        let length = tokens.len() / lengths.len();
        let mut targets = vec![IGNORED; tokens.len()];
        for (row, &count) in lengths.iter().enumerate() {
            let row = row * length;
            targets[row..row + count as usize - 1].copy_from_slice(&tokens[row + 1..row + count as usize]);
        }
        let types = vec![0; tokens.len()];
        Batch { rows: lengths.len() as u32, length: length as u32, tokens, types, targets, lengths }
    }

    /// The model with one of its adapters, including the adapter's changes to the base, and its memory.
    fn adapted(&self, preset: &str, trains: Trains) -> (Model, Memory) {
        let saved = read_adapter(&path(self.name).join(preset)).expect("an adapter");
        let changes = saved.sources(&self.config).expect("the adapter's tensors");
        let sources: Vec<_> = [&self.weights].into_iter().chain(&changes).collect();
        let AdapterConfig::Bottleneck(config) = saved.config else { panic!("{preset} is not a bottleneck adapter") };
        let config = BottleneckConfig { dropout: 0.0, stochastic_depth: 0.0, ..config }.into();
        let model = Model::new(&self.config, &sources, Some(&config), trains).expect("a model");
        let memory = model.upload(device(), &sources, 0, true).expect("memory");
        (model, memory)
    }

    fn plain(&self) -> (Model, Memory) {
        let model = Model::new(&self.config, &[&self.weights], None, Trains::adapters()).expect("a model");
        let memory = model.upload(device(), &[&self.weights], 0, false).expect("memory");
        (model, memory)
    }
}

/// The rows of (batch, length, width) that are not padding.
fn real<T: Copy>(batch: &Batch, values: Vec<T>) -> Vec<T> {
    let width = values.len() / batch.tokens.len();
    let rows = values.chunks(width).enumerate();
    let is_real = |at: usize| at as u32 % batch.length < batch.lengths[at / batch.length as usize];
    rows.filter(|(at, _)| is_real(*at)).flat_map(|(_, row)| row.iter().copied()).collect()
}

/// The relative error of a tensor: the norm of the difference over that of `want`.
pub fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(&g, w)| f64::from(g) - w)) / norm(&mut want.iter().copied()).max(1e-12)
}

const MODELS: [&str; 9] = ["gpt2", "gpt2_bare", "llama", "qwen2", "qwen3", "gpt2.gguf", "llama.gguf", "qwen2.gguf", "qwen3.gguf"];

/// Both file formats give the library's logits, which also checks the q/k permutation of llama GGUF files.
#[test]
fn logits_and_loss() {
    for name in MODELS {
        let fixture = Fixture::open(name);
        let batch = fixture.batch();
        let (model, memory) = fixture.plain();
        let want = real(&batch, fixture.f64("logits"));
        let got = real(&batch, logits(&model, &memory, &batch));
        close(&format!("logits of {name}"), &got, &want, 1e-5);
        let loss = Evaluator::new(device(), &model, &memory).loss(std::slice::from_ref(&batch)).expect("a loss");
        close(&format!("loss of {name}"), &[loss as f32], &fixture.f64("loss"), 1e-5);
    }
}

/// Processing a row token by token through the cache gives the same logits as the whole row at once.
#[test]
fn generation_agrees_with_the_whole() {
    for name in ["gpt2", "llama", "qwen2.gguf", "qwen3"] {
        let fixture = Fixture::open(name);
        let batch = fixture.batch();
        let (model, memory) = fixture.plain();
        let want = real(&batch, fixture.f64("logits"));
        let vocabulary = want.len() / batch.lengths.iter().sum::<u32>() as usize;
        let mut generator = Generator::new(device(), &model, &memory, 11).expect("a generator");
        // The second row first, so that its leftovers in the cache would show.
        for (row, before) in [(1, batch.lengths[0]), (0, 0)] {
            let tokens = &batch.tokens[row * batch.length as usize..][..batch.lengths[row] as usize];
            for end in [6, 7, tokens.len()] {
                let got = generator.logits(&tokens[..end]).expect("logits");
                let at = (before as usize + end - 1) * vocabulary;
                close(&format!("logits of {name} after {end} tokens"), &got, &want[at..at + vocabulary], 1e-5);
            }
        }
    }
}

/// Every preset of every model: the gradients at the start, the losses of 30 steps, and the tensors after them.
#[test]
fn adapters_train_as_in_the_library() {
    for name in ["gpt2", "llama", "qwen2", "qwen3"] {
        let fixture = Fixture::open(name);
        let mut presets: Vec<_> = std::fs::read_dir(path(name)).expect("a directory").map(|e| e.expect("an entry").path()).collect();
        presets.retain(|path| path.join("adapter_config.json").exists() && !path.ends_with("seq_bn_head_trained"));
        presets.sort();
        assert!(presets.len() >= 3, "{presets:?}");
        for preset in presets {
            let preset = preset.file_name().and_then(|name| name.to_str()).expect("a name");
            follow(&fixture, preset, preset, Trains::adapters());
        }
    }
    let heads = Trains { head: true, ..Trains::adapters() };
    follow(&Fixture::open("llama"), "seq_bn", "seq_bn_head", heads);
    follow(&Fixture::open("qwen2"), "seq_bn", "seq_bn_head", heads);
    follow(&Fixture::open("gpt2"), "seq_bn", "seq_bn_norms", Trains { norms: true, ..Trains::adapters() });
}

/// Trains the adapter of `preset` and compares it with the values under `expected`.
fn follow(fixture: &Fixture, preset: &str, expected: &str, trains: Trains) {
    let (device, batch) = (device(), fixture.batch());
    let (model, memory) = fixture.adapted(preset, trains);
    let what = format!("{} {expected}", fixture.name);

    // On disk the adapter is called `probe`, not `default`.
    let on_disk = |name: &str| name.replace(".adapters.default.", ".adapters.probe.");
    let gradients = gradients(&model, &memory, &batch).tensors;
    assert!(!gradients.is_empty());
    for (name, got) in &gradients {
        let (got, want) = (got.to_f32(), fixture.f64(&format!("{expected}/grad/{}", on_disk(name))));
        let largest = want.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        assert!(largest < 1e-12 && got.iter().all(|v| v.abs() < 1e-7) || error(&got, &want) < 1e-4, "{what}: gradient of {name}");
    }

    let losses = thirty_losses(&what, &model, &memory, &batch, &fixture.f64(&format!("{expected}/loss_curve")));
    let trained = model.download(device, &memory, |name| model.trains(name)).expect("the tensors");
    assert_eq!(trained.tensors.len(), gradients.len());
    // For `make_models.py check`, which computes the loss with the library.
    if let Some(place) = std::env::var_os("KEEP_ADAPTERS") {
        let place = PathBuf::from(place).join(format!("{}-{expected}", fixture.name));
        let identity = BaseIdentity::of(&fixture.config, &fixture.weights, fixture.name);
        let saved = SavedAdapter::of(&model, &trained, "kept", &identity).expect("an adapter");
        write_adapter(&place, &saved).expect("an adapter");
        println!("{}: loss {:.6}", place.display(), losses[30]);
    }
    for (name, weight) in &trained.tensors {
        let off = error(&weight.to_f32(), &fixture.f64(&format!("{expected}/final/{}", on_disk(name))));
        assert!(off <= 1e-2, "{what}: {name} is off by {off:e} after 30 steps");
    }
}
