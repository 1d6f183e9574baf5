//! Shared by the peers in Rust: their options, and the lines of JSON that run.py reads.

use std::time::Instant;

use serde_json::{Value, json};

/// `COMMAND [--name number]…`
pub struct Options {
    pub command: String,
    numbers: Vec<(String, usize)>,
}

impl Options {
    pub fn parse() -> Self {
        let mut words = std::env::args().skip(1);
        let command = words.next().unwrap_or_default();
        let mut numbers = Vec::new();
        while let Some(name) = words.next() {
            let number = words.next().and_then(|word| word.parse().ok());
            let number = number.unwrap_or_else(|| panic!("{name} needs a number"));
            numbers.push((name, number));
        }
        Self { command, numbers }
    }

    pub fn get(&self, name: &str, default: usize) -> usize {
        self.numbers.iter().rev().find(|(other, _)| other == name).map_or(default, |&(_, number)| number)
    }
}

/// Arbitrary tokens, the same as those of `graftling bench`.
pub fn tokens(count: usize, vocabulary: u32) -> Vec<u32> {
    (0..count as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocabulary).collect()
}

/// Runs `step` `--warm-up` times unmeasured, then `--steps` times measured. `step` makes one optimizer step, waits until the device has
/// finished and returns the loss. Prints a line per step, and another after the first with the seconds since `started`; returns the figures.
pub fn measure(options: &Options, started: Instant, tokens: usize, mut step: impl FnMut() -> f32) -> Value {
    let (warm_up, steps) = (options.get("--warm-up", 3), options.get("--steps", 5));
    assert!(steps > 0, "--steps must be at least 1");
    let (mut first, mut times) = (0.0, Vec::new());
    for index in 0..warm_up + steps {
        let begun = Instant::now();
        let loss = step();
        let seconds = begun.elapsed().as_secs_f64();
        if index == 0 {
            first = started.elapsed().as_secs_f64();
            println!("{}", json!({ "first_step_seconds": first }));
        }
        println!("{}", json!({ "step": index + 1, "seconds": seconds, "loss": loss }));
        if index >= warm_up {
            times.push(seconds);
        }
    }
    times.sort_by(f64::total_cmp);
    json!({
        "first_step_seconds": first,
        "tokens_per_second": tokens as f64 / times[times.len() / 2],
        "best_tokens_per_second": tokens as f64 / times[0],
        "peak_bytes": peak_bytes(),
    })
}

/// The peak resident memory of the process, on Linux.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
