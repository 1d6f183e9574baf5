//! Which adapters a model has, and in which order they apply: the library's *setup*.
//!
//! The tensors of the adapter that trains are called in memory what they are called without others. Those of a frozen adapter have its name in
//! front: `lang/model.layers.0.output_adapters.adapters.default.adapter_up.bias`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::graft::Graft;
use super::invertible::Coupling;
use super::json::{inverts, model_class};
use super::lora::{Target, updates};
use super::{AdapterConfig, is_adapter};
use crate::graph::{DType, Parameters, Piece, Shape, Tensor};
use crate::model::Config;
use crate::model::names::Names;
use crate::ops::LowRank;
use crate::weights::Weights;

/// The adapters of a model in the order in which they apply (`Stack` in the library): each gets the output of the one before it. Some may have
/// no weights at a place; they pass on what they get.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterSetup {
    /// The adapters, the lowest first. Their names differ.
    pub adapters: Vec<NamedAdapter>,
}

/// An adapter of a setup.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedAdapter {
    /// Its name. That of a frozen one precedes a slash in the names of its tensors in memory.
    pub name: String,
    /// Its configuration.
    pub config: AdapterConfig,
    /// Whether it trains; at most one does.
    pub trains: bool,
}

impl AdapterSetup {
    /// The adapter that trains, on top of those of a saved setup.
    pub fn under(&self, config: &AdapterConfig) -> AdapterSetup {
        let frozen = self.adapters.iter().map(|adapter| NamedAdapter { trains: false, ..adapter.clone() });
        AdapterSetup { adapters: frozen.chain([NamedAdapter { name: "default".into(), config: config.clone(), trains: true }]).collect() }
    }

    /// The configuration of the adapter that trains, if one does.
    pub fn trained(&self) -> Option<&AdapterConfig> {
        self.adapters.iter().find(|adapter| adapter.trains).map(|adapter| &adapter.config)
    }

    /// Whether the tensor called `name` in memory belongs to the adapter that trains.
    pub fn trains(&self, name: &str) -> bool {
        is_adapter(name) && self.owner(name).is_some_and(|(adapter, _)| adapter.trains)
    }

    /// The adapter that a tensor belongs to, and the tensor's name without the adapter's.
    fn owner<'n>(&self, name: &'n str) -> Option<(&NamedAdapter, &'n str)> {
        self.adapters.iter().find_map(|adapter| Some((adapter, adapter.own(name)?)))
    }

    /// The initial values of the tensor called `name`; `None` if it is not an adapter's. `stream` distinguishes the model's tensors.
    pub(in crate::model) fn start(&self, name: &str, shape: &Shape, seed: u64, stream: u64) -> Option<Vec<f32>> {
        let (adapter, name) = self.owner(name)?;
        adapter.config.start(name, shape, seed, stream)
    }

    /// The same setup for a model with this configuration.
    ///
    /// # Errors
    /// One sentence that names the field of an adapter that does not fit the model.
    pub(in crate::model) fn fitted_to<'a>(&'a self, model: &Config) -> Result<FittedAdapters<'a>, String> {
        let fitted = |adapter: &'a NamedAdapter| {
            let NamedAdapter { name, config, trains } = adapter;
            config.check_for(model).map_err(|problem| if *trains { problem } else { format!("adapter '{name}': {problem}") })?;
            Ok((adapter, config.lora().map_or(Ok(BTreeMap::new()), |lora| lora.targets(model))?))
        };
        Ok(FittedAdapters(self.adapters.iter().map(fitted).collect::<Result<_, String>>()?))
    }
}

impl From<Option<&AdapterConfig>> for AdapterSetup {
    /// One adapter that trains, or none.
    fn from(config: Option<&AdapterConfig>) -> AdapterSetup {
        config.map_or_else(AdapterSetup::default, |config| AdapterSetup::default().under(config))
    }
}

