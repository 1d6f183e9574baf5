//! The kernels to compile: those that a training step on a GPU dispatches, each once.

use std::collections::{BTreeMap, HashSet};

use graftling::graph::wgsl::Constant;
use graftling::graph::{DType, Graph, Kernel, Traits};
use graftling::model::{AdapterConfig, Config, Model, Trains};
use graftling::ops::optimizer::{Adam, adam};

/// What to record.
pub struct Form {
    /// The head size.
    pub head_size: u32,
    /// Whether activations are f16.
    pub half: bool,
    /// Transformer blocks.
    pub layers: u32,
    /// The number of sequences, and of tokens in each.
    pub batch: [u32; 2],
}

/// SmolLM2-135M and a batch of 1 × 128 tokens.
pub const SMOLLM2: Form = Form { head_size: 64, half: false, layers: 30, batch: [1, 128] };

/// A kernel and its name in the table.
pub struct Named {
    pub name: String,
    pub kernel: Kernel,
}

/// A Llama of SmolLM2's proportions with `double_seq_bn`.
pub fn model(form: &Form) -> Model {
    let config = Config::from_json(&config(form)).expect("a config");
    let adapter = AdapterConfig::parse("double_seq_bn[reduction_factor=9]").expect("an adapter");
    Model::new(&config, &[], Some(&adapter), Trains::adapters()).expect("a model")
}

/// The kernels of all dispatches of a training step, including the optimizer.
pub fn step(form: &Form, traits: &Traits) -> Vec<Kernel> {
    let model = model(form);
    let [rows, length] = form.batch;
    let mut g = Graph::new(traits, &model.parameters, true);
    g.set_half(form.half);
    let inputs = model.inputs(&mut g, rows, length, length);
    let targets = g.input("targets", [rows, length], DType::U32);
    let loss = model.loss(&mut g, &inputs, targets);
    g.backward(loss, loss);
    let mut update = Graph::new(traits, &model.parameters, true);
    adam(&mut update, &Adam::default(), form.half.then_some(2000));
    g.line().iter().chain(update.line()).map(|dispatch| dispatch.kernel.clone()).collect()
}

/// Each kernel of a step once, and products with frozen weights in two block formats as well.
pub fn distinct(form: &Form, traits: &Traits) -> Vec<Named> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for kernel in step(form, traits) {
        let frozen = kernel.file.starts_with("matmul") && kernel.entry != "weight_gradient";
        let formats: &[&str] = if frozen { &["f32", "q8_0", "q4_k"] } else { &["f32"] };
        for &format in formats {
            let mut kernel = kernel.clone();
            kernel.constants.iter_mut().filter(|(name, _)| *name == "FORMAT").for_each(|(_, word)| *word = Constant::Word(format));
            if seen.insert(kernel.clone()) {
                all.push(Named { name: name(&kernel, form), kernel });
            }
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The file and entry point, and all constants except the word `plain`.
fn name(kernel: &Kernel, form: &Form) -> String {
    let mut name = kernel.to_string();
    for (constant, value) in &kernel.constants {
        match value {
            Constant::Word(word) if *word != "plain" => name += &format!(" {word}"),
            Constant::Number(number) => name += &format!(" {}{number}", constant.to_lowercase()),
            Constant::Word(_) => {}
        }
    }
    if kernel.half != 0 {
        format!("{name} half{:x}", kernel.half)
    } else if form.half {
        format!("{name} single")
    } else {
        name
    }
}

/// How often a step dispatches each kernel, most first.
pub fn counts(form: &Form, traits: &Traits) -> Vec<(String, usize)> {
    let mut counts = BTreeMap::new();
    step(form, traits).iter().for_each(|kernel| *counts.entry(kernel.to_string()).or_default() += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    counts
}

/// SmolLM2-135M's `config.json` with other layers, and a number of heads that suits the head size.
fn config(form: &Form) -> String {
    let &Form { head_size, layers, .. } = form;
    let [heads, shared] = match head_size {
        64 => [9, 3],
        128 => [6, 2],
        _ => [3, 1],
    };
    format!(
        r#"{{ "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": {layers},
        "num_attention_heads": {heads}, "num_key_value_heads": {shared}, "head_dim": {head_size}, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": true }}"#
    )
}
