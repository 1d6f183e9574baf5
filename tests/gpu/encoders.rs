//! Tiny BERT, RoBERTa and DistilBERT models against `transformers`, `adapters` and PEFT: `tests/fixtures/make_encoders.py` computed the
//! expected values.

use std::path::PathBuf;

use graftling::gpu::{Memory, Program};
use graftling::graph::{Graph, Tensor};
use graftling::model::{AdapterConfig, Base, BaseDropout, BaseIdentity, Config, Model, SavedAdapter, Trains, read_adapter, write_adapter};
use graftling::text::{Batch, IGNORED};
use graftling::train::Evaluator;
use graftling::weights::Weights;

use crate::harness::{self, close, device};
use crate::pretrained::error;
use crate::whole::{gradients, logits, thirty_losses, write_inputs};

/// A model with its expected values.
struct Fixture {
    name: &'static str,
    config: Config,
    weights: Weights,
    expected: Weights,
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoders").join(name)
}

impl Fixture {
    fn open(name: &'static str) -> Fixture {
        let (config, weights) = Base::open_weights(&path(name)).expect("a model");
        let expected = Weights::read(&path(name).join("expected.safetensors")).expect("the expected values");
        Fixture { name, config: Config { dropout: BaseDropout::default(), ..config }, weights, expected }
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        let weight = self.expected.tensors.get(name).unwrap_or_else(|| panic!("the fixture of {} has no '{name}'", self.name));
        weight.to_f32().into_iter().map(f64::from).collect()
    }

    fn i32(&self, name: &str) -> Vec<i32> {
        let bytes = std::fs::read(&self.expected.path).expect("the expected values");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        bytemuck::pod_collect_to_vec(file.tensor(name).expect(name).data())
    }

    /// Two rows, the second shorter.
    fn batch(&self) -> Batch {
        let of = |name: &str| self.i32(name).into_iter().map(|v| u32::try_from(v).unwrap_or(IGNORED)).collect::<Vec<_>>();
        let (tokens, lengths) = (of("tokens"), of("lengths"));
        let has_targets = self.name != "bert_old";
        let targets = if has_targets { of("targets") } else { vec![IGNORED; tokens.len()] };
        let length = tokens.len() / lengths.len();
        Batch { rows: lengths.len() as u32, length: length as u32, tokens, types: of("types"), targets, lengths }
    }

    fn plain(&self) -> (Model, Memory) {
        let model = Model::new(&self.config, &[&self.weights], None, Trains::adapters()).expect("a model");
        let memory = model.upload(device(), &[&self.weights], 0, false).expect("memory");
        (model, memory)
    }

    /// The name of a tensor in the fixture, where the adapter is called `probe` and sits in the library's modules.
    fn on_disk(&self, name: &str) -> String {
        if name.contains(".lora_") {
            return format!("base_model.model.{name}");
        }
        let of = |name: &str, place: &str, module: &str| {
            name.replace(&format!(".{place}.adapters.default."), &format!(".{module}.adapters.probe."))
        };
        match self.name {
            "distilbert" => name.replace(".adapters.default.", ".adapters.probe."),
            _ => of(&of(name, "attention_adapters", "attention.output"), "output_adapters", "output"),
        }
    }
}

/// What `record` makes of the hidden states.
fn result(model: &Model, memory: &Memory, batch: &Batch, record: impl Fn(&mut Graph, Tensor) -> Tensor) -> Vec<f32> {
    let mut g = Graph::new(device().traits(), &model.parameters, false);
    let inputs = model.inputs(&mut g, batch.rows, batch.length, batch.length);
    let hidden = model.hidden(&mut g, &inputs, None);
    let result = record(&mut g, hidden);
    g.keep(result);
    let mut program = Program::new(device(), memory, &g).expect("a program");
    write_inputs(device(), &program, model, &inputs, batch);
    program.run(device()).expect("a run");
    program.read(device(), memory, result).expect("a read")
}

/// The rows of (batch, length, width) that are not padding.
fn real<T: Copy>(batch: &Batch, values: &[T]) -> Vec<T> {
    let width = values.len() / batch.tokens.len();
    let is_real = |at: usize| at as u32 % batch.length < batch.lengths[at / batch.length as usize];
    values.chunks(width).enumerate().filter(|(at, _)| is_real(*at)).flat_map(|(_, row)| row.iter().copied()).collect()
}

