//! The loop of a run: steps, evaluations and checkpoints, in one or two phases.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use graftling::gpu::{Device, Memory};
use graftling::model::{AdapterConfig, Config, Model, SavedAdapter, Trains, is_adapter, write_adapter};
use graftling::text::{Batch, Batches};
use graftling::train::{Best, Checkpoint, Checkpoints, Estimate, Evaluator, RunState, TrainOptions, Trainer};
use graftling::weights::{Weights, fingerprint, replace_directory};
use graftling::{Error, Result};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;

use super::progress::Progress;
use super::setup::{Setup, cut_batch, smaller_step};
use super::{Common, interrupt};

/// How long a run without --save-every goes on between checkpoints.
const SAVE_AFTER: Duration = Duration::from_secs(600);

/// All that a run needs, and how far it is.
pub struct Run<'a> {
    pub common: &'a Common,
    pub device: &'a Device,
    pub setup: Setup,
    pub config: Config,
    pub adapters: AdapterConfig,
    pub adapter_name: &'a str,
    pub base_name: String,
    pub trains: Trains,
    pub options: TrainOptions,
    pub batches: Batches<'a>,
    pub valid: Option<Vec<Batch>>,
    /// Rows and length of the largest batch.
    pub batch: [u32; 2],
    pub grad_accumulation: usize,
    pub steps: u64,
    pub full_steps: u64,
    pub eval_every: Option<u64>,
    pub save_every: Option<u64>,
    pub log_every: u64,
    pub out: &'a Path,
    pub checkpoints: Checkpoints,
    /// The step of the checkpoint that the run goes on from.
    pub resumed: Option<u64>,
    pub state: RunState,
    /// Adam's, of the tensors that train next; none at the beginning.
    pub moments: Option<Weights>,
}

/// What trains at a time, on the device.
struct Phase<'p> {
    model: &'p Model,
    memory: &'p Memory,
    trainer: Trainer<'p>,
    /// Tensors of the base that do not train but differ from the base's files.
    changed: BTreeSet<String>,
    /// The last checkpoint that this phase made or began with.
    earlier: Option<PathBuf>,
}

impl Run<'_> {
    /// Trains from where the state is to the end, and saves the adapter. `begin` is called when all is ready.
    pub fn go(mut self, begin: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut progress = None;
        if self.state.trainer.step < self.full_steps {
            self.phase(Trains::everything(), &mut progress, begin)?;
        }
        let (saved, [total, trainable, bytes]) = self.phase(self.trains, &mut progress, begin)?.expect("the last phase has a result");

        let directory = self.out.join("adapter");
        if directory.exists() {
            write_adapter(&directory, &saved)?;
        } else {
            replace_directory(&directory, |temporary| write_adapter(temporary, &saved))?;
        }
        graftling::plot::write(self.out)?;
        let moved = adapter_fingerprint(&saved.weights) != self.state.start;
        if !moved {
            let problem = "no weight of the adapter has moved, so it does nothing that it did not do before";
            self.common.warn(format!("{problem}; use a higher learning rate or more steps"));
        }
        let summary = progress.expect("there was a phase").summary();
        if summary.skipped > 0 {
            self.common.warn(format!("{} steps were left out, since their gradient was not finite", summary.skipped));
        }
        let steps = self.steps;
        let text = format!("saved {} after {steps} steps: loss {:.4} to {:.4}", directory.display(), summary.first, summary.last);
        let best = self
            .state
            .best
            .map(|best| json!({ "step": best.step, "eval_loss": best.loss, "checkpoint": self.checkpoints.path(best.step) }));
        let json = json!({
            "adapter": directory, "checkpoint": self.checkpoints.path(steps), "best": best, "steps": steps,
            "loss_before": summary.first, "loss_after": summary.last, "eval_loss": summary.evaluated,
            "total_params": total, "trainable_params": trainable, "tokens_per_second": summary.tokens_per_second, "gpu_bytes": bytes,
            "skipped_steps": summary.skipped, "adapter_moved": moved,
        });
        self.common.result(text, json);
        Ok(())
    }
}

