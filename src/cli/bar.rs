//! The progress line, redrawn on standard error while a command works. It is hidden if standard error is not a terminal.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use console::Term;
use graftling::gpu::Device;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle, TermLike};

use super::{Common, interrupt};

/// The width of the bar itself, with the space after it.
const BAR: usize = 13;
/// A narrower terminal shows only words, without the bar.
const NARROW: usize = 60;

/// The progress line. It disappears when the value is dropped.
pub struct Bar<'a> {
    common: &'a Common,
    bar: ProgressBar,
    is_waiting: Cell<bool>,
}

impl<'a> Bar<'a> {
    /// Creates a line for `steps` steps.
    pub fn new(common: &'a Common, steps: u64) -> Bar<'a> {
        let terminal = Term::stderr();
        let is_hidden = common.quiet || !terminal.is_term();
        let target = if is_hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::term_like(Box::new(Narrower(terminal))) };
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_finish(ProgressFinish::AndClear);
        interrupt::speak_above(&bar);
        Bar { common, bar, is_waiting: Cell::new(false) }
    }

    /// Whether no line is shown.
    pub fn is_hidden(&self) -> bool {
        self.bar.is_hidden()
    }

    /// Shows that kernels are being compiled.
    pub fn compiling<'b>(&'b self, device: &'b Device) -> Compiling<'b> {
        if self.is_hidden() {
            self.note("kernels    are being compiled");
        }
        self.wait("compiling kernels");
        Compiling { bar: self, device, before: device.kernels(), started: Instant::now() }
    }

    /// Shows what the command is waiting for, and for how long.
    pub fn wait(&self, what: &str) {
        if self.is_hidden() {
            return;
        }
        self.bar.set_style(style("{spinner} {msg}  {elapsed}"));
        self.bar.set_message(what.to_string());
        self.bar.reset_elapsed();
        self.bar.enable_steady_tick(Duration::from_millis(100));
        self.is_waiting.set(true);
    }

    /// Shows how many steps are done, and the parts (rank, text) in the given order. On a narrow terminal, the parts of the highest ranks
    /// are left out.
    pub fn show(&self, done: u64, parts: &[(usize, String)]) {
        if self.is_hidden() {
            return;
        }
        let columns = usize::from(Narrower(Term::stderr()).width());
        if self.is_waiting.replace(false) {
            self.bar.disable_steady_tick();
            self.bar.set_style(style(if columns < NARROW { "{msg}" } else { "{bar:12} {msg}" }));
        }
        let room = if columns < NARROW { columns } else { columns - BAR };
        self.bar.set_position(done);
        self.bar.set_message(fitted(parts, room));
    }

    /// Prints a line of progress above the bar.
    pub fn note(&self, line: impl std::fmt::Display) {
        self.bar.suspend(|| self.common.note(line));
    }

    /// Prints a warning above the bar.
    pub fn warn(&self, line: impl std::fmt::Display) {
        self.bar.suspend(|| self.common.warn(line));
    }

    /// Removes the line for good.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// A compilation of kernels that is under way.
pub struct Compiling<'a> {
    bar: &'a Bar<'a>,
    device: &'a Device,
    before: usize,
    started: Instant,
}

impl Compiling<'_> {
    /// Ends the compilation and prints how many kernels it compiled in how many seconds.
    pub fn over(self) {
        let (count, seconds) = (self.device.kernels() - self.before, self.started.elapsed().as_secs_f64());
        self.bar.note(format!("kernels    {count} compiled in {seconds:.1} s"));
    }
}

/// A terminal that claims to be a few columns narrower. Lines are padded to its full width, where the terminal's echo of `^C` would wrap.
#[derive(Debug)]
struct Narrower(Term);

impl TermLike for Narrower {
    fn width(&self) -> u16 {
        self.0.size().1.saturating_sub(3).max(1)
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.0.move_cursor_up(lines)
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.0.move_cursor_down(lines)
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.0.move_cursor_right(columns)
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.0.move_cursor_left(columns)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template that is constant")
}

/// The parts of the lowest ranks that fit into `room` columns together. Rank 0 is always kept, cut to fit.
fn fitted(parts: &[(usize, String)], room: usize) -> String {
    let most = parts.iter().map(|&(rank, _)| rank).max().unwrap_or(0);
    let lines = (0..=most).rev().map(|most| {
        let kept: Vec<_> = parts.iter().filter(|&&(rank, _)| rank <= most).map(|(_, text)| text.as_str()).collect();
        kept.join("  ")
    });
    let lines: Vec<_> = lines.collect();
    let fitting = lines.iter().find(|line| line.chars().count() <= room).or(lines.last()).map_or("", String::as_str);
    fitting.chars().take(room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_goes_first() {
        let parts = [(0, "step 7/9"), (1, "loss 2.0"), (3, "100 tokens/s"), (2, "5 s left")].map(|(rank, text)| (rank, text.to_string()));
        assert_eq!(fitted(&parts, 80), "step 7/9  loss 2.0  100 tokens/s  5 s left");
        assert_eq!(fitted(&parts, 42), "step 7/9  loss 2.0  100 tokens/s  5 s left");
        assert_eq!(fitted(&parts, 41), "step 7/9  loss 2.0  5 s left");
        assert_eq!(fitted(&parts, 20), "step 7/9  loss 2.0");
        assert_eq!((fitted(&parts, 10), fitted(&parts, 4)), ("step 7/9".into(), "step".into()));
        assert_eq!(fitted(&[], 10), "");
    }
}
