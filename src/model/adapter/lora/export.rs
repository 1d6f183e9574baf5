//! A LoRA in the files of other tools: llama.cpp's GGUF adapter, PEFT's directory, mlx-lm's directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::tensors::{A, B, is_lora};
use super::{LoraConfig, Target, to_memory};
use crate::error::{Error, Result};
use crate::files::{replace_directory, replace_file};
use crate::graph::Shape;
use crate::model::adapter::{SavedAdapter, write_adapter};
use crate::model::names::Names;
use crate::model::{Config, Family, Positions};
use crate::ops::RopePairs;
use crate::weights::{Entry, GgmlType, GgufPlan, PlannedTensor, Weight, Weights};

/// The files to export a LoRA to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportForm {
    /// A GGUF file for llama.cpp and Ollama.
    Gguf,
    /// A directory for PEFT.
    Peft,
    /// A directory for mlx-lm.
    Mlx,
}

/// One target with its matrices, A (rank, inputs) and B (outputs, rank), B's rows in the order that was asked for.
struct Pair {
    module: String,
    target: Target,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl SavedAdapter {
    /// Writes the adapter, a LoRA on a base with this configuration, to `path` in the files of another tool. Returns the number of modules.
    ///
    /// # Errors
    /// [`Error::Usage`] if the other tool cannot hold the adapter, [`Error::File`] if its tensors do not fit the base, or [`Error::Write`].
    pub fn export(&self, model: &Config, form: ExportForm, path: &Path) -> Result<usize> {
        let Some(config) = self.config.lora() else {
            let problem = "is a bottleneck adapter, which only the adapters library and Graftling can load; train a LoRA (--adapter lora)";
            return Err(Error::file(self.directory(), problem));
        };
        if model.family.is_encoder() && form != ExportForm::Peft {
            return Err(Error::Usage(
                "llama.cpp and mlx-lm load adapters of decoders only, and this one is an encoder's; use --to peft".into(),
            ));
        }
        if self.base.is_some() {
            let problem =
                "has base.safetensors with parts of the base that trained too, which no LoRA file holds; train the LoRA without them";
            return Err(Error::file(self.directory(), problem));
        }
        // llama.cpp's converter interleaves the halves of a llama's heads, whatever the file that the adapter was trained on.
        let pairs = if form == ExportForm::Gguf && model.family == Family::Llama { RopePairs::Adjacent } else { RopePairs::Halves };
        let order = match &model.positions {
            Positions::Rotary { theta, scaling, .. } => {
                Config { positions: Positions::Rotary { theta: *theta, scaling: scaling.clone(), pairs }, ..model.clone() }
            }
            Positions::Learned => model.clone(),
        };
        let memory = to_memory(&self.weights, config, &order)?;
        let targets = config.targets(model).map_err(Error::Usage)?;
        if form != ExportForm::Peft
            && let Some(whole) = memory.tensors.keys().find(|name| !is_lora(name))
        {
            let problem =
                format!("has the whole tensor '{whole}', which only PEFT's files hold; use --to peft, or train the LoRA without it");
            return Err(Error::file(self.directory(), problem));
        }
        let count = targets.len();
        match form {
            ExportForm::Peft => replace_directory(path, |temporary| self.export_peft(config, &memory, &order, temporary))?,
            ExportForm::Gguf => export_gguf(config, &pairs_of(targets, &memory), model, path)?,
            ExportForm::Mlx => replace_directory(path, |temporary| export_mlx(config, &pairs_of(targets, &memory), model, temporary))?,
        }
        Ok(count)
    }

    fn directory(&self) -> &Path {
        self.weights.path.parent().unwrap_or(&self.weights.path)
    }

    /// `memory` is that of a model whose heads have Hugging Face's order.
    fn export_peft(&self, config: &LoraConfig, memory: &Weights, model: &Config, directory: &Path) -> Result<()> {
        let (lora, whole): (BTreeMap<_, _>, BTreeMap<_, _>) = memory.tensors.clone().into_iter().partition(|(name, _)| is_lora(name));
        let whole = whole.into_iter().map(|(name, weight)| (name.clone(), model.in_file_order(&name, &weight))).collect::<BTreeMap<_, _>>();
        let head = (!whole.is_empty()).then_some(Weights { tensors: whole, ..Weights::default() });
        let weights = Weights { tensors: lora, ..Weights::default() };
        let (config, model_type) = (config.resolved(model).into(), model.family.model_type().into());
        write_adapter(directory, &SavedAdapter { config, model_type, weights, head, ..self.clone() })
    }
}

fn pairs_of(targets: BTreeMap<String, Target>, memory: &Weights) -> Vec<Pair> {
    let pair = |(module, target): (String, Target)| {
        let [a, b] = [A, B].map(|end| memory.tensors[&format!("{module}{end}")].to_f32());
        Pair { module, target, a, b }
    };
    targets.into_iter().map(pair).collect()
}

fn scaled(values: &[f32], factor: f64) -> Vec<f32> {
    if factor == 1.0 { values.to_vec() } else { values.iter().map(|&v| (f64::from(v) * factor) as f32).collect() }
}

/// llama.cpp scales each product by alpha / rank with one alpha for the file (`llama-adapter.h`), so alpha is the s·rank of the first target, and
/// B takes what another target's differs by. So rsLoRA and patterns of ranks and alphas come out right.
fn export_gguf(config: &LoraConfig, pairs: &[Pair], model: &Config, path: &Path) -> Result<()> {
    if model.family == Family::Graftling {
        let problem = "a Graftling model is not among those that llama.cpp runs, so there is no GGUF adapter for it; use --to peft";
        return Err(Error::Usage(problem.into()));
    }
    let (own, theirs) = (Names::of(model.family), Names::of_gguf(model.family));
    // The configured numbers where they say it, since their quotient is rounded.
    let wanted = |target: &Target| match config.alpha_pattern.is_empty() && !config.rslora {
        true => f64::from(config.alpha),
        false => f64::from(target.scaling) * f64::from(target.rank),
    };
    // An alpha of 0 means to llama.cpp that there is none.
    let alpha = pairs.first().map(|pair| wanted(&pair.target) as f32).filter(|&alpha| alpha != 0.0).unwrap_or(1.0);
    let mut tensors = BTreeMap::new();
    for Pair { module, target, a, b } in pairs {
        let name = own.translate(&format!("{module}.weight"), theirs).expect("a linear layer of a block has a name in GGUF");
        let b = scaled(b, wanted(target) / f64::from(alpha));
        tensors.insert(format!("{name}.lora_a"), Weight::from_f32([target.rank, target.inputs].into(), a));
        tensors.insert(format!("{name}.lora_b"), Weight::from_f32([target.outputs, target.rank].into(), &b));
    }
    if let Some((name, _)) = tensors.iter().find(|(_, weight)| weight.first_non_finite().is_some()) {
        return Err(Error::DivergedWeight { name: name.clone() });
    }
    let text = |text: &str| Entry::Text(text.into());
    let metadata = [
        ("general.type", text("adapter")),
        ("general.architecture", text(model.family.model_type())),
        ("general.name", text(&path.file_stem().unwrap_or_default().to_string_lossy())),
        ("general.file_type", Entry::Whole(0)),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Entry::Number(alpha)),
    ];
    let planned =
        |(name, weight): (&String, &Weight)| PlannedTensor { name: name.clone(), shape: weight.shape.clone(), format: GgmlType::F32 };
    let plan = GgufPlan {
        metadata: metadata.map(|(key, entry)| (key.to_string(), entry)).to_vec(),
        tensors: tensors.iter().map(planned).collect(),
        ..GgufPlan::default()
    };
    plan.write(path, |tensor| Ok(tensors[&tensor.name].bytes()))
}