#[test]
fn hidden_states() {
    for name in ["bert", "roberta", "distilbert", "bert_old"] {
        let fixture = Fixture::open(name);
        let batch = fixture.batch();
        let (model, memory) = fixture.plain();
        let hidden = result(&model, &memory, &batch, |_, hidden| hidden);
        close(&format!("hidden states of {name}"), &real(&batch, &hidden), &real(&batch, &fixture.f64("hidden")), 1e-5);
        // What stands in the padding changes no bit.
        let mut other = batch.clone();
        let padding = (0..other.tokens.len()).filter(|at| *at as u32 % batch.length >= batch.lengths[at / batch.length as usize]);
        padding.for_each(|at| other.tokens[at] = 7);
        let again = result(&model, &memory, &other, |_, hidden| hidden);
        assert!(real(&batch, &hidden) == real(&batch, &again), "{name} attends to padding");

        let encoder = fixture.config.encoder.expect("an encoder");
        assert_eq!((encoder.head, encoder.pooler), (name != "bert_old", name.starts_with("bert")), "{name}");
        if encoder.pooler {
            let width = fixture.config.hidden_size as usize;
            let of_all = result(&model, &memory, &batch, |g, hidden| model.pooled(g, hidden));
            let first: Vec<f32> = of_all.chunks(width * batch.length as usize).flat_map(|row| row[..width].to_vec()).collect();
            close(&format!("summaries of {name}"), &first, &fixture.f64("pooled"), 1e-5);
        }
        if encoder.head {
            let got = real(&batch, &logits(&model, &memory, &batch));
            close(&format!("logits of {name}"), &got, &real(&batch, &fixture.f64("logits")), 1e-5);
            let loss = Evaluator::new(device(), &model, &memory).loss(std::slice::from_ref(&batch)).expect("a loss");
            close(&format!("loss of {name}"), &[loss as f32], &fixture.f64("loss"), 1e-5);
        }
    }
}

/// Every adapter of every model: the gradients at the start, the losses of 30 steps, and the tensors after them.
#[test]
fn adapters_of_encoders_train_as_in_the_libraries() {
    for name in ["bert", "roberta", "distilbert"] {
        let fixture = Fixture::open(name);
        let entries = std::fs::read_dir(path(name)).expect("a directory").map(|e| e.expect("an entry").path());
        let mut cases: Vec<_> = entries.filter(|path| path.join("adapter_config.json").exists()).collect();
        cases.sort();
        assert!(cases.len() >= 7, "{cases:?}");
        for case in cases {
            let case = case.file_name().and_then(|name| name.to_str()).expect("a name");
            follow(&fixture, case, case, Trains::adapters());
        }
        follow(&fixture, "seq_bn", "seq_bn_head", Trains { head: true, ..Trains::adapters() });
        if name != "distilbert" {
            follow(&fixture, "seq_bn", "seq_bn_embeddings", Trains { embeddings: true, ..Trains::adapters() });
        }
    }
    follow(&Fixture::open("bert"), "seq_bn", "seq_bn_norms", Trains { norms: true, ..Trains::adapters() });
}

/// Trains the adapter of `case` and compares it with the values under `expected`.
fn follow(fixture: &Fixture, case: &str, expected: &str, trains: Trains) {
    let (device, batch) = (device(), fixture.batch());
    let what = format!("{} {expected}", fixture.name);
    let saved = read_adapter(&path(fixture.name).join(case)).expect("an adapter");
    let changes = saved.sources(&fixture.config).expect("the adapter's tensors");
    let sources: Vec<_> = [&fixture.weights].into_iter().chain(&changes).collect();
    // The library's own dropout does not count: it was 0.
    let adapters: AdapterConfig = saved.config.clone().with_dropout(0.0);
    let model = Model::new(&fixture.config, &sources, Some(&adapters), trains).expect("a model");
    let memory = model.upload(device, &sources, 0, true).expect("memory");

    let gradients = gradients(&model, &memory, &batch).tensors;
    assert!(!gradients.is_empty());
    for (name, got) in &gradients {
        let (got, want) = (got.to_f32(), fixture.f64(&format!("{expected}/grad/{}", fixture.on_disk(name))));
        let largest = want.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        let right = largest < 1e-12 && got.iter().all(|v| v.abs() < 1e-7) || error(&got, &want) < 1e-4;
        assert!(right, "{what}: the gradient of {name} is off by {:e}", error(&got, &want));
    }

    let losses = thirty_losses(&what, &model, &memory, &batch, &fixture.f64(&format!("{expected}/loss_curve")));
    let trained = model.download(device, &memory, |name| model.trains(name)).expect("the tensors");
    assert_eq!(trained.tensors.len(), gradients.len());
    for (name, weight) in &trained.tensors {
        let off = error(&weight.to_f32(), &fixture.f64(&format!("{expected}/final/{}", fixture.on_disk(name))));
        assert!(off <= 1e-2, "{what}: {name} is off by {off:e} after 30 steps");
    }

    // What is saved comes back with the same loss.
    let kept = std::env::var_os("KEEP_ADAPTERS").map(|place| PathBuf::from(place).join(format!("{}-{expected}", fixture.name)));
    let place = kept.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("graftling-{}-encoder", std::process::id())));
    let identity = BaseIdentity::of(&fixture.config, &fixture.weights, fixture.name);
    let saved = SavedAdapter::of(&model, &trained, "kept", &identity).expect("an adapter");
    write_adapter(&place, &saved).expect("an adapter");
    let again = read_adapter(&place).expect("the adapter");
    let changes = again.sources(&fixture.config).expect("the adapter's tensors");
    let sources: Vec<_> = [&fixture.weights].into_iter().chain(&changes).collect();
    let model = Model::new(&fixture.config, &sources, Some(&again.config), Trains::adapters()).expect("a model");
    let memory = model.upload(device, &sources, 0, false).expect("memory");
    let loss = Evaluator::new(device, &model, &memory).loss(std::slice::from_ref(&batch)).expect("a loss") as f32;
    assert!((loss - losses[30]).abs() < 1e-6, "{what}: the loss after reading it back is {loss}, not {}", losses[30]);
    match kept {
        // For `make_encoders.py check`, which computes the loss with the library.
        Some(_) => println!("{}: loss {loss:.6}", place.display()),
        None => std::fs::remove_dir_all(&place).expect("the adapter"),
    }
}

