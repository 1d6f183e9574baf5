//! The command line and what all sub-commands share. Standard output is for results, standard error for progress.

mod adapters;
mod bar;
mod bench;
mod completions;
mod devices;
mod doctor;
mod embed;
mod eval;
mod export;
mod generate;
mod inspect;
mod interrupt;
mod lock;
mod merge;
mod options;
mod pace;
mod predict;
mod pretrain;
mod progress;
mod resume;
mod run;
mod setup;
mod train;

use std::any::TypeId;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use graftling::weights::Weights;
use serde_json::{Value, json};

/// Fine-tunes language models with bottleneck adapters and LoRA on the GPU that you have.
#[derive(Parser)]
#[command(name = "graftling", version, arg_required_else_help = true, max_term_width = 110)]
#[command(after_help = "Exit codes:
  0    success
  1    runtime failure
  2    wrong usage
  3    bad or missing file
  4    no usable device, or a device limit exceeded
  5    device lost or out of memory
  6    training diverged
  130  interrupted; train has saved a checkpoint")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// The options of every sub-command.
#[derive(Args)]
pub struct Common {
    /// The device, by its number or part of its name [default: the best one]
    #[arg(long, value_name = "N|NAME", global = true, help_heading = "Global options")]
    pub device: Option<String>,
    /// Print the result as one JSON object, the last line of standard output; errors too, as {"error", "exit_code"}
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// No progress on standard error
    #[arg(long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// f16 stores f32 and bf16 matrices, and activations, as f16; sums and the residual stream are f32 either way
    #[arg(long, value_name = "PRECISION", default_value = "f32", global = true, help_heading = "Global options")]
    precision: Precision,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Precision {
    F32,
    F16,
}

#[derive(Subcommand)]
enum Command {
    Devices(devices::Devices),
    Doctor(doctor::Doctor),
    Inspect(inspect::Inspect),
    Pretrain(Box<pretrain::Pretrain>),
    Train(Box<train::Train>),
    Eval(eval::Eval),
    Generate(generate::Generate),
    Embed(embed::Embed),
    Predict(predict::Predict),
    Export(export::Export),
    Merge(merge::Merge),
    Adapters(adapters::Adapters),
    Bench(bench::Bench),
    Completions(completions::Completions),
}

/// Runs the command, reports an error if there is one, and returns the exit code.
pub fn main() -> ExitCode {
    let line: Vec<_> = std::env::args_os().collect();
    let (Cli { common, command }, _) = parse(&line);
    let result = match &command {
        Command::Devices(devices) => devices.run(&common),
        Command::Doctor(doctor) => doctor.run(&common),
        Command::Inspect(inspect) => inspect.run(&common),
        Command::Pretrain(pretrain) => pretrain.run(&common),
        Command::Train(train) => train.run(),
        Command::Eval(eval) => eval.run(&common),
        Command::Adapters(adapters) => adapters.run(&common),
        Command::Export(export) => export.run(&common),
        Command::Merge(merge) => merge.run(&common),
        Command::Bench(bench) => bench.run(&common),
        Command::Generate(generate) => generate.run(&common),
        Command::Embed(embed) => embed.run(&common),
        Command::Predict(predict) => predict.run(&common),
        Command::Completions(completions) => completions.run(&common),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error}"));
            if common.json {
                print(failure(&error.to_string(), error.exit_code().into()));
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// The command line as clap parses it.
fn command_line() -> clap::Command {
    let number = |arg: &clap::Arg| NUMBERS.iter().any(|number| arg.get_value_parser().type_id() == *number);
    // So that -1 is reported as a number out of range and not as an unknown flag.
    let negative = move |arg: clap::Arg| if number(&arg) { arg.allow_negative_numbers(true) } else { arg };
    Cli::command().mut_subcommands(move |command| command.mut_args(negative))
}

/// The types of options that are numbers.
const NUMBERS: [TypeId; 5] = [TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>(), TypeId::of::<f32>(), TypeId::of::<f64>()];

/// Parses a command line to the command and its raw matches. Ends the process if the line is invalid or asks for help.
fn parse(line: &[OsString]) -> (Cli, ArgMatches) {
    let parsed = command_line().try_get_matches_from(line).and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    parsed.unwrap_or_else(|e| {
        let e = match e.kind() {
            kind @ ErrorKind::ValueValidation => clap::Error::raw(kind, format!("{}\n", complaint(&e))),
            _ => e,
        };
        drop(e.print());
        if e.use_stderr() && line.iter().any(|argument| argument == "--json") {
            print(failure(&complaint(&e), e.exit_code()));
        }
        std::process::exit(e.exit_code())
    })
}

/// Clap's complaint, in one line.
fn complaint(e: &clap::Error) -> String {
    if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "there is no command; graftling --help lists them".into();
    }
    let text = e.to_string();
    let paragraphs = text.trim_start_matches("error: ").split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let said = paragraphs.filter(|part| !part.is_empty() && !part.starts_with("Usage:") && !part.starts_with("For more information"));
    // Replaces the message of Rust's own parser about -1 or 1.5.
    said.collect::<Vec<_>>().join("; ").replace("invalid digit found in string", "it must be a whole number from 0 up")
}

/// An error as `--json` prints it.
fn failure(error: &str, exit_code: i32) -> Value {
    json!({ "error": error, "exit_code": exit_code })
}

impl Common {
    /// Whether `--precision f16` was given.
    pub fn half(&self) -> bool {
        self.precision == Precision::F16
    }

    /// A base's weights in the requested precision.
    pub fn in_precision(&self, weights: Weights) -> Weights {
        if self.half() { weights.halved() } else { weights }
    }

    /// Prints a line of progress, unless `--quiet` was given.
    pub fn note(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            drop(writeln!(std::io::stderr(), "{line}"));
        }
    }

    /// Prints a warning, even with `--quiet`.
    pub fn warn(&self, line: impl std::fmt::Display) {
        drop(writeln!(std::io::stderr(), "warning: {line}"));
    }

    /// Prints the result: `text`, or with `--json` the JSON object.
    pub fn result(&self, text: impl std::fmt::Display, json: Value) {
        if self.json { print(json) } else { print(text) }
    }
}

/// Prints a line to standard output. A closed pipe is not an error.
pub fn print(line: impl std::fmt::Display) {
    drop(writeln!(std::io::stdout(), "{line}"));
}
