//! The weights of a model's directory, in one file or several shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde_json::Value;

use super::{Weights, map, parse_json, safetensors, shown};
use crate::error::{Error, Result};

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

pub(super) fn read(directory: &Path) -> Result<Weights> {
    let exists = |name: &str| directory.join(name).exists();
    if exists(WHOLE) {
        safetensors::read(&directory.join(WHOLE))
    } else if exists(INDEX) {
        sharded(directory)
    } else if !directory.is_dir() {
        Err(Error::file(directory, "is not a directory; give a model's directory"))
    } else if exists("pytorch_model.bin") || exists("pytorch_model.bin.index.json") {
        let advice = "convert them to safetensors, for instance with save_pretrained of the transformers library";
        Err(Error::file(directory, format!("has its weights in pytorch_model.bin, which is not supported; {advice}")))
    } else {
        Err(Error::file(directory, format!("has no {WHOLE} and no {INDEX}; fetch the weights of the model")))
    }
}

/// Reads the files that the index lists and checks that each tensor is where the index says.
fn sharded(directory: &Path) -> Result<Weights> {
    let path = directory.join(INDEX);
    let text = map::read_text(&path)?;
    let map = parse_json(&text).and_then(|index| weight_map(&index)).map_err(|problem| Error::file(&path, problem))?;
    let mut weights = Weights { path: path.clone(), ..Weights::default() };
    let shards: BTreeSet<_> = map.values().collect();
    if let Some(shard) = shards.iter().find(|shard| !directory.join(shard).exists()) {
        return Err(Error::file(&path, format!("lists {}, which is missing; fetch all files of the model", shown(shard))));
    }
    for shard in shards {
        let file = directory.join(shard);
        let read = safetensors::read(&file)?;
        for name in read.tensors.keys().chain(read.unsupported.keys()) {
            if map.get(name) != Some(shard) {
                let says = map.get(name).map_or("does not list".into(), |other| format!("places in {}", shown(other)));
                let problem = format!("has a tensor '{}', which {INDEX} {says}; fetch all files of the model again", shown(name));
                return Err(Error::file(&file, problem));
            }
        }
        weights.tensors.extend(read.tensors);
        weights.unsupported.extend(read.unsupported);
    }
    // No shard has a tensor that the index places elsewhere, so no tensor occurs twice.
    for (name, shard) in &map {
        if !weights.tensors.contains_key(name) && !weights.unsupported.contains_key(name) {
            let problem = format!(
                "places the tensor '{}' in {}, which does not have it; fetch all files of the model again",
                shown(name),
                shown(shard)
            );
            return Err(Error::file(&path, problem));
        }
    }
    Ok(weights)
}

/// The file of each tensor. Every file must be in this directory.
fn weight_map(index: &Value) -> std::result::Result<BTreeMap<String, String>, String> {
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or("has no object 'weight_map', so it is not the index of a model's files; fetch it again")?;
    let place = |(name, file): (&String, &Value)| match file.as_str() {
        Some(file) if is_plain(file) => Ok((name.clone(), file.to_string())),
        Some(file) => Err(format!("places the tensor '{}' in '{}', which is not a file name; fetch it again", shown(name), shown(file))),
        None => Err(format!("names no file for the tensor '{}'; fetch it again", shown(name))),
    };
    map.iter().map(place).collect()
}

/// Whether `name` is a plain file name, without a path, on every system.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    one && !name.contains(['/', '\\', ':', '\0'])
}
