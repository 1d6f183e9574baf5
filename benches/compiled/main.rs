//! What GPU compilers make of the kernels of a training step, without a GPU: `scripts/gpu-drivers setup`, then
//! `cargo bench --bench compiled`.
//!
//! For each GPU, the bench runs itself on the drivers of `scripts/gpu-drivers`, compiles every kernel as wgpu does, and prints registers,
//! spills, waves that fit a SIMD (at most 16 on RDNA, 10 on GCN) or an SM (NVIDIA), instructions, workgroup memory and the share of
//! multiply-adds in the busiest innermost loop. Then it counts the dispatches of a step of SmolLM2 and, with `--host`, times what the host
//! does for one. `--check` fails if a kernel spills or, with the drivers that wrote the table, differs from `benches/compiled/table.tsv` by
//! more than 5 %; `--bless` writes that file.

mod code;
mod host;
mod kernels;
mod vulkan;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use graftling::graph::Traits;
use kernels::Form;
use serde::{Deserialize, Serialize};

/// NVIDIA's Turing, Ampere and Ada; AMD's GCN, RDNA2, RDNA3 and RDNA4.
const GPUS: [&str; 7] = ["nvidia:164", "nvidia:174", "nvidia:194", "amd:vega10", "amd:navi21", "amd:navi31", "amd:gfx1201"];
/// The start of the table's first line, before the version of the drivers that it is from.
const DRIVERS: &str = "# ";
/// The relative difference from the table that `--check` allows.
const TOLERANCE: f64 = 0.05;

#[derive(Parser)]
struct Options {
    /// A GPU, by its name in scripts/gpu-drivers; by default, all seven
    #[arg(long)]
    gpu: Vec<String>,
    /// Only kernels whose names contain this
    #[arg(long, default_value = "")]
    only: String,
    /// Only heads of this size
    #[arg(long)]
    head_size: Option<u32>,
    /// Also prints the machine code, on standard error
    #[arg(long)]
    code: bool,
    /// Also times the host's part of a step on each driver
    #[arg(long)]
    host: bool,
    /// Fails if a kernel spills or differs from the table
    #[arg(long)]
    check: bool,
    /// Writes the table
    #[arg(long)]
    bless: bool,
    /// Compiles on this process's driver and prints a line of JSON for each kernel
    #[arg(long, hide = true)]
    child: bool,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a compiler made of a kernel.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    gpu: String,
    /// The driver's version.
    driver: String,
    kernel: String,
    registers: u64,
    /// Registers (AMD) or stores (NVIDIA).
    spills: u64,
    /// Waves that fit a SIMD, or warps that fit an SM.
    waves: u64,
    instructions: u64,
    workgroup_memory: u64,
    /// In hundredths.
    multiply_adds: u64,
    milliseconds: u64,
}

/// The host's part of a step.
#[derive(Serialize, Deserialize)]
struct Host {
    milliseconds: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.child {
        return child(&options);
    }
    let gpus = if options.gpu.is_empty() { GPUS.map(String::from).to_vec() } else { options.gpu.clone() };
    let mut rows = Vec::new();
    for gpu in &gpus {
        let Some((found, host)) = compiled_for(gpu, &options) else { return ExitCode::FAILURE };
        print(gpu, &found);
        host.iter().for_each(|Host { milliseconds }| println!("{milliseconds:.2} ms of the host's time for a step of SmolLM2"));
        rows.extend(found);
    }
    let counts = kernels::counts(&kernels::SMOLLM2, &Traits::desktop());
    let all: usize = counts.iter().map(|(_, count)| count).sum();
    println!("a step of SmolLM2 with double_seq_bn on 1 × 128 tokens: {all} dispatches");
    counts.iter().for_each(|(kernel, count)| println!("{count:>9}  {kernel}"));
    if options.bless {
        let drivers = rows.first().map_or_else(String::new, |row| format!("{DRIVERS}{}\n", row.driver));
        std::fs::write(table(), drivers + &rows.iter().map(line).collect::<String>()).expect("the table is written");
    }
    let problems = if options.check { problems(&rows) } else { Vec::new() };
    problems.iter().for_each(|problem| println!("{problem}"));
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn table() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compiled/table.tsv").into()
}

/// Runs this program on a GPU's driver, for the kernels and, with `--host`, the host's time. If that fails, prints a line on standard error
/// and returns `None`.
fn compiled_for(gpu: &str, options: &Options) -> Option<(Vec<Row>, Option<Host>)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/gpu-drivers");
    let mut child = Command::new(script)
        .arg(gpu)
        .arg(std::env::current_exe().expect("a path"))
        .args(["--child", "--only", &options.only])
        .args(options.head_size.map(|size| format!("--head-size={size}")))
        .args([("--code", options.code), ("--host", options.host)].iter().filter(|(_, given)| *given).map(|(flag, _)| flag))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the script starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let (mut rows, mut host) = (Vec::new(), None);
    for line in lines {
        rows.extend(serde_json::from_str(&line).ok().map(|row| Row { gpu: gpu.into(), ..row }));
        host = host.or_else(|| serde_json::from_str(&line).ok());
    }
    if child.wait().is_ok_and(|status| status.success()) {
        return Some((rows, host));
    }
    eprintln!("compiling for {gpu} failed");
    None
}

