//! Heads for labels and scores on tiny GPT-2, Llama, BERT, RoBERTa and DistilBERT models against the `adapters` library:
//! `tests/fixtures/make_labels.py` computed the expected values.

use std::path::PathBuf;

use graftling::gpu::Memory;
use graftling::model::{
    Base, BaseDropout, BaseIdentity, Config, HeadConfig, HeadForm, Model, SavedAdapter, Trains, read_adapter, write_adapter,
};
use graftling::text::{Batch, IGNORED, Task};
use graftling::train::Evaluator;
use graftling::weights::Weights;

use crate::harness::{close, device};
use crate::pretrained::error;
use crate::whole::{gradients, thirty_losses};

const MODELS: [(&str, &str); 5] =
    [("gpt2", "models"), ("llama", "models"), ("bert", "encoders"), ("roberta", "encoders"), ("distilbert", "encoders")];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A model, and one case of heads on it.
struct Fixture {
    what: String,
    config: Config,
    weights: Weights,
    saved: SavedAdapter,
    head: HeadConfig,
    expected: Weights,
    case: String,
}

impl Fixture {
    fn open(name: &str, place: &str, case: &str) -> Fixture {
        let (config, weights) = Base::open_weights(&path(place).join(name)).expect("a model");
        let mut saved = read_adapter(&path("labels").join(name).join(case)).expect("an adapter");
        let (head, _) = saved.label_head.as_mut().expect("a head");
        // The library does not save which it is.
        if case == "labels" {
            head.task = Task::MultiLabel(head.task.labels().expect("labels").clone());
        }
        let head = head.clone();
        let expected = Weights::read(&path("labels").join(name).join("expected.safetensors")).expect("the expected values");
        let config = Config { dropout: BaseDropout::default(), ..config };
        Fixture { what: format!("{name} {case}"), config, weights, saved, head, expected, case: case.into() }
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        let name = format!("{}/{name}", self.case);
        let weight = self.expected.tensors.get(&name).unwrap_or_else(|| panic!("{} has no '{name}'", self.what));
        weight.to_f32().into_iter().map(f64::from).collect()
    }

    fn words(&self, name: &str) -> Vec<u32> {
        let bytes = std::fs::read(&self.expected.path).expect("the expected values");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        bytemuck::pod_collect_to_vec(file.tensor(name).expect(name).data())
    }

    /// Two rows, the second shorter. The targets are numbers of labels, or -1 for none, or the bits of f32 numbers.
    fn batch(&self) -> Batch {
        let (tokens, types, lengths) = (self.words("tokens"), self.words("types"), self.words("lengths"));
        let targets = self.words(&format!("{}/targets", self.case));
        let targets = targets.into_iter().map(|target| if target as i32 == -1 { IGNORED } else { target }).collect();
        Batch { rows: 2, length: 11, tokens, types, targets, lengths }
    }

    fn model(&self) -> (Model, Memory) {
        let changes = self.saved.sources(&self.config).expect("the adapter's tensors");
        let sources: Vec<_> = [&self.weights].into_iter().chain(&changes).collect();
        let model =
            Model::with_head(&self.config, &sources, Some(&self.saved.config), Some(&self.head), Trains::adapters()).expect("a model");
        let memory = model.upload(device(), &sources, 0, true).expect("memory");
        (model, memory)
    }

    /// The name of a tensor in the fixture.
    fn on_disk(&self, name: &str) -> String {
        if name.starts_with("heads.default.") {
            let one = Weights {
                tensors: [(name.to_string(), graftling::weights::Weight::from_f32([1].into(), &[0.0]))].into(),
                ..Weights::default()
            };
            let disk = self.head.to_disk(&one, self.config.family.model_type(), "probe");
            return disk.tensors.into_keys().next().expect("the tensor");
        }
        let of = |name: &str, place: &str, module: &str| {
            name.replace(&format!(".{place}.adapters.default."), &format!(".{module}.adapters.probe."))
        };
        match self.what.split(' ').next() {
            Some("bert" | "roberta") => of(&of(name, "attention_adapters", "attention.output"), "output_adapters", "output"),
            _ => name.replace(".adapters.default.", ".adapters.probe."),
        }
    }
}

