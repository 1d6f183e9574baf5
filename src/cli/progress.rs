//! What a run tells while it trains: a bar or lines on standard error, and `metrics.jsonl`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use graftling::train::Report;
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
}

impl<'a> Progress<'a> {
    pub fn new(common: &'a Common, run: &Path, steps: u64, log_every: u64) -> Result<Progress<'a>> {
        let path = run.join("metrics.jsonl");
        std::fs::create_dir_all(run).map_err(|e| Error::write(run, e))?;
        let metrics = File::create(&path).map_err(|e| Error::write(&path, e))?;
        let style = "{bar:24} step {pos}/{len}  {msg}  {elapsed} gone, {eta} to go";
        let style = ProgressStyle::with_template(style).expect("a template that is constant");
        let bar = if common.quiet { ProgressBar::hidden() } else { ProgressBar::new(steps).with_style(style) };
        Ok(Progress {
            common,
            bar,
            path,
            metrics,
            log_every,
            steps,
            under_way: VecDeque::new(),
            tokens: 0,
            begin: None,
            summary: Summary::default(),
        })
    }

    /// A step has begun that takes the run to `epoch` and has so many tokens.
    pub fn started(&mut self, epoch: f64, tokens: u64) {
        self.begin.get_or_insert_with(Instant::now);
        self.under_way.push_back((epoch, tokens));
    }

    /// A step is over.
    pub fn finished(&mut self, report: &Report, gpu_bytes: u64) -> Result<()> {
        let (epoch, tokens) = self.under_way.pop_front().expect("a report for each step");
        self.tokens += tokens;
        let seconds = self.begin.map_or(0.0, |begin| begin.elapsed().as_secs_f64());
        let speed = self.tokens as f64 / seconds.max(1e-9);
        let step = report.step + 1;
        if step == 1 {
            self.summary.first = report.loss;
        }
        self.summary.last = report.loss;
        self.summary.tokens_per_second = speed;
        self.bar.inc(1);
        if step.is_multiple_of(self.log_every) || step == self.steps {
            let evaluated = self.summary.evaluated.map_or(String::new(), |loss| format!("  validation {loss:.4}"));
            let message = format!("loss {:.4}{evaluated}  {speed:.0} tokens/s", report.loss);
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

    pub fn summary(&self) -> Summary {
        self.bar.finish_and_clear();
        self.summary
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<()> {
        writeln!(self.metrics, "{line}").map_err(|e| Error::write(&self.path, e))
    }
}
