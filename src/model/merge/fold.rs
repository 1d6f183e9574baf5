//! The weights of a base with those of an adapter in them.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::model::adapter::{LORA_A, LORA_B, Target};
use crate::model::names::Names;
use crate::model::values::source_of;
use crate::model::{AdapterSetup, Config, Model, SavedAdapter, Trains};
use crate::weights::{Weight, Weights};

/// A base, and what an adapter makes of each of its tensors. Names and order of elements are the model's.
pub(super) struct Folded {
    pub config: Config,
    pub base: Weights,
    /// What the adapter brings: A and B of each target, and tensors that replace the base's own.
    changes: Vec<Weights>,
    targets: BTreeMap<String, Target>,
    /// Every tensor of the model, in order.
    names: Vec<String>,
}

impl Folded {
    /// Checks that the adapter is a LoRA for this base, and that the base has all its tensors.
    pub fn new(config: Config, base: Weights, adapter: &SavedAdapter) -> Result<Folded> {
        let Some(lora) = adapter.config.lora() else {
            let problem = "is a bottleneck adapter, which is not linear and so cannot be folded into weights; use it with --adapter, or train a \
                           LoRA (--adapter lora) to merge";
            return Err(Error::file(adapter.weights.path.parent().unwrap_or(&adapter.weights.path), problem));
        };
        let changes = adapter.sources(&config)?;
        let targets = lora.targets(&config).map_err(Error::Usage)?;
        let sources: Vec<_> = [&base].into_iter().chain(&changes).collect();
        let model = Model::new(&config, &sources, None, Trains::adapters())?;
        let names = model.parameters.iter().flat_map(|(_, parameter)| &parameter.pieces).map(|piece| piece.name.clone()).collect();
        Ok(Folded { config, base, changes, targets, names })
    }

    /// The number of linear layers with an update.
    pub fn modules(&self) -> usize {
        self.targets.len()
    }

    /// Every tensor of the model by its name, in the order in which the model uses them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The model's name for a tensor of the base's file, which may leave out the first part of all names.
    pub fn name_in_memory(&self, on_disk: &str) -> String {
        let prefix = Names::of(self.config.family).layers.split('.').next().expect("a name has a part");
        let whole = format!("{prefix}.{on_disk}");
        if self.base.tensors.contains_key(&whole) { whole } else { on_disk.into() }
    }

    /// Whether the adapter changes the tensor called `name`.
    pub fn changes(&self, name: &str) -> bool {
        self.target(name).is_some() || self.changes.iter().any(|change| change.tensors.contains_key(name))
    }

    fn target(&self, name: &str) -> Option<(&str, &Target)> {
        let (module, target) = self.targets.get_key_value(name.strip_suffix(".weight")?)?;
        Some((module, target))
    }

    /// The tensor called `name`, which the base has: in f32 if there is a LoRA in it. Every value is finite.
    pub fn get(&self, name: &str) -> Result<Weight> {
        let sources: Vec<_> = [&self.base].into_iter().chain(&self.changes).collect();
        let shape = &self.base.tensors[name].shape;
        let weight = source_of(&sources, name, &AdapterSetup::default()).expect("the base is a source").get(name, shape)?;
        let Some((module, target)) = self.target(name) else { return Ok(weight.clone()) };
        let [a, b] = [LORA_A, LORA_B].map(|end| self.changes[0].tensors[&format!("{module}{end}")].to_f32());
        let mut values = weight.to_f32();
        add_product(&mut values, &a, &b, target);
        if values.iter().any(|value| !value.is_finite()) {
            let problem = format!("makes tensor '{name}' infinite; train it with a smaller alpha or learning rate");
            return Err(Error::file(&self.changes[0].path, problem));
        }
        Ok(Weight::from_f32(shape.clone(), &values))
    }
}

/// W + s·B·A, with W (outputs, inputs), A (rank, inputs) and B (outputs, rank).
fn add_product(w: &mut [f32], a: &[f32], b: &[f32], target: &Target) {
    let (rank, inputs) = (target.rank as usize, target.inputs as usize);
    let mut update = vec![0.0; inputs];
    for (w, b) in w.chunks_exact_mut(inputs).zip(b.chunks_exact(rank)) {
        update.fill(0.0);
        for (a, b) in a.chunks_exact(inputs).zip(b) {
            update.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
        w.iter_mut().zip(&update).for_each(|(w, update)| *w += target.scaling * update);
    }
}
