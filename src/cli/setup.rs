//! The setup of training, evaluation and generation: a base with its adapter, and both on the device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::{OsStringValueParser, TypedValueParser};

use graftling::doctor::{Verdicts, self_check};
use graftling::gpu::{Device, Memory};
use graftling::graph::{Graph, Traits};
use graftling::model::{
    AdapterConfig, AdapterExpression, AdapterSetup, Base, BaseDropout, BaseIdentity, Config, HeadConfig, Model, SavedSetup, Trains,
};
use graftling::text::{Task, TaskKind};
use graftling::weights::Weights;
use graftling::{Error, Result};

use super::Common;
use super::options::name_of;

/// A base, and saved adapters on it.
pub struct Setup {
    pub base: Arc<Base>,
    /// The identity of the base with the adapters.
    pub identity: BaseIdentity,
    /// Adapters that stay as they are.
    pub expression: Option<AdapterExpression>,
    saved: SavedSetup,
    /// Their tensors.
    frozen: Vec<Weights>,
    /// Weights that override or extend the base's own and those of the adapters.
    pub changes: Vec<Weights>,
    /// The head for labels: the saved adapter's, or else the base's own.
    pub head: Option<HeadConfig>,
    /// Whether activations may be f16.
    half: bool,
}

impl Setup {
    pub fn read(common: &Common, model: &Path, adapters: Option<&AdapterExpression>) -> Result<Setup> {
        let base = Base::open(model)?;
        let identity = base.identity(&name_of(model));
        let base = Arc::new(Base { weights: common.in_precision(base.weights), ..base });
        Setup::on(common, base, identity, adapters)
    }

    /// The same base with other saved adapters; this setup has none.
    pub fn with(&self, common: &Common, adapters: &AdapterExpression) -> Result<Setup> {
        Setup::on(common, self.base.clone(), self.identity.clone(), Some(adapters))
    }

    fn on(common: &Common, base: Arc<Base>, identity: BaseIdentity, adapters: Option<&AdapterExpression>) -> Result<Setup> {
        let saved = adapters.map_or(Ok(SavedSetup::default()), AdapterExpression::read)?;
        saved.check_base(&identity)?.into_iter().for_each(|warning| common.warn(warning));
        let frozen = saved.sources(&base.config)?;
        let identity = match adapters {
            Some(expression) => identity.with_below(&expression.map_paths(&adapter_name), &frozen),
            None => identity,
        };
        let own = base.head.as_ref().map(|(head, _)| head);
        let head = saved.label_head().or(own).cloned();
        Ok(Setup { base, identity, expression: adapters.cloned(), saved, frozen, changes: Vec::new(), head, half: common.half() })
    }

    /// What the model predicts.
    pub fn task(&self) -> Task {
        self.head.as_ref().map_or(Task::Language, |head| head.task.clone())
    }

    /// Finds out what to learn from the data in a file or directory, and chooses the head for it: that of the adapter to start from, that of
    /// the base if it is for the same labels, or a new one. `wanted` overrides what the data suggest.
    ///
    /// # Errors
    /// [`Error::Usage`] if the adapter to start from has a head for something else; [`Error::File`] if the data are of no use.
    pub fn learn(&mut self, data: &Path, wanted: Option<TaskKind>, start: Option<&HeadConfig>) -> Result<Task> {
        if let Some(head) = start {
            let known = head.task.kind();
            if let Some(wanted) = wanted.filter(|&wanted| wanted != known) {
                let problem = format!("the adapter to start from has a head for {known}, but --task is {wanted}");
                return Err(Error::Usage(format!("{problem}; leave out one of them")));
            }
            // Labels that the head does not know are errors of their rows.
            self.head = Some(head.clone());
            return Ok(self.task());
        }
        let task = Task::of(data, wanted)?;
        if self.task() != task {
            self.head = (task != Task::Language).then(|| HeadConfig::new(&task, &self.base.config));
        }
        Ok(task)
    }

    /// The model's adapters: the saved ones and, if one trains, that one on top.
    pub fn adapters(&self, trained: Option<&AdapterConfig>) -> AdapterSetup {
        let saved = self.saved.setup();
        trained.map_or(saved.clone(), |config| saved.under(config))
    }

    /// The model with the saved adapters and, if one trains, that one on top.
    pub fn model(&self, config: &Config, trained: Option<&AdapterConfig>, trains: Trains) -> Result<Model> {
        let model = Model::with_head(config, &self.sources(), self.adapters(trained), self.head.as_ref(), trains)?;
        Ok(model.with_half_activations(self.half))
    }

    /// The model's weights on a device.
    pub fn upload(&self, device: &Device, model: &Model, seed: u64, training: bool) -> Result<Memory> {
        model.upload(device, &self.sources(), seed, training)
    }

    /// The weights of a model that does not train on a device, where those of the base alone may be already.
    pub fn upload_beside(&self, device: &Device, model: &Model, base: Option<&Memory>) -> Result<Memory> {
        match base {
            Some(base) => model.upload_beside(device, base, &self.sources()),
            None => model.upload(device, &self.sources(), 0, false),
        }
    }

