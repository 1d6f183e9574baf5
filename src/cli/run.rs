//! The training loop of a run: steps, evaluations and checkpoints, in one or two phases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use graftling::files::replace_directory;
use graftling::gpu::{Device, Memory};
use graftling::model::{AdapterConfig, Config, MADE_ON, Model, SavedAdapter, Trains, is_adapter, write_adapter};
use graftling::text::{Batch, Batches};
use graftling::train::{Best, Checkpoint, Checkpoints, Estimate, Evaluation, Evaluator, RunState, TrainOptions, Trainer};
use graftling::weights::{Weights, fingerprint};
use graftling::words::count;
use graftling::{Error, Result};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;

use super::bar::Bar;
use super::progress::Progress;
use super::setup::{Setup, cut_batch, smaller_step};
use super::{Common, interrupt};

/// The time between checkpoints of a run without `--save-every`.
const SAVE_AFTER: Duration = Duration::from_secs(600);

/// All that a run needs, and its state.
pub struct Run<'a> {
    pub common: &'a Common,
    pub device: &'a Device,
    pub setup: Setup,
    pub config: Config,
    pub adapters: AdapterConfig,
    pub adapter_name: &'a str,
    pub trains: Trains,
    pub options: TrainOptions,
    pub batches: Batches<'a>,
    pub valid: Option<Vec<Batch>>,
    /// Warnings about kernels, which have been printed.
    pub warnings: Vec<String>,
    /// Rows and length of the largest batch.
    pub batch: [u32; 2],
    pub grad_accumulation: usize,
    pub steps: u64,
    pub full_steps: u64,
    pub eval_every: Option<u64>,
    pub save_every: Option<u64>,
    pub log_every: Option<u64>,
    pub out: &'a Path,
    pub checkpoints: Checkpoints,
    /// The step of the checkpoint that the run resumes from.
    pub resumed: Option<u64>,
    pub state: RunState,
    /// The Adam moments of the tensors that train next; `None` at the beginning.
    pub moments: Option<Weights>,
}

/// The number of trainable weights in each part.
type Parts = BTreeMap<&'static str, u64>;

/// What trains at the moment, on the device.
struct Phase<'p> {
    model: &'p Model,
    memory: &'p Memory,
    trainer: Trainer<'p>,
    /// Tensors of the base that do not train but differ from the base's files.
    changed: BTreeSet<String>,
    /// The last checkpoint that this phase wrote or started from.
    earlier: Option<PathBuf>,
}

