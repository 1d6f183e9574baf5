//! Saved adapters in the order in which they apply.

use std::collections::BTreeSet;

use super::{AdapterSetup, NamedAdapter, SavedAdapter};
use crate::error::Result;
use crate::model::{BaseIdentity, Config, HeadConfig};
use crate::weights::Weights;

/// Adapters from files, the lowest first. They are frozen.
#[derive(Clone, Debug, Default)]
pub struct SavedSetup {
    adapters: Vec<(NamedAdapter, SavedAdapter)>,
}

impl SavedSetup {
    /// Gives each adapter a name of its own: that from its file, with a number if another has it too.
    pub fn of(adapters: Vec<SavedAdapter>) -> SavedSetup {
        let mut taken = BTreeSet::new();
        let named = |saved: SavedAdapter| {
            let numbered = (2..).map(|number| format!("{}-{number}", saved.name));
            let name = [saved.name.clone()].into_iter().chain(numbered).find(|name| taken.insert(name.clone()));
            let name = name.expect("there is always another number");
            (NamedAdapter { name, config: saved.config.clone(), trains: false }, saved)
        };
        SavedSetup { adapters: adapters.into_iter().map(named).collect() }
    }

    /// The adapters, the lowest first.
    pub fn into_adapters(self) -> impl Iterator<Item = SavedAdapter> {
        self.adapters.into_iter().map(|(_, saved)| saved)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.adapters.is_empty()
    }

    /// The setup of a model.
    pub fn setup(&self) -> AdapterSetup {
        AdapterSetup { adapters: self.adapters.iter().map(|(named, _)| named.clone()).collect() }
    }

    /// The adapters' tensors for a model with this configuration, under their names in a setup, and whatever of the base trained with them,
    /// of which that of the uppermost counts.
    ///
    /// # Errors
    /// As [`SavedAdapter::sources`].
    pub fn sources(&self, model: &Config) -> Result<Vec<Weights>> {
        let mut sources = Vec::new();
        for (named, saved) in &self.adapters {
            sources.extend(saved.sources(model)?.into_iter().map(|weights| named.named(weights)));
        }
        Ok(sources)
    }

    /// The head for labels of the uppermost adapter that has one.
    pub fn label_head(&self) -> Option<&HeadConfig> {
        self.adapters.iter().rev().find_map(|(_, saved)| saved.label_head.as_ref()).map(|(head, _)| head)
    }

    /// Checks that each adapter fits a base and those below it; returns a warning for each that was trained with others.
    ///
    /// # Errors
    /// As [`SavedAdapter::check_base`].
    pub fn check_base(&self, base: &BaseIdentity) -> Result<Vec<String>> {
        let warnings = self.adapters.iter().map(|(_, saved)| saved.check_base(base)).collect::<Result<Vec<_>>>()?;
        // On top of others is as intended in MAD-X, which swaps the lower adapter.
        let lowest = self.adapters.first().map(|(_, saved)| saved);
        let alone = lowest.and_then(|saved| Some((saved, saved.made_on.as_ref()?.below()?))).map(|(saved, below)| {
            let own = saved.weights.path.parent().unwrap_or(&saved.weights.path).display();
            format!("{own} was trained on top of {below}, without which results will differ; use 'stack({below},{own})'")
        });
        Ok(warnings.into_iter().flatten().chain(alone).collect())
    }
}
