//! What a run tells while it trains: a bar or lines on standard error, and `metrics.jsonl`.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use graftling::files::replace_file;
use graftling::train::{Report, RunState};
use graftling::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::Common;

/// The progress of one run.
pub struct Progress<'a> {
    common: &'a Common,
    bar: ProgressBar,
    path: PathBuf,
    metrics: File,
    log_every: u64,
    steps: u64,
    /// The epoch and the tokens of each step that is under way.
    under_way: VecDeque<(f64, u64)>,
    tokens: u64,
    begin: Option<Instant>,
    /// Seconds of training before this process.
    seconds_before: f64,
    summary: Summary,
}

/// What a run comes to.
#[derive(Clone, Copy, Default)]
pub struct Summary {
    /// The loss of the first step.
    pub first: f32,
    /// The loss of the last step.
    pub last: f32,
    /// The last validation loss.
    pub evaluated: Option<f64>,
    /// Without padding.
    pub tokens_per_second: f64,
    /// Steps that were left out since their gradient was not finite.
    pub skipped: u32,
}

impl<'a> Progress<'a> {
    /// A run from its beginning. Makes its directory, and `metrics.jsonl` anew.
    pub fn new(common: &'a Common, run: &Path, steps: u64, log_every: u64) -> Result<Progress<'a>> {
        let path = run.join("metrics.jsonl");
        std::fs::create_dir_all(run).map_err(|e| Error::write(run, e))?;
        let metrics = File::create(&path).map_err(|e| Error::write(&path, e))?;
        Ok(Progress::onto(metrics, path, common, steps, log_every))
    }

    fn onto(metrics: File, path: PathBuf, common: &'a Common, steps: u64, log_every: u64) -> Progress<'a> {
        let style = "{bar:24} step {pos}/{len}  {msg}  {elapsed} gone, {eta} to go";
        let style = ProgressStyle::with_template(style).expect("a template that is constant");
        let bar = if common.quiet { ProgressBar::hidden() } else { ProgressBar::new(steps).with_style(style) };
        Progress {
            common,
            bar,
            path,
            metrics,
            log_every,
            steps,
            under_way: VecDeque::new(),
            tokens: 0,
            begin: None,
            seconds_before: 0.0,
            summary: Summary::default(),
        }
    }

    /// A run that goes on. Lines of `metrics.jsonl` about later steps go, which will be taken again.
    pub fn resumed(common: &'a Common, run: &Path, steps: u64, log_every: u64, state: &RunState) -> Result<Progress<'a>> {
        let path = run.join("metrics.jsonl");
        let text = std::fs::read(&path).unwrap_or_default();
        let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["step"].as_u64();
        let text = String::from_utf8_lossy(&text);
        let kept: String = text.split_inclusive('\n').filter(|line| step(line).is_some_and(|s| s <= state.trainer.step)).collect();
        replace_file(&path, kept.as_bytes())?;
        let metrics = OpenOptions::new().append(true).open(&path).map_err(|e| Error::write(&path, e))?;
        let mut progress = Progress::onto(metrics, path, common, steps, log_every);
        progress.bar.set_position(state.trainer.step);
        progress.bar.reset_eta();
        progress.tokens = state.tokens;
        progress.seconds_before = state.seconds;
        progress.summary = Summary {
            first: state.first_loss.unwrap_or(f32::NAN),
            last: state.last_loss.unwrap_or(f32::NAN),
            evaluated: state.eval_loss,
            tokens_per_second: state.tokens as f64 / state.seconds.max(1e-9),
            skipped: state.trainer.skipped,
        };
        Ok(progress)
    }

    /// Puts into a checkpoint's state what there is to say about the run so far, and `metrics.jsonl` safely on disk.
    pub fn remember(&self, state: &mut RunState) -> Result<()> {
        let finite = |loss: f32| Some(loss).filter(|loss| loss.is_finite());
        state.tokens = self.tokens;
        state.seconds = self.seconds();
        state.first_loss = finite(self.summary.first);
        state.last_loss = finite(self.summary.last);
        state.eval_loss = self.summary.evaluated.filter(|loss| loss.is_finite());
        self.metrics.sync_data().map_err(|e| Error::write(&self.path, e))
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.begin.map_or(0.0, |begin| begin.elapsed().as_secs_f64())
    }

    /// A step has begun that takes the run to `epoch` and has so many tokens.
    pub fn started(&mut self, epoch: f64, tokens: u64) {
        self.begin.get_or_insert_with(Instant::now);
        self.under_way.push_back((epoch, tokens));
    }

    /// A step is over.
    pub fn finished(&mut self, report: &Report, gpu_bytes: u64) -> Result<()> {
        let (epoch, tokens) = self.under_way.pop_front().expect("a report for each step");
        self.tokens = self.tokens.saturating_add(tokens);
        let speed = self.tokens as f64 / self.seconds().max(1e-9);
        let step = report.step + 1;
        if step == 1 {
            self.summary.first = report.loss;
        }
        self.summary.last = report.loss;
        self.summary.tokens_per_second = speed;
        self.summary.skipped = report.skipped_so_far;
        self.bar.inc(1);
        if step.is_multiple_of(self.log_every) || step == self.steps {
            let evaluated = self.summary.evaluated.map_or(String::new(), |loss| format!("  validation {loss:.4}"));
            let skipped = if report.skipped { "  left out, since its gradient is not finite" } else { "" };
            let rate = report.learning_rate;
            let message = format!("loss {:.4}{evaluated}  learning rate {rate:.1e}  {speed:.0} tokens/s{skipped}", report.loss);
            if self.bar.is_hidden() {
                self.common.note(format!("step {step}/{}  {message}", self.steps));
            }
            self.bar.set_message(message);
            self.write(&json!({
                "step": step, "epoch": epoch, "loss": report.loss, "learning_rate": report.learning_rate, "grad_norm": report.gradient_norm,
                "tokens": self.tokens, "tokens_per_second": speed, "gpu_bytes": gpu_bytes,
            }))?;
        }
        Ok(())
    }

    /// The validation loss after `step` steps.
    pub fn evaluated(&mut self, step: u64, loss: f64) -> Result<()> {
        self.summary.evaluated = Some(loss);
        let line = format!("step {step}/{}  validation loss {loss:.4}  perplexity {:.3}", self.steps, loss.exp());
        if self.bar.is_hidden() {
            self.common.note(line);
        } else {
            self.bar.println(line);
        }
        self.write(&json!({ "step": step, "eval_loss": loss, "eval_perplexity": loss.exp() }))
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    pub fn summary(&self) -> Summary {
        self.clear();
        self.summary
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<()> {
        // In one piece, so that no line is there by half unless the disk is full.
        let line = format!("{line}\n");
        self.metrics.write_all(line.as_bytes()).map_err(|e| Error::write(&self.path, e))
    }
}
