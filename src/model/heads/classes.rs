//! The heads of the model classes in the `transformers` library, such as `BertForSequenceClassification`.

use crate::ops::Activation;
use crate::text::TaskKind;

/// The form of a class's head.
pub(super) struct Class {
    /// The names of its linear layers.
    pub layers: &'static [&'static str],
    /// The activation between two layers.
    pub activation: Option<Activation>,
    /// Whether it reads the pooler's output.
    pub pooler: bool,
    /// Whether the last layer has a bias.
    pub bias: bool,
}

/// The classes of an architecture.
pub(super) struct Classes {
    model_type: &'static str,
    /// What their names begin with.
    prefix: &'static str,
    /// That for whole texts.
    texts: Class,
    /// That for words.
    words: Class,
}

const SCORE: Class = Class { layers: &["score"], activation: None, pooler: false, bias: false };
const SCORE_OF_WORDS: Class = Class { bias: true, ..SCORE };
const CLASSIFIER: Class = Class { layers: &["classifier"], activation: None, pooler: false, bias: true };

const ALL: [Classes; 8] = [
    Classes { model_type: "graftling", prefix: "Graftling", texts: SCORE, words: SCORE_OF_WORDS },
    Classes { model_type: "gpt2", prefix: "GPT2", texts: SCORE, words: CLASSIFIER },
    Classes { model_type: "llama", prefix: "Llama", texts: SCORE, words: SCORE_OF_WORDS },
    Classes { model_type: "qwen2", prefix: "Qwen2", texts: SCORE, words: SCORE_OF_WORDS },
    Classes { model_type: "qwen3", prefix: "Qwen3", texts: SCORE, words: SCORE_OF_WORDS },
    Classes { model_type: "bert", prefix: "Bert", texts: Class { pooler: true, ..CLASSIFIER }, words: CLASSIFIER },
    Classes {
        model_type: "roberta",
        prefix: "Roberta",
        texts: Class { layers: &["classifier.dense", "classifier.out_proj"], activation: Some(Activation::Tanh), ..CLASSIFIER },
        words: CLASSIFIER,
    },
    Classes {
        model_type: "distilbert",
        prefix: "DistilBert",
        texts: Class { layers: &["pre_classifier", "classifier"], activation: Some(Activation::Relu), ..CLASSIFIER },
        words: CLASSIFIER,
    },
];

const TEXTS: &str = "ForSequenceClassification";
const WORDS: &str = "ForTokenClassification";

impl Classes {
    /// The classes of an architecture, by its `model_type`.
    pub fn of(model_type: &str) -> Option<&'static Classes> {
        ALL.iter().find(|classes| classes.model_type == model_type)
    }

    /// The head for a task.
    pub fn head(&self, kind: TaskKind) -> &Class {
        if kind == TaskKind::Tagging { &self.words } else { &self.texts }
    }

    /// The name of the class for a task.
    pub fn name(&self, kind: TaskKind) -> String {
        format!("{}{}", self.prefix, if kind == TaskKind::Tagging { WORDS } else { TEXTS })
    }

    /// The name of the library's class with heads of any form.
    pub fn flexible(&self) -> String {
        format!("{}AdapterModel", self.prefix)
    }
}

/// Whether a class of this name has a head for words, or one for texts; `None` if for neither.
pub(super) fn is_for_words(class: &str) -> Option<bool> {
    if class.ends_with(WORDS) { Some(true) } else { class.ends_with(TEXTS).then_some(false) }
}