impl Run<'_> {
    /// Trains from the current state to the end and saves the adapter. `begin` is called once everything is ready.
    pub fn go(mut self, begin: &dyn Fn() -> Result<()>) -> Result<()> {
        let bar = Bar::new(self.common, self.steps);
        let mut progress = None;
        let trained = self.phases(&bar, &mut progress, begin);
        bar.clear();
        let Some(progress) = progress else { return trained.map(drop) };
        // The loss curve of a failed run is useful too.
        let drawn = graftling::plot::write(self.out, &format!("{}, {}", self.setup.identity.model, self.adapters));
        if let Err(Error::Diverged { .. } | Error::DivergedWeight { .. }) = &trained
            && let Some(&step) = self.checkpoints.steps().last()
        {
            self.common.warn(format!("{} is the last checkpoint; its weights are finite", self.checkpoints.path(step).display()));
        }
        let (saved, counts, trained) = trained?;
        drawn?;
        let directory = self.out.join("adapter");
        if directory.exists() {
            write_adapter(&directory, &saved)?;
        } else {
            replace_directory(&directory, |temporary| write_adapter(temporary, &saved))?;
        }
        self.tell(&directory, &saved, counts, &trained, progress);
        Ok(())
    }

    /// Prints the result of the run.
    fn tell(&self, directory: &Path, saved: &SavedAdapter, [total, trainable, bytes]: [u64; 3], parts: &Parts, mut progress: Progress) {
        let moved = adapter_fingerprint(saved) != self.state.start;
        if !moved {
            let problem = "no weight of the adapter has moved, so training changed nothing";
            progress.warn(format!("{problem}; use a higher learning rate or more steps"));
        }
        let (steps, summary) = (self.steps, progress.summary());
        let measured = summary.evaluated.filter(|_| self.valid.is_some());
        let worse = |best: &Best| measured.map_or(progress.health().rise().is_some(), |last| last > best.loss || last.is_nan());
        let better = self.state.best.filter(|best| best.step < steps && worse(best));
        let path = |best: Best| self.checkpoints.path(best.step);
        let of_use = better.filter(|best| progress.health().is_below_start(best.loss));
        progress.conclude("adapter", "its base", of_use.map(path).as_deref());
        let disk = bytes_on_disk(self.out);
        let checkpoints = self.checkpoints.steps().iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let checkpoints =
            format!("{} {checkpoints}", if checkpoints.contains(',') { "the checkpoints of steps" } else { "the checkpoint of step" });
        self.common.note(format!("disk       {} takes {}, including {checkpoints}", self.out.display(), BinaryBytes(disk)));

        let evaluated = match (progress.evaluation(), summary.evaluated) {
            (Some(evaluation), _) => format!(", validation {}", evaluation.line()),
            (None, loss) => loss.map_or(String::new(), |loss| format!(", validation {loss:.4}")),
        };
        let best = |best: Best| format!(" (best {:.4} after step {}: {})", best.loss, best.step, path(best).display());
        let (losses, best) = (format!("loss {:.4} to {:.4}", summary.first, summary.last), better.map_or(String::new(), best));
        let tables = progress.evaluation().map_or(String::new(), Evaluation::tables);
        let tables = if tables.is_empty() { tables } else { format!("{tables}\n") };
        let text = format!("{tables}saved {} after {}: {losses}{evaluated}{best}", directory.display(), count(steps, "step"));
        let usage = self.setup.expression.clone().map(|below| below.under(directory).to_string());
        if let Some(expression) = &usage {
            self.common.note(format!("use        --adapter \"{expression}\""));
        }
        let best = self.state.best.filter(|_| measured.is_some()).or(better);
        let best = best.map(|best| {
            let eval_loss = measured.map(|_| best.loss);
            json!({ "step": best.step, "loss": best.loss, "eval_loss": eval_loss, "checkpoint": path(best) })
        });
        let json = json!({
            "adapter": directory, "use": usage, "checkpoint": self.checkpoints.path(steps), "best": best, "steps": steps,
            "loss_before": summary.first, "loss_after": summary.last, "eval_loss": summary.evaluated,
            "metrics": progress.evaluation().map(Evaluation::json),
            "total_params": total, "trainable_params": trainable, "trains": parts, "tokens_per_second": summary.tokens_per_second, "gpu_bytes": bytes,
            "skipped_steps": summary.skipped, "adapter_moved": moved, "disk_bytes": disk, "warnings": progress.warnings(),
        });
        self.common.result(text, json);
    }
}

