//! `head_config.json` and `model_head.safetensors` as the `adapters` library writes and loads them, and the head in a model's `config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::classes::{Classes, is_for_words};
use super::{HeadConfig, HeadForm};
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text_if_any, replace_file};
use crate::ops::Activation;
use crate::text::{Labels, Task, TaskKind};
use crate::weights::{Weights, parse_json};
use crate::words::shown;

const CONFIG: &str = "head_config.json";
const WEIGHTS: &str = "model_head.safetensors";
/// The most labels that a file can have.
const MOST_LABELS: u64 = 1 << 20;

type Checked<T> = std::result::Result<T, String>;

/// Writes a head with the given tensors, under their names in memory. `json` has what all of an adapter's files say about its model.
pub(in crate::model) fn write_head(
    directory: &Path,
    head: &HeadConfig,
    tensors: &Weights,
    (model_type, name): (&str, &str),
    mut json: Value,
) -> Result<()> {
    let kind = head.task.kind();
    let label2id: Map<String, Value> = match head.task.labels() {
        Some(labels) => labels.names().iter().enumerate().map(|(id, label)| (label.clone(), id.into())).collect(),
        None => [("LABEL_0".to_string(), 0.into())].into_iter().collect(),
    };
    let classes = Classes::of(model_type);
    match head.form {
        HeadForm::Class => {
            let problem = match kind {
                TaskKind::MultiLabel => "multi_label_classification",
                TaskKind::Regression => "regression",
                _ => "single_label_classification",
            };
            json["config"] = Value::Null;
            json["name"] = Value::Null;
            json["num_labels"] = head.outputs().into();
            json["label2id"] = label2id.into();
            // The library ignores it; it tells labels of which a text has one from those of which it can have several.
            json["problem_type"] = problem.into();
            json["model_class"] = classes.map(|classes| classes.name(kind)).into();
        }
        HeadForm::Flexible => {
            let head_type = match kind {
                TaskKind::MultiLabel => "multilabel_classification",
                TaskKind::Tagging => "tagging",
                _ => "classification",
            };
            let mut config = json!({
                "head_type": head_type, "num_labels": head.outputs(), "layers": head.layers, "label2id": label2id,
                "activation_function": head.activation.map(Activation::name), "dropout_prob": head.dropout,
            });
            if kind != TaskKind::Tagging {
                config["use_pooler"] = head.pooler.into();
                config["bias"] = head.bias.into();
            }
            json["config"] = config;
            json["name"] = name.into();
            json["model_class"] = classes.map(Classes::flexible).into();
        }
    }
    head.to_disk(tensors, model_type, name).write(&directory.join(WEIGHTS))?;
    replace_file(&directory.join(CONFIG), serde_json::to_string_pretty(&json).expect("a JSON value prints").as_bytes())
}

/// Reads the head for labels in a directory, with its tensors under their names in memory; `None` if there is none, or only a language
/// model's.
pub(in crate::model) fn read_head(directory: &Path) -> Result<Option<(HeadConfig, Weights)>> {
    let path = directory.join(CONFIG);
    let Some(text) = read_text_if_any(&path, CONFIG_BYTES * 64)? else { return Ok(None) };
    let problem = |problem: String| Error::file(&path, problem);
    let json = parse_json(&text).map_err(problem)?;
    let Some(head) = of_file(&json).map_err(problem)? else { return Ok(None) };
    let mut weights = Weights::read(&directory.join(WEIGHTS))?;
    weights.check()?;
    let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default();
    head.to_memory(&mut weights, text("model_type"), text("name"));
    Ok(Some((head, weights)))
}