fn each(run: impl Fn(&Fixture)) {
    for (name, place) in MODELS {
        let mut cases: Vec<_> =
            std::fs::read_dir(path("labels").join(name)).expect("a directory").map(|e| e.expect("an entry").path()).collect();
        cases.retain(|case| case.is_dir());
        cases.sort();
        assert!(cases.len() >= 5, "{cases:?}");
        for case in cases {
            run(&Fixture::open(name, place, case.file_name().and_then(|name| name.to_str()).expect("a name")));
        }
    }
}

/// The logits and the loss at the start, the gradients, the losses of 30 steps, and the tensors after them.
#[test]
fn heads_train_as_in_the_library() {
    each(|fixture| {
        let Fixture { what, .. } = fixture;
        let (batch, (model, memory)) = (fixture.batch(), fixture.model());
        let mut evaluator = Evaluator::new(device(), &model, &memory);
        let measured = evaluator.measure(std::slice::from_ref(&batch)).expect("a loss");
        assert!((measured.loss - fixture.f64("loss")[0]).abs() < 1e-5, "{what}: a loss of {}", measured.loss);
        let logits = fixture.f64("logits");
        let width = fixture.head.outputs() as usize;
        for (row, (got, want)) in measured.logits.iter().zip(logits.chunks(width)).enumerate() {
            // Of words, the fixture has those of the last token, which has a target.
            close(&format!("{what}: logits of row {row}"), &got[got.len() - width..], want, 1e-5);
        }

        let gradients = gradients(&model, &memory, &batch).tensors;
        for (name, got) in &gradients {
            let off = error(&got.to_f32(), &fixture.f64(&format!("grad/{}", fixture.on_disk(name))));
            assert!(off < 1e-4, "{what}: the gradient of {name} is off by {off:e}");
        }

        let losses = thirty_losses(what, &model, &memory, &batch, &fixture.f64("loss_curve"));
        let trained = model.download(device(), &memory, |name| model.trains(name)).expect("the tensors");
        assert_eq!(trained.tensors.len(), gradients.len());
        for (name, weight) in &trained.tensors {
            let off = error(&weight.to_f32(), &fixture.f64(&format!("final/{}", fixture.on_disk(name))));
            assert!(off <= 1e-2, "{what}: {name} is off by {off:e} after 30 steps");
        }
        keep(fixture, &model, &trained, losses[30]);
    });
}

/// Saves what was trained for `make_labels.py check`, which computes the loss with the library.
fn keep(fixture: &Fixture, model: &Model, trained: &Weights, loss: f32) {
    let Some(place) = std::env::var_os("KEEP_ADAPTERS") else { return };
    let place = PathBuf::from(place).join(fixture.what.replace(' ', "-"));
    let identity = BaseIdentity::of(&fixture.config, &fixture.weights, &fixture.what);
    write_adapter(&place, &SavedAdapter::of(model, trained, "probe", &identity).expect("an adapter")).expect("an adapter");
    println!("{} {loss:.6}", place.display());
}

/// What is written is read again, with the names of the library's own files.
#[test]
fn heads_come_back() {
    each(|fixture| {
        let (model, memory) = fixture.model();
        let weights = model.download(device(), &memory, |name| model.trains(name)).expect("the tensors");
        let identity = BaseIdentity::of(&fixture.config, &fixture.weights, &fixture.what);
        let place = std::env::temp_dir().join(format!("graftling-labels-{}-{}", fixture.what.replace(' ', "-"), std::process::id()));
        std::fs::create_dir_all(&place).expect("a directory");
        write_adapter(&place, &SavedAdapter::of(&model, &weights, "probe", &identity).expect("an adapter")).expect("an adapter");
        let read = read_adapter(&place).expect("the same adapter");
        assert_eq!(read.label_head.as_ref().map(|(head, _)| head), Some(&fixture.head), "{}", fixture.what);
        let tensors = |saved: &SavedAdapter| saved.label_head.as_ref().expect("a head").1.tensors.clone();
        assert_eq!(tensors(&read), tensors(&fixture.saved), "{}", fixture.what);
        let names =
            |place: &PathBuf| Weights::read(&place.join("model_head.safetensors")).expect("a head").tensors.into_keys().collect::<Vec<_>>();
        let own = fixture.saved.weights.path.parent().expect("a directory").to_path_buf();
        // With a head of its own, the library also saves the names of the base's head.
        let library: Vec<_> =
            names(&own).into_iter().filter(|name| fixture.head.form == HeadForm::Class || name.starts_with("heads.")).collect();
        assert_eq!(names(&place), library, "{}", fixture.what);
        std::fs::remove_dir_all(&place).expect("it is there");
    });
}