fn child(options: &Options) -> ExitCode {
    let driver = vulkan::Driver::open().expect("a driver");
    let traits = Traits { half: true, matrix: driver.matrix, ..Traits::desktop() };
    let mut seen = std::collections::HashSet::new();
    for head_size in [64, 128, 256].into_iter().filter(|&size| options.head_size.is_none_or(|wanted| wanted == size)) {
        for half in [false, true] {
            for named in kernels::distinct(&Form { head_size, half, layers: 3, batch: [4, 256] }, &traits) {
                if !named.name.contains(&options.only) || !seen.insert(named.kernel.clone()) {
                    continue;
                }
                let compiled = driver.compile(&named.kernel).unwrap_or_else(|e| panic!("{} on {}: {e}", named.name, driver.name));
                if options.code {
                    eprintln!("{}\n{}", named.name, compiled.code);
                }
                println!("{}", serde_json::to_string(&row(&named.name, &compiled, &driver)).expect("a row serialises"));
            }
        }
    }
    if options.host {
        let milliseconds = host::milliseconds().expect("a device");
        println!("{}", serde_json::to_string(&Host { milliseconds }).expect("a number serialises"));
    }
    ExitCode::SUCCESS
}

/// A row of the table, from either driver's statistics.
fn row(kernel: &str, compiled: &vulkan::Compiled, driver: &vulkan::Driver) -> Row {
    let of = |names: &[&str]| names.iter().filter_map(|name| compiled.statistics.get(*name)).sum();
    Row {
        gpu: String::new(),
        driver: driver.version.clone(),
        kernel: kernel.into(),
        registers: of(&["VGPRs", "Number of GPRs"]),
        spills: of(&["Spilled VGPRs", "Spills to memory"]),
        waves: of(&["Subgroups per SIMD", "Max warps/SM"]),
        instructions: of(&["Instructions", "Instruction count"]),
        workgroup_memory: of(&["LDS size"]),
        multiply_adds: code::useful_share(&compiled.code).map_or(0, |share| (100.0 * share).round() as u64),
        milliseconds: (1e3 * compiled.seconds).round() as u64,
    }
}

fn print(gpu: &str, rows: &[Row]) {
    println!("{gpu}: {} kernels, compiled in {:.1} s", rows.len(), rows.iter().map(|row| row.milliseconds).sum::<u64>() as f64 / 1e3);
    println!("{:>9} {:>6} {:>5} {:>12} {:>6} {:>5}  kernel", "registers", "spills", "waves", "instructions", "memory", "FMA %");
    for row in rows {
        let Row { kernel, registers, spills, waves, instructions, workgroup_memory, multiply_adds, .. } = row;
        println!("{registers:>9} {spills:>6} {waves:>5} {instructions:>12} {workgroup_memory:>6} {multiply_adds:>5}  {kernel}");
    }
}

fn line(row: &Row) -> String {
    let Row { gpu, kernel, registers, spills, waves, instructions, workgroup_memory, multiply_adds, .. } = row;
    format!("{gpu}\t{kernel}\t{registers}\t{spills}\t{waves}\t{instructions}\t{workgroup_memory}\t{multiply_adds}\n")
}

/// Kernels that spill or, with the drivers that the table is from, differ from it.
fn problems(rows: &[Row]) -> Vec<String> {
    let text = std::fs::read_to_string(table()).unwrap_or_default();
    let known: BTreeMap<(&str, &str), Vec<u64>> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('\t');
            Some(((cells.next()?, cells.next()?), cells.filter_map(|cell| cell.parse().ok()).collect()))
        })
        .collect();
    let drivers = text.lines().next().and_then(|line| line.strip_prefix(DRIVERS)).unwrap_or_default();
    if let Some(row) = rows.iter().find(|row| row.driver != drivers) {
        println!("the table is from {drivers}, so with {} only spills are checked", row.driver);
    }
    let advice = "find the cause, or accept it with cargo bench --bench compiled -- --bless";
    let mut problems = Vec::new();
    for row in rows {
        let name = format!("{} on {}", row.kernel, row.gpu);
        if row.spills > 0 {
            problems.push(format!("{name} spills {}", row.spills));
        }
        if row.driver != drivers {
            continue;
        }
        let now = [row.registers, row.spills, row.waves, row.instructions, row.workgroup_memory, row.multiply_adds];
        match known.get(&(row.gpu.as_str(), row.kernel.as_str())) {
            None => problems.push(format!("{name} is not in the table; {advice}")),
            Some(then) => {
                let far = |(now, then): (&u64, &u64)| now.abs_diff(*then) as f64 > TOLERANCE * (*then).max(20) as f64;
                if now.iter().zip(then).any(far) {
                    problems.push(format!("{name} has {now:?}, but the table has {then:?}; {advice}"));
                }
            }
        }
    }
    problems
}
