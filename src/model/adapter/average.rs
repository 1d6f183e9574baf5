//! One adapter from several: the mean of their weights.

use std::collections::BTreeMap;
use std::path::Path;

use super::expression::check_shares;
use super::tensors::renamed;
use super::{AdapterConfig, Init, SavedAdapter, Targets};
use crate::error::{Error, Result};
use crate::model::Likeness;
use crate::weights::{Weight, Weights};
use crate::words::shown;

/// The weighted mean of adapters of one form, tensor by tensor: Σ wᵢθᵢ / Σ wᵢ, as the library's `average_adapter(combine_strategy="linear",
/// normalize_weights=True)` computes it. A head and parts of the base that trained are averaged too. `name` stands for it in messages. Its
/// configuration and its own name are the first one's.
///
/// # Errors
/// [`Error::Usage`] if the shares add up to nothing, [`Error::File`] if the adapters differ in form, or a tensor is damaged.
pub fn average(adapters: &[(SavedAdapter, f64)], name: &str) -> Result<SavedAdapter> {
    check_shares(adapters.iter().map(|(_, share)| *share)).map_err(Error::Usage)?;
    let (first, _) = adapters.first().expect("an average of at least one adapter");
    for (other, _) in adapters {
        check_form(first, other)?;
    }
    let sum: f64 = adapters.iter().map(|(_, share)| share).sum();
    let mean = |part: fn(&SavedAdapter) -> Option<&Weights>| {
        let parts = adapters.iter().filter_map(|(adapter, share)| Some((adapter, part(adapter)?, share / sum))).collect::<Vec<_>>();
        match parts.len() {
            0 => Ok(None),
            some if some == adapters.len() => mean(&parts, Path::new(name)).map(Some),
            _ => {
                let with = directory(parts[0].0).display().to_string();
                let without =
                    adapters.iter().find(|(adapter, _)| part(adapter).is_none()).map(|(adapter, _)| adapter).expect("one lacks it");
                let problem = format!("has no head or no part of the base that trained, but {with} has; average adapters of one form");
                Err(Error::file(directory(without), problem))
            }
        }
    };
    let label_head = first.label_head.as_ref().map(|(head, _)| head.clone());
    Ok(SavedAdapter {
        weights: mean(|adapter| Some(&adapter.weights))?.expect("each has weights"),
        head: mean(|adapter| adapter.head.as_ref())?,
        label_head: label_head.zip(mean(|adapter| adapter.label_head.as_ref().map(|(_, tensors)| tensors))?),
        base: mean(|adapter| adapter.base.as_ref())?,
        ..first.clone()
    })
}

fn directory(adapter: &SavedAdapter) -> &Path {
    adapter.weights.path.parent().unwrap_or(&adapter.weights.path)
}

/// The configuration as far as it decides what an adapter computes. The library too ignores dropout and initialisation.
fn essence(config: &AdapterConfig) -> AdapterConfig {
    match config.clone().with_dropout(0.0) {
        AdapterConfig::Bottleneck(mut config) => {
            (config.init, config.init_seed, config.stochastic_depth) = (Init::Bert, None, 0.0);
            config.into()
        }
        AdapterConfig::Lora(mut config) => {
            if let Targets::Named(names) = &mut config.targets {
                names.sort();
            }
            config.into()
        }
    }
}

fn check_form(first: &SavedAdapter, other: &SavedAdapter) -> Result<()> {
    let as_first = format!("{}; average adapters of one form, trained on one base", directory(first).display());
    let problem = if essence(&first.config) != essence(&other.config) {
        format!("is {}, another form than {} of {as_first}", shown(&other.config.to_string()), shown(&first.config.to_string()))
    } else if first.label_head.as_ref().map(|(head, _)| head) != other.label_head.as_ref().map(|(head, _)| head) {
        format!("has a head for other labels than {as_first}")
    } else if first.hidden_size != other.hidden_size {
        format!("has hidden_size {}, not {} as {as_first}", other.hidden_size, first.hidden_size)
    } else if first.model_type != other.model_type {
        format!("is for a {} model, not for a {} model as {as_first}", shown(&other.model_type), shown(&first.model_type))
    } else if let (Some(one), Some(two)) = (&first.made_on, &other.made_on)
        && let Likeness::OtherForm(difference) = one.likeness(two)
    {
        format!("was trained on another base than {as_first}: {difference}")
    } else {
        return Ok(());
    };
    Err(Error::file(directory(other), problem))
}

/// The mean of tensors, under the names of the first adapter.
fn mean(parts: &[(&SavedAdapter, &Weights, f64)], name: &Path) -> Result<Weights> {
    let (first, own, _) = parts[0];
    for (_, weights, _) in &parts[1..] {
        if weights.tensors.len() != own.tensors.len() {
            let problem = format!("has {} tensors, but {} has {}", weights.tensors.len(), own.path.display(), own.tensors.len());
            return Err(Error::file(&weights.path, format!("{problem}; average adapters of one form")));
        }
    }
    let mut tensors = BTreeMap::new();
    for (name, weight) in &own.tensors {
        let mut sums = vec![0.0; weight.shape.len() as usize];
        for (adapter, weights, share) in parts {
            let values = weights.get(&renamed(name, &first.name, &adapter.name), &weight.shape)?.to_f32();
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += share * f64::from(value));
        }
        let values: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        tensors.insert(name.clone(), Weight::from_f32(weight.shape.clone(), &values));
    }
    let file = own.path.file_name().unwrap_or_default();
    Ok(Weights { tensors, path: name.join(file), ..Weights::default() })
}