impl<'a> Run<'a> {
    /// Trains what `trains` says. The last phase returns what there is to save, and how many weights there are, how many train, and the
    /// bytes of device memory; the one before leaves all that the last needs in `self`.
    fn phase(
        &mut self,
        trains: Trains,
        progress: &mut Option<Progress<'a>>,
        begin: &dyn Fn() -> Result<()>,
    ) -> Result<Option<(SavedAdapter, [u64; 3])>> {
        let full = trains.base;
        let device = self.device;
        let model = self.setup.model(&self.config, Some(&self.adapters), trains)?;
        let (total, trainable) = (model.parameters.total(), model.parameters.trainable());
        let percent = 100.0 * trainable as f64 / total as f64;
        let (trained, adapters) = (HumanCount(trainable), &self.adapters);
        self.common.note(format!("model      {trained} of {} parameters train ({percent:.1} %): {adapters}", HumanCount(total)));
        let [rows, length] = self.batch;
        let estimate = Estimate::new(&model, device.traits(), rows, length, self.options.checkpointing)?;
        if let Some(cut) = cut_batch(self.batch, estimate.micro_batch).filter(|_| progress.is_none()) {
            self.common.note(format!("batch      {cut}"));
        }
        self.common.note(format!("memory     up to {} on the device", BinaryBytes(estimate.total())));

        let memory = self.setup.upload(device, &model, self.state.seed, true)?;
        // Taken, since a checkpoint's files are not needed any more and may be removed.
        let changes = std::mem::take(&mut self.setup.changes);
        let changed = changes.into_iter().flat_map(|w| w.tensors.into_keys()).filter(|name| !is_adapter(name)).collect();
        let mut trainer = Trainer::new(device, &model, &memory, self.options)?;
        let others = [
            (!self.options.checkpointing).then_some("--gradient-checkpointing true"),
            (!self.common.half()).then_some("--precision f16"),
            Some("a shorter --max-length"),
        ];
        let smaller = || smaller_step(rows, self.grad_accumulation as u64, estimate.micro_batch, &others);
        trainer.prepare(rows, length).map_err(|error| error.advised(smaller))?;
        if let Some(moments) = self.moments.take() {
            trainer.restore(&self.state.trainer, &moments)?;
        }
        let earlier = self.resumed.filter(|&step| step == self.state.trainer.step).map(|step| self.checkpoints.path(step));
        let mut phase = Phase { model: &model, memory: &memory, trainer, changed, earlier };
        if progress.is_none() {
            begin()?;
            *progress = Some(match self.resumed {
                Some(_) => Progress::resumed(self.common, self.out, self.steps, self.log_every, &self.state)?,
                None => Progress::new(self.common, self.out, self.steps, self.log_every)?,
            });
            if self.resumed.is_none() {
                self.state.start = adapter_fingerprint(&phase.saved(self)?.weights);
            }
        }
        let progress = progress.as_mut().expect("it was made");
        self.steps_of(&mut phase, full, progress)?;

        if full {
            let weights = model.download(device, &memory, |_| true)?;
            let base = [&self.setup.base.weights, &weights];
            let next = Model::new(&self.config, &base, Some(&self.adapters), self.trains)?;
            self.moments = Some(phase.trainer.moments(|name| next.trains(name))?);
            self.state.trainer = phase.trainer.state()?;
            self.setup.changes = vec![weights];
            return Ok(None);
        }
        let bytes = memory.bytes() + phase.trainer.bytes();
        Ok(Some((phase.saved(self)?, [total, trainable, bytes])))
    }

