//! What a run reports while it trains: a bar or lines on standard error, warnings, and `metrics.jsonl`.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use graftling::files::replace_file;
use graftling::text::{Batch, Batches};
use graftling::train::{Best, Evaluation, Health, Report, RunState};
use graftling::{Error, Result};
use serde_json::{Value, json};

use super::bar::Bar;
use super::pace::{Pace, spoken};

/// Without `--log-every` and without a terminal, a line is printed whenever one part in this many of a run, or this much time, has
/// passed.
const SHARE_OF_LINE: u64 = 20;
const TIME_OF_LINE: Duration = Duration::from_secs(30);

/// The progress of one run.
pub struct Progress<'a> {
    bar: &'a Bar<'a>,
    path: PathBuf,
    metrics: File,
    log_every: Option<u64>,
    steps: u64,
    /// The epoch and the tokens of each step in flight.
    under_way: VecDeque<(f64, u64)>,
    tokens: u64,
    begin: Option<Instant>,
    /// When the last step ended, or when the first one after a pause began.
    last: Instant,
    /// The step and time of the last line.
    line: Option<(u64, Instant)>,
    /// Seconds of training before this process.
    seconds_before: f64,
    pace: Pace,
    health: Health,
    warnings: Vec<String>,
    summary: Summary,
    evaluation: Option<Evaluation>,
}

/// The results of a run so far.
#[derive(Clone, Copy, Default)]
pub struct Summary {
    /// The loss of the first step.
    pub first: f32,
    /// The loss of the last step.
    pub last: f32,
    /// The last validation loss.
    pub evaluated: Option<f64>,
    /// Tokens per second, without padding, in steps that compile nothing.
    pub tokens_per_second: f64,
    /// The number of steps skipped because their gradient was not finite.
    pub skipped: u32,
}