impl From<&AdapterSetup> for AdapterSetup {
    fn from(setup: &AdapterSetup) -> AdapterSetup {
        setup.clone()
    }
}

impl NamedAdapter {
    /// The name in a setup of a tensor that is called `name` where the adapter is alone.
    fn in_setup<'n>(&self, name: &'n str) -> Cow<'n, str> {
        if self.trains { name.into() } else { format!("{}/{name}", self.name).into() }
    }

    /// The reverse; `None` for a tensor of another adapter.
    fn own<'n>(&self, name: &'n str) -> Option<&'n str> {
        match name.rsplit_once('/') {
            Some((owner, own)) => Some(own).filter(|_| !self.trains && owner == self.name),
            None => Some(name).filter(|_| self.trains),
        }
    }

    /// The adapter's tensors, under the names where it is alone, and other tensors, which keep their names.
    pub(super) fn named(&self, weights: Weights) -> Weights {
        let name = |name: String| if is_adapter(&name) { self.in_setup(&name).into_owned() } else { name };
        let tensors = weights.tensors.into_iter().map(|(own, weight)| (name(own), weight)).collect();
        Weights { tensors, ..weights }
    }
}

/// The adapters of a setup with the targets of their LoRA in a model.
pub(in crate::model) struct FittedAdapters<'a>(Vec<(&'a NamedAdapter, BTreeMap<String, Target>)>);

impl FittedAdapters<'_> {
    /// Adds the weights of the bottleneck adapters at `place` in the layer called `at`, number `layer`.
    pub fn grafts(&self, p: &mut Parameters, (at, layer): (&str, u32), place: &str, hidden: u32) -> Vec<Graft> {
        let graft = |(adapter, _): &(&NamedAdapter, _)| {
            let config = adapter.config.bottleneck().filter(|config| config.places(layer).any(|there| there == place))?;
            Some(Graft::new(&mut Declaring { parameters: p, adapter }, config, (at, layer), place, hidden))
        };
        self.0.iter().filter_map(graft).collect()
    }

    /// Adds the weights of the invertible adapters. Only that of the lowest adapter has an effect, as in the library.
    pub fn coupling(&self, p: &mut Parameters, model: &Config) -> Option<Coupling> {
        let outer = Names::of(model.family).layers.split('.').next().expect("a name has a part");
        let class = model_class(model.family.model_type(), None);
        let coupling = |(adapter, _): &(&NamedAdapter, _)| {
            let config = adapter.config.bottleneck().filter(|config| config.invertible)?;
            let inverse = config.inverse.unwrap_or(inverts(class));
            Some(Coupling::new(&mut Declaring { parameters: p, adapter }, config, outer, model.hidden_size, inverse))
        };
        let all: Vec<_> = self.0.iter().map(coupling).collect();
        all.into_iter().next().flatten()
    }

    /// Adds the weights of the updates of a linear layer, whose `stacked` matrices have the given names and outputs.
    pub fn updates(&self, p: &mut Parameters, stacked: &[(String, u32)]) -> Vec<LowRank> {
        let update = |(adapter, targets): &(&NamedAdapter, BTreeMap<_, _>)| {
            updates(&mut Declaring { parameters: p, adapter }, stacked, targets, adapter.config.lora()?.dropout)
        };
        self.0.iter().filter_map(update).collect()
    }
}

/// A model's weights, to which an adapter adds its own.
pub(super) struct Declaring<'a> {
    parameters: &'a mut Parameters,
    adapter: &'a NamedAdapter,
}

impl Declaring<'_> {
    /// Adds a weight of the adapter; its pieces have the names where the adapter is alone.
    pub fn add(&mut self, pieces: Vec<Piece>) -> Tensor {
        let named = |Piece { name, shape }| Piece { name: self.adapter.in_setup(&name).into_owned(), shape };
        let pieces = pieces.into_iter().map(named).collect();
        self.parameters.add_stack(pieces, DType::F32, self.adapter.trains)
    }
}