    /// Steps until the phase is over, with evaluations and checkpoints before each and after the last.
    fn steps_of(&mut self, phase: &mut Phase, full: bool, progress: &mut Progress) -> Result<()> {
        let mut evaluator = Evaluator::new(self.device, phase.model, phase.memory);
        let mut done = self.state.trainer.step;
        let (mut saved, mut saved_at) = (self.resumed, Instant::now());
        loop {
            // What is due then, the next phase does.
            if full && done == self.full_steps {
                return phase.drain(progress);
            }
            let over = done == self.steps;
            let stop = interrupt::asked() && !over;
            let mut improved = false;
            if let Some(valid) = self.valid.as_ref().filter(|_| !stop && self.evaluation_is_due(done)) {
                phase.drain(progress)?;
                let loss = evaluator.loss(valid)?;
                progress.evaluated(done, loss)?;
                self.state.evaluated = Some(done);
                improved = done > 0 && loss.is_finite() && self.state.best.is_none_or(|best| loss < best.loss);
                if improved {
                    self.state.best = Some(Best { step: done, loss });
                }
            }
            let due = match self.save_every {
                Some(every) => done.is_multiple_of(every),
                None => saved_at.elapsed() > SAVE_AFTER,
            };
            if improved || saved != Some(done) && (stop || over || due && done > 0) {
                phase.drain(progress)?;
                self.save(phase, progress)?;
                (saved, saved_at) = (Some(done), Instant::now());
            }
            if stop {
                progress.clear();
                graftling::plot::write(self.out)?;
                return Err(Error::Interrupted { step: done, checkpoint: self.checkpoints.path(done) });
            }
            if over {
                return Ok(());
            }
            let accumulated: Vec<_> = self.batches.by_ref().take(self.grad_accumulation).collect();
            let position = self.batches.position();
            let epoch = position.epoch as f64 + position.index as f64 / self.batches.per_epoch() as f64;
            progress.started(epoch, accumulated.iter().flat_map(|batch| &batch.lengths).map(|&length| u64::from(length)).sum());
            let report = phase.trainer.step(&accumulated)?;
            report.map_or(Ok(()), |report| progress.finished(&report, phase.bytes()))?;
            done += 1;
        }
    }

    /// At the beginning, every so many steps, and at the end, but once only.
    fn evaluation_is_due(&self, done: u64) -> bool {
        let every = self.eval_every.is_some_and(|every| done.is_multiple_of(every));
        (done == 0 || done == self.steps || every) && self.state.evaluated != Some(done)
    }

    fn save(&mut self, phase: &mut Phase, progress: &Progress) -> Result<()> {
        let mut adapter = phase.saved(self)?;
        let stays = adapter.base.as_ref().is_some_and(|base| base.tensors.keys().all(|name| !phase.model.trains(name)));
        let base_of = phase.earlier.take().filter(|_| stays);
        if base_of.is_some() {
            adapter.base = None;
        }
        let moments = phase.trainer.moments(|_| true)?;
        self.state.trainer = phase.trainer.state()?;
        self.state.position = self.batches.position();
        progress.remember(&mut self.state)?;
        phase.earlier = Some(self.checkpoints.write(&Checkpoint { adapter, base_of, moments, state: self.state.clone() })?);
        Ok(())
    }
}

impl Phase<'_> {
    /// Waits for the steps that are under way.
    fn drain(&mut self, progress: &mut Progress) -> Result<()> {
        while let Some(report) = self.trainer.finish()? {
            progress.finished(&report, self.bytes())?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.memory.bytes() + self.trainer.bytes()
    }

    /// What differs from the base's files, as it is saved.
    fn saved(&self, run: &Run) -> Result<SavedAdapter> {
        let wanted = |name: &str| is_adapter(name) || self.model.trains(name) || self.changed.contains(name);
        let weights = self.model.download(run.device, self.memory, wanted)?;
        SavedAdapter::of(self.model, &weights, run.adapter_name, &run.base_name)
    }
}

fn adapter_fingerprint(weights: &Weights) -> String {
    let bytes: Vec<_> = weights.tensors.values().map(|weight| weight.bytes()).collect();
    fingerprint(bytes.iter().map(|bytes| &bytes[..]))
}