impl Run<'_> {
    /// Runs all phases.
    fn phases<'b>(
        &mut self,
        bar: &'b Bar<'b>,
        progress: &mut Option<Progress<'b>>,
        begin: &dyn Fn() -> Result<()>,
    ) -> Result<(SavedAdapter, [u64; 3], Parts)> {
        if self.state.trainer.step < self.full_steps {
            self.phase(Trains::everything(), bar, progress, begin)?;
        }
        Ok(self.phase(self.trains, bar, progress, begin)?.expect("the last phase has a result"))
    }

    /// Trains what `trains` selects. The last phase returns the adapter to save; the number of weights, the number that train, and the
    /// bytes of device memory; and the parts that train. The phase before it leaves in `self` what the last one needs.
    fn phase<'b>(
        &mut self,
        trains: Trains,
        bar: &'b Bar<'b>,
        progress: &mut Option<Progress<'b>>,
        begin: &dyn Fn() -> Result<()>,
    ) -> Result<Option<(SavedAdapter, [u64; 3], Parts)>> {
        let full = trains.base;
        let device = self.device;
        let model = self.setup.model(&self.config, Some(&self.adapters), trains)?;
        let (total, trainable) = (model.parameters.total(), model.parameters.trainable());
        let percent = 100.0 * trainable as f64 / total as f64;
        let (trained, adapters) = (HumanCount(trainable), &self.adapters);
        let parts = trains.parts(&model);
        bar.note(format!("model      {trained} of {} parameters train ({percent:.1} %): {adapters}", HumanCount(total)));
        let named: Vec<_> = parts.iter().map(|(part, count)| format!("{part} {}", HumanCount(*count))).collect();
        bar.note(format!("trains     {}", named.join(", ")));
        let [rows, length] = self.batch;
        let estimate = Estimate::new(&model, device.traits(), rows, length, self.options.checkpointing)?;
        if let Some(cut) = cut_batch(self.batch, estimate.micro_batch).filter(|_| progress.is_none()) {
            bar.note(format!("batch      {cut}"));
        }
        bar.note(format!("memory     up to {} on the device", BinaryBytes(estimate.total())));

        let memory = self.setup.upload(device, &model, self.state.seed, true)?;
        // Taken, since the checkpoint's files are no longer needed and may be removed.
        let changes = std::mem::take(&mut self.setup.changes);
        let changed = changes.into_iter().flat_map(|w| w.tensors.into_keys()).filter(|name| !is_adapter(name)).collect();
        let compiling = bar.compiling(device);
        let mut trainer = Trainer::new(device, &model, &memory, self.options)?;
        let others = [
            (!self.options.checkpointing).then_some("--gradient-checkpointing true"),
            (!self.common.half()).then_some("--precision f16"),
            Some("a shorter --max-length"),
        ];
        let smaller = || smaller_step(rows, self.grad_accumulation as u64, estimate.micro_batch, &others);
        trainer.prepare(rows, length).map_err(|error| error.advised(smaller))?;
        compiling.over();
        if let Some(moments) = self.moments.take() {
            trainer.restore(&self.state.trainer, &moments)?;
        }
        let earlier = self.resumed.filter(|&step| step == self.state.trainer.step).map(|step| self.checkpoints.path(step));
        // Checkpoints without this file are older and may have their tensors in another order.
        let earlier = earlier.filter(|path| path.join(MADE_ON).exists());
        let mut phase = Phase { model: &model, memory: &memory, trainer, changed, earlier };
        if progress.is_none() {
            begin()?;
            *progress = Some(match self.resumed {
                Some(_) => Progress::resumed(bar, self.out, self.steps, self.log_every, &self.state)?,
                None => Progress::new(bar, self.out, self.steps, self.log_every)?,
            });
            progress.iter_mut().for_each(|progress| progress.keep(&self.warnings));
            if self.resumed.is_none() {
                self.state.start = adapter_fingerprint(&phase.saved(self)?);
            }
        }
        let progress = progress.as_mut().expect("it was made");
        self.steps_of(&mut phase, full, progress)?;

        if full {
            let weights = model.download(device, &memory, |_| true)?;
            let base = [&self.setup.base.weights, &weights];
            let (adapters, head) = (self.setup.adapters(Some(&self.adapters)), self.setup.head.as_ref());
            let next = Model::with_head(&self.config, &base, adapters, head, self.trains)?;
            self.moments = Some(phase.trainer.moments(|name| next.trains(name))?);
            self.state.trainer = phase.trainer.state()?;
            self.setup.changes = vec![weights];
            return Ok(None);
        }
        let bytes = memory.bytes() + phase.trainer.bytes();
        Ok(Some((phase.saved(self)?, [total, trainable, bytes], parts)))
    }

    /// Runs the steps of a phase. Evaluations and checkpoints that are due come before each step and after the last.
    fn steps_of(&mut self, phase: &mut Phase, full: bool, progress: &mut Progress) -> Result<()> {
        let mut evaluator = Evaluator::new(self.device, phase.model, phase.memory);
        let mut done = self.state.trainer.step;
        let (mut saved, mut saved_at) = (self.resumed, Instant::now());
        loop {
            // The next phase does what is due now.
            if full && done == self.full_steps {
                return phase.drain(progress);
            }
            let over = done == self.steps;
            let stop = interrupt::asked() && !over;
            let mut improved = false;
            if let Some(valid) = self.valid.as_ref().filter(|_| !stop && self.evaluation_is_due(done)) {
                phase.drain(progress)?;
                progress.evaluates();
                let evaluation = evaluator.evaluate(valid)?;
                let loss = evaluation.loss;
                progress.evaluated(done, evaluation)?;
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
                self.keep_best(done, progress);
                self.save(phase, progress)?;
                (saved, saved_at) = (Some(done), Instant::now());
            }
            if stop {
                return Err(Error::Interrupted { step: done, checkpoint: self.checkpoints.path(done) });
            }
            if over {
                return Ok(());
            }
            let accumulated: Vec<_> = self.batches.by_ref().take(self.grad_accumulation).collect();
            progress.started(&self.batches, &accumulated);
            let report = phase.trainer.step(&accumulated)?;
            report.map_or(Ok(()), |report| progress.finished(&report, phase.bytes()))?;
            done += 1;
        }
    }

    /// Whether to evaluate after `done` steps: at the beginning, every `eval_every` steps, and at the end, but only once per step.
    fn evaluation_is_due(&self, done: u64) -> bool {
        let every = self.eval_every.is_some_and(|every| done.is_multiple_of(every));
        (done == 0 || done == self.steps || every) && self.state.evaluated != Some(done)
    }

    /// Without validation data, tracks the best checkpoint as the one up to which the mean loss was lowest.
    fn keep_best(&mut self, done: u64, progress: &mut Progress) {
        let good = progress.saved(done).filter(|_| self.valid.is_none());
        if let Some(good) = good.filter(|good| self.state.best.is_none_or(|best| good.loss < best.loss)) {
            self.state.best = Some(good);
        }
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
    /// Waits for the steps in flight.
    fn drain(&mut self, progress: &mut Progress) -> Result<()> {
        while let Some(report) = self.trainer.finish()? {
            progress.finished(&report, self.bytes())?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.memory.bytes() + self.trainer.bytes()
    }

    /// All that differs from the base's files, ready to be saved.
    fn saved(&self, run: &Run) -> Result<SavedAdapter> {
        let wanted = |name: &str| self.model.trains(name) || self.changed.contains(name);
        let weights = self.model.download(run.device, self.memory, wanted)?;
        SavedAdapter::of(self.model, &weights, run.adapter_name, &run.setup.identity)
    }
}

/// The total size in bytes of all files below a directory, each counted once.
fn bytes_on_disk(directory: &Path) -> u64 {
    let mut seen = BTreeSet::new();
    let (mut bytes, mut directories) = (0, vec![directory.to_path_buf()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if is_new(&metadata, &mut seen) {
                bytes += metadata.len();
            }
        }
    }
    bytes
}

/// Whether a file has not been seen under another name: checkpoints share files through hard links.
#[cfg(unix)]
fn is_new(file: &std::fs::Metadata, seen: &mut BTreeSet<(u64, u64)>) -> bool {
    use std::os::unix::fs::MetadataExt;
    seen.insert((file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn is_new(_: &std::fs::Metadata, _: &mut BTreeSet<(u64, u64)>) -> bool {
    true
}

/// A fingerprint of the adapter and of a head for labels.
fn adapter_fingerprint(saved: &SavedAdapter) -> String {
    let head = saved.label_head.iter().flat_map(|(_, tensors)| tensors.tensors.values());
    let bytes: Vec<_> = saved.weights.tensors.values().chain(head).map(|weight| weight.bytes()).collect();
    fingerprint(bytes.iter().map(|bytes| &bytes[..]))
}