    /// All weights; later sources override earlier ones.
    pub fn sources(&self) -> Vec<&Weights> {
        // The base's own head counts only if no other takes its place.
        let own_head = self.base.head.as_ref().filter(|(head, _)| Some(head) == self.head.as_ref()).map(|(_, tensors)| tensors);
        [&self.base.weights].into_iter().chain(own_head).chain(&self.frozen).chain(&self.changes).collect()
    }
}

/// What an adapter's directory is called where its whole path does not matter: its name, and that of its run.
fn adapter_name(path: &Path) -> PathBuf {
    let name = name_of(path);
    let run = path.parent().filter(|run| name == "adapter" && !run.as_os_str().is_empty());
    run.map_or_else(|| PathBuf::from(&name), |run| Path::new(&name_of(run)).join(&name))
}

/// The parser of options that take saved adapters.
pub fn adapters() -> impl TypedValueParser<Value = AdapterExpression> {
    OsStringValueParser::new().try_map(|text| AdapterExpression::parse(&text))
}

/// The config, with the dropout rate `share` everywhere if it is given.
pub fn with_dropout(config: &Config, share: Option<f32>) -> Config {
    let dropout = share.map_or(config.dropout, BaseDropout::all);
    Config { dropout, ..config.clone() }
}

/// The maximum sequence length: the requested one, or 512, within the model's context.
pub fn max_length(config: &Config, wanted: Option<u32>) -> Result<u32> {
    let context = config.context;
    match wanted {
        None => Ok(context.min(512)),
        Some(length) if (2..=context).contains(&length) => Ok(length),
        Some(length) => Err(Error::Usage(format!("--max-length is {length}, but the model's context allows 2 to {context}"))),
    }
}

/// The note about a batch, [rows, length], that the device cannot compute at once; `None` if it can.
pub fn cut_batch([rows, length]: [u32; 2], micro_batch: u32) -> Option<String> {
    let (count, rest) = (rows.div_ceil(micro_batch), rows % micro_batch);
    let of = if rest == 0 { "of" } else { "of up to" };
    let cut = format!("it is computed as {count} micro-batches {of} {micro_batch}");
    (count > 1).then(|| format!("a batch of {rows} × {length} tokens does not fit the limits of this device: {cut}"))
}

/// The advice for a step that runs out of memory: smaller batches that add up to the same step, unless it has one row, and `others`.
pub fn smaller_step(batch: u32, accumulation: u64, micro_batch: u32, others: &[Option<&str>]) -> String {
    let rows = (1..=micro_batch / 2).rev().find(|rows| batch.is_multiple_of(*rows));
    let same =
        |rows| format!("--batch-size {rows} --grad-accumulation {}, which makes the same step", accumulation * u64::from(batch / rows));
    let choices: Vec<_> = rows.map(same).into_iter().chain(others.iter().flatten().map(|other| other.to_string())).collect();
    format!("use {}", choices.join("; or "))
}

/// Checks the kernels of the recordings that `record` makes, if this device, driver and binary have not met them yet. Returns the warnings
/// about wrong ones, which have been printed.
pub fn check_kernels(common: &Common, device: &mut Device, record: impl Fn(&Traits) -> Result<Vec<Graph>>) -> Result<Vec<String>> {
    let mut verdicts = Verdicts::of_user(device.info());
    let note = format!("checking   kernels on {} (first use)", device.info().name);
    let avoided = self_check(device, &mut verdicts, record, || common.note(note))?;
    let warnings: Vec<_> = avoided.iter().map(ToString::to_string).collect();
    warnings.iter().for_each(|warning| common.warn(warning));
    Ok(warnings)
}

pub fn open_device(common: &Common) -> Result<Device> {
    let device = Device::open(common.device.as_deref())?;
    common.note(format!("device     {}", device.info()));
    if common.half() && !device.traits().half {
        common.warn("this device has no 16-bit floats: --precision f16 applies to matrices only, activations stay f32");
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_said_in_the_users_terms() {
        let said = cut_batch([40, 512], 20).expect("it is cut");
        assert_eq!(said, "a batch of 40 × 512 tokens does not fit the limits of this device: it is computed as 2 micro-batches of 20");
        assert!(cut_batch([41, 512], 14).is_some_and(|said| said.ends_with("3 micro-batches of up to 14")));
        assert_eq!(cut_batch([20, 512], 20), None);
    }

    /// Advice never repeats what has been done already.
    #[test]
    fn the_advice_is_new() {
        let advice = smaller_step(40, 2, 20, &[Some("--gradient-checkpointing true"), None]);
        assert_eq!(advice, "use --batch-size 10 --grad-accumulation 8, which makes the same step; or --gradient-checkpointing true");
        assert_eq!(smaller_step(7, 1, 7, &[]), "use --batch-size 1 --grad-accumulation 7, which makes the same step");
        assert_eq!(smaller_step(1, 1, 1, &[None, Some("a shorter --max-length")]), "use a shorter --max-length");
    }
}