impl<'a> Progress<'a> {
    /// The progress of a new run. Creates its directory and an empty `metrics.jsonl`. Every `log_every` steps add a line to it and, without
    /// a bar, to standard error.
    pub fn new(bar: &'a Bar<'a>, run: &Path, steps: u64, log_every: Option<u64>) -> Result<Progress<'a>> {
        let path = run.join("metrics.jsonl");
        std::fs::create_dir_all(run).map_err(|e| Error::write(run, e))?;
        let metrics = File::create(&path).map_err(|e| Error::write(&path, e))?;
        Ok(Progress::onto(metrics, path, bar, steps, log_every))
    }

    fn onto(metrics: File, path: PathBuf, bar: &'a Bar<'a>, steps: u64, log_every: Option<u64>) -> Progress<'a> {
        Progress {
            bar,
            path,
            metrics,
            log_every,
            steps,
            under_way: VecDeque::new(),
            tokens: 0,
            begin: None,
            last: Instant::now(),
            line: None,
            seconds_before: 0.0,
            pace: Pace::default(),
            health: Health::default(),
            warnings: Vec::new(),
            summary: Summary::default(),
            evaluation: None,
        }
    }

    /// The progress of a resumed run. Removes the lines of `metrics.jsonl` about later steps, which will be repeated, and restores the
    /// health from the others.
    pub fn resumed(bar: &'a Bar<'a>, run: &Path, steps: u64, log_every: Option<u64>, state: &RunState) -> Result<Progress<'a>> {
        let path = run.join("metrics.jsonl");
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let (mut kept, mut values) = (String::new(), Vec::new());
        for line in text.split_inclusive('\n') {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            if value["step"].as_u64().is_some_and(|step| step <= state.trainer.step) {
                kept += line;
                values.push(value);
            }
        }
        replace_file(&path, kept.as_bytes())?;
        let metrics = OpenOptions::new().append(true).open(&path).map_err(|e| Error::write(&path, e))?;
        let mut progress = Progress::onto(metrics, path, bar, steps, log_every);
        values.iter().for_each(|value| progress.recall(value));
        progress.health.saved(state.trainer.step);
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

    /// Replays a line of `metrics.jsonl` from an earlier process, whose warnings have been printed already.
    fn recall(&mut self, line: &Value) {
        if let Some(loss) = line.get("eval_loss") {
            self.health.measured(line["step"].as_u64().unwrap_or(1), loss.as_f64().unwrap_or(f64::NAN));
            return;
        }
        let number = |key: &str| line[key].as_f64().map_or(f32::NAN, |number| number as f32);
        let report = Report {
            step: line["step"].as_u64().unwrap_or(1).saturating_sub(1),
            loss: number("loss"),
            gradient_norm: number("grad_norm"),
            skipped: !number("grad_norm").is_finite(),
            loss_scale: line["loss_scale"].as_f64().map(|scale| scale as f32),
            ..Report::default()
        };
        self.warnings.extend(self.health.observe(&report).iter().map(ToString::to_string));
    }

    /// Stores the progress so far in a checkpoint's state, and syncs `metrics.jsonl` to disk.
    pub fn remember(&self, state: &mut RunState) -> Result<()> {
        let finite = |loss: f32| Some(loss).filter(|loss| loss.is_finite());
        state.tokens = self.tokens;
        state.seconds = self.seconds_before + self.begin.map_or(0.0, |begin| begin.elapsed().as_secs_f64());
        state.first_loss = finite(self.summary.first);
        state.last_loss = finite(self.summary.last);
        state.eval_loss = self.summary.evaluated.filter(|loss| loss.is_finite());
        self.metrics.sync_data().map_err(|e| Error::write(&self.path, e))
    }

    /// Starts a step over `accumulated`, after which the run is at the position of `batches`.
    pub fn started(&mut self, batches: &Batches, accumulated: &[Batch]) {
        let position = batches.position();
        let epoch = position.epoch as f64 + position.index as f64 / batches.per_epoch() as f64;
        let tokens = accumulated.iter().flat_map(|batch| &batch.lengths).map(|&length| u64::from(length)).sum();
        if self.begin.is_none() {
            self.bar.wait("the first step, in which the driver may compile too");
        }
        let now = Instant::now();
        self.begin.get_or_insert(now);
        if self.under_way.is_empty() {
            self.last = now;
        }
        self.under_way.push_back((epoch, tokens));
    }

    /// Takes the report of a finished step.
    pub fn finished(&mut self, report: &Report, gpu_bytes: u64) -> Result<()> {
        let (epoch, tokens) = self.under_way.pop_front().expect("a report for each step");
        let now = Instant::now();
        self.pace.step(now.duration_since(self.last).as_secs_f64(), tokens);
        self.last = now;
        self.tokens = self.tokens.saturating_add(tokens);
        let (step, speed) = (report.step + 1, self.pace.tokens_per_second());
        if step == 1 {
            self.summary.first = report.loss;
        }
        self.summary = Summary { last: report.loss, tokens_per_second: speed, skipped: report.skipped_so_far, ..self.summary };
        let warnings: Vec<_> = self.health.observe(report).iter().map(ToString::to_string).collect();
        self.show(report, now);
        warnings.into_iter().for_each(|warning| self.warn(warning));
        if step.is_multiple_of(self.log_every.unwrap_or(1)) || step == self.steps {
            let mut line = json!({
                "step": step, "epoch": epoch, "loss": report.loss, "learning_rate": report.learning_rate, "grad_norm": report.gradient_norm,
                "tokens": self.tokens, "tokens_per_second": speed, "gpu_bytes": gpu_bytes,
            });
            if let Some(scale) = report.loss_scale {
                line["loss_scale"] = scale.into();
            }
            self.write(&line)?;
        }
        Ok(())
    }

    fn show(&mut self, report: &Report, now: Instant) {
        let step = report.step + 1;
        if self.bar.is_hidden() && !self.line_is_due(step, now) {
            return;
        }
        let Summary { evaluated, tokens_per_second, .. } = self.summary;
        let left = self.pace.left(self.steps.saturating_sub(step)).filter(|_| step < self.steps);
        // The parts after the step. On a narrow terminal, those of the highest rank are left out first.
        let parts = [
            (1, Some(format!("loss {:.4}", report.loss))),
            (3, evaluated.map(|loss| format!("validation {loss:.4}"))),
            (5, Some(format!("learning rate {:.1e}", report.learning_rate))),
            (4, Some(format!("{tokens_per_second:.0} tokens/s"))),
            (2, left.map(|seconds| format!("{} left", spoken(seconds)))),
            (2, report.skipped.then(|| "skipped".into())),
        ];
        let mut line = vec![(0, format!("step {step}/{}", self.steps))];
        line.extend(parts.into_iter().filter_map(|(rank, part)| Some((rank, part?))));
        self.bar.show(step, &line);
        if self.bar.is_hidden() {
            self.line = Some((step, now));
            self.bar.note(line.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join("  "));
        }
    }

    fn line_is_due(&self, step: u64, now: Instant) -> bool {
        let Some((last, time)) = self.line.filter(|_| step < self.steps) else { return true };
        match self.log_every {
            Some(every) => step.is_multiple_of(every),
            None => (step - last) * SHARE_OF_LINE >= self.steps || now.duration_since(time) >= TIME_OF_LINE,
        }
    }

    /// Shows that the validation loss is being measured.
    pub fn evaluates(&self) {
        self.bar.wait("measuring the validation loss");
    }

    /// Takes the evaluation on validation data after `step` steps.
    pub fn evaluated(&mut self, step: u64, evaluation: Evaluation) -> Result<()> {
        self.summary.evaluated = Some(evaluation.loss);
        self.health.measured(step, evaluation.loss);
        self.bar.note(format!("step {step}/{}  validation {}", self.steps, evaluation.line()));
        let named = evaluation.json().into_iter().map(|(name, value)| (format!("eval_{name}"), value));
        let line = [("step".to_string(), step.into())].into_iter().chain(named).collect();
        self.evaluation = Some(evaluation);
        self.write(&Value::Object(line))
    }

    /// The last evaluation in this process.
    pub fn evaluation(&self) -> Option<&Evaluation> {
        self.evaluation.as_ref()
    }

    /// Prints a warning at once and keeps it for the result.
    pub fn warn(&mut self, warning: String) {
        self.bar.warn(&warning);
        self.warnings.push(warning);
    }

    /// Warns about what went wrong in the whole run, if anything did. `result` names what was trained and `origin` what it started from;
    /// `better` is a checkpoint that is better than the result.
    pub fn conclude(&mut self, result: &str, origin: &str, better: Option<&Path>) {
        let problems = self.health.problems().join(", ");
        if problems.is_empty() {
            return;
        }
        let verdict = match better {
            Some(better) => format!("; {} is better than the {result}", better.display()),
            None if self.health.is_worse_than_at_start() => format!("; the {result} is worse than {origin}"),
            None => String::new(),
        };
        let advice = match self.health.rise() {
            None if self.health.is_worse_than_at_start() => "fewer --steps or a lower --learning-rate",
            _ => "a lower --learning-rate, more --warmup-steps or a --clip-norm",
        };
        self.warn(format!("in this run {problems}{verdict}: use {advice}"));
    }

    /// Takes note of a checkpoint after `step` steps. Returns the previous one, if it turned out good.
    pub fn saved(&mut self, step: u64) -> Option<Best> {
        self.health.saved(step)
    }

    /// How the run is doing.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Keeps warnings that have been printed already for the result.
    pub fn keep(&mut self, warnings: &[String]) {
        self.warnings.extend_from_slice(warnings);
    }

    /// All warnings so far.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The results of the run so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    fn write(&mut self, line: &Value) -> Result<()> {
        // In a single write, so that no line is incomplete unless the disk is full.
        let line = format!("{line}\n");
        self.metrics.write_all(line.as_bytes()).map_err(|e| Error::write(&self.path, e))
    }
}