/// `train --task mlm`, `eval` and `inspect` on an encoder, as a user runs them.
#[test]
fn an_encoder_learns_a_text() {
    let place = std::env::temp_dir().join(format!("graftling-{}-mlm", std::process::id()));
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter();
    let tokens: Vec<_> = tokens.chain(letters.iter().cloned()).chain(letters.iter().map(|letter| format!("##{letter}"))).collect();
    for name in ["bert", "bert_old"] {
        std::fs::create_dir_all(place.join(name)).expect("a directory");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(path(name).join(file), place.join(name).join(file)).expect("a copy");
        }
        std::fs::write(place.join(name).join("vocab.txt"), tokens.join("\n")).expect("a vocabulary");
    }
    std::fs::write(place.join("text.txt"), "the cat sat on the mat and the dog ran to the cat ".repeat(30)).expect("a text");
    let run = |line: &str| {
        let mut command = harness::command();
        let output = command.current_dir(&place).args(line.split_whitespace()).arg("--json").output().expect("the command runs");
        let (said, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        let json: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap_or_default()).unwrap_or_default();
        (output.status.code(), format!("{said}{printed}"), json)
    };
    let common = "--model bert --data text.txt --task mlm --adapter seq_bn --max-length 24 --batch-size 8 --learning-rate 1e-2 --seed 3";
    let (code, said, whole) = run(&format!("train {common} --out whole --steps 12"));
    assert_eq!(code, Some(0), "{said}");
    let eval =
        |adapter: &str| run(&format!("eval --model bert --data text.txt --max-length 24 {adapter}")).2["loss"].as_f64().expect("a loss");
    assert_eq!(eval(""), eval(""));
    assert!(eval("--adapter whole/adapter") < eval("") - 0.5, "{} and {}: {whole}", eval("--adapter whole/adapter"), eval(""));
    // A resumed run hides the same words.
    assert_eq!(run(&format!("train {common} --out parts --steps 5")).0, Some(0));
    let (code, said, _) = run("train --out parts --resume --steps 12");
    assert_eq!(code, Some(0), "{said}");
    let file = |run: &str| std::fs::read(place.join(run).join("adapter/adapter.safetensors")).expect("an adapter");
    assert!(file("whole") == file("parts"), "a resumed run has other bytes");

    let (code, said, json) = run("inspect bert_old --adapter double_seq_bn");
    assert_eq!((code, json["architecture"].as_str()), (Some(0), Some("bert")), "{said}");
    let (code, said, _) = run("train --model bert_old --data text.txt --max-length 24 --out none");
    assert!(code == Some(2) && said.contains("no head that predicts hidden words ('cls.predictions.transform.dense.weight')"), "{said}");
    let (code, said, _) = run("train --model builtin --data text.txt --task mlm --out none");
    assert!(code == Some(2) && said.contains("--task mlm needs an encoder, but builtin is a decoder"), "{said}");
    std::fs::remove_dir_all(&place).expect("it goes");
}