fn of_file(json: &Value) -> Checked<Option<HeadConfig>> {
    let class = json.get("model_class").and_then(Value::as_str).unwrap_or_default();
    let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let Some(config) = json.get("config").filter(|config| !config.is_null()) else {
        return of_class(class, model_type, json);
    };
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let labels = labels(config)?;
    let task = match text("head_type") {
        Some("classification") if labels.len() == 1 => Task::Regression,
        Some("classification") => Task::Classification(labels),
        Some("multilabel_classification") => Task::MultiLabel(labels),
        Some("tagging") => Task::Tagging(labels),
        Some("causal_lm" | "masked_lm") => return Ok(None),
        other => {
            let other = shown(other.unwrap_or("missing"));
            return Err(format!(
                "has the head_type '{other}'; Graftling has heads for classification, multilabel_classification and tagging"
            ));
        }
    };
    let layers = match config.get("layers").and_then(Value::as_u64) {
        Some(layers @ 1..=2) => layers as u32,
        _ => return Err("has 'layers' other than 1 or 2; train a head with 1 or 2".into()),
    };
    let activation = match text("activation_function") {
        None => None,
        Some(name) => Some(Activation::from_name(name).ok_or_else(|| format!("has the unknown activation_function '{}'", shown(name)))?),
    };
    let dropout = match config.get("dropout_prob").filter(|share| !share.is_null()) {
        None => None,
        Some(share) => {
            let known = share.as_f64().filter(|share| (0.0..1.0).contains(share)).map(|share| share as f32);
            Some(known.ok_or("has a dropout_prob that is not from 0 to below 1; correct it")?)
        }
    };
    let flag = |key: &str, default| config.get(key).and_then(Value::as_bool).unwrap_or(default);
    let (pooler, bias) = (flag("use_pooler", false), flag("bias", true));
    Ok(Some(HeadConfig { task, layers, activation, pooler, bias, dropout, form: HeadForm::Flexible }))
}

/// The head of a class of the `transformers` library, with labels from the class's configuration or from `head_config.json`.
pub(super) fn of_class(class: &str, model_type: &str, json: &Value) -> Checked<Option<HeadConfig>> {
    let (Some(words), Some(classes)) = (is_for_words(class), Classes::of(model_type)) else { return Ok(None) };
    let labels = labels(json)?;
    let task = match json.get("problem_type").and_then(Value::as_str) {
        _ if words => Task::Tagging(labels),
        Some("multi_label_classification") => Task::MultiLabel(labels),
        _ if labels.len() == 1 => Task::Regression,
        _ => Task::Classification(labels),
    };
    let form = classes.head(task.kind());
    Ok(Some(HeadConfig {
        layers: form.layers.len() as u32,
        activation: form.activation,
        pooler: form.pooler,
        bias: form.bias,
        dropout: None,
        form: HeadForm::Class,
        task,
    }))
}

/// The labels of a map from labels to numbers, or from numbers to labels, or as many as there are, without names.
fn labels(json: &Value) -> Checked<Labels> {
    let wrong = || "has labels that are not numbered from 0 up; correct label2id".to_string();
    let to_id = json.get("label2id").and_then(Value::as_object);
    let of_id = json.get("id2label").and_then(Value::as_object);
    let pairs: Vec<(u64, String)> = match (to_id, of_id) {
        (Some(map), _) => {
            let pair = |(label, id): (&String, &Value)| Some((id.as_u64()?, label.clone()));
            map.iter().map(pair).collect::<Option<_>>().ok_or_else(wrong)?
        }
        (None, Some(map)) => {
            let pair = |(id, label): (&String, &Value)| Some((id.parse().ok()?, label.as_str()?.to_string()));
            map.iter().map(pair).collect::<Option<_>>().ok_or_else(wrong)?
        }
        (None, None) => Vec::new(),
    };
    let count = json.get("num_labels").and_then(Value::as_u64).unwrap_or(if pairs.is_empty() { 2 } else { pairs.len() as u64 });
    if count == 0 || count > MOST_LABELS {
        return Err(format!("has {count} labels; a head has from 1 to {MOST_LABELS}"));
    }
    if pairs.len() as u64 != count {
        return Ok(Labels::new((0..count).map(|id| format!("LABEL_{id}"))));
    }
    let mut names = vec![None; pairs.len()];
    for (id, label) in pairs {
        *names.get_mut(id as usize).ok_or_else(wrong)? = Some(label);
    }
    Ok(Labels::new(names.into_iter().collect::<Option<Vec<_>>>().ok_or_else(wrong)?))
}

impl HeadConfig {
    /// The head of a model that was saved with one, by its `config.json`; `None` if it was saved without, or with that of a language model.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the file's name.
    pub(in crate::model) fn of_model(json: &Value) -> Checked<Option<HeadConfig>> {
        let class = json.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str).unwrap_or_default();
        of_class(class, json.get("model_type").and_then(Value::as_str).unwrap_or_default(), json)
    }
}