/// mlx-lm has one rank and one factor for all modules, A and B transposed, and names blocks from the end. Modules of lower rank get rows and columns
/// of zeros, and B takes what a factor differs by; a module without tensors stays as it is, since its B starts at zero.
fn export_mlx(config: &LoraConfig, pairs: &[Pair], model: &Config, directory: &Path) -> Result<()> {
    let names = Names::of(model.family);
    let rank = pairs.iter().map(|pair| pair.target.rank).max().unwrap_or(1);
    let scale = pairs.first().map(|pair| pair.target.scaling).filter(|&scale| scale != 0.0).unwrap_or(1.0);
    let mut tensors = BTreeMap::new();
    let (mut keys, mut first) = (BTreeSet::new(), model.layers);
    for Pair { module, target, a, b } in pairs {
        let (layer, key) = module[names.layers.len() + 1..].split_once('.').expect("a module's layer");
        first = first.min(layer.parse().expect("a number"));
        keys.insert(key.to_string());
        let (own, inputs, outputs) = (target.rank as usize, target.inputs, target.outputs);
        let b = scaled(b, f64::from(target.scaling) / f64::from(scale));
        // Transposed, and widened to the common rank.
        let (mut across, mut down) = (vec![0.0; (inputs * rank) as usize], vec![0.0; (rank * outputs) as usize]);
        for r in 0..own {
            (0..inputs as usize).for_each(|i| across[i * rank as usize + r] = a[r * inputs as usize + i]);
            (0..outputs as usize).for_each(|o| down[r * outputs as usize + o] = b[o * own + r]);
        }
        // mlx-lm calls the decoder of every family `model`.
        let (_, layers) = names.layers.split_once('.').expect("a decoder and its layers");
        let module = format!("model.{layers}.{layer}.{key}");
        tensors.insert(format!("{module}.lora_a"), Weight::from_f32(Shape::from([inputs, rank]), &across));
        tensors.insert(format!("{module}.lora_b"), Weight::from_f32(Shape::from([rank, outputs]), &down));
    }
    Weights { tensors, ..Weights::default() }.write(&directory.join("adapters.safetensors"))?;
    let json = json!({
        "fine_tune_type": "lora", "num_layers": model.layers - first,
        "lora_parameters": { "rank": rank, "scale": scale, "dropout": config.dropout, "keys": keys },
    });
    replace_file(&directory.join("adapter_config.json"), serde_json::to_string_pretty(&json).expect("a JSON value prints").as_bytes())
}
