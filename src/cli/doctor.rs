//! `graftling doctor`: whether the device computes correctly.

use std::io::IsTerminal;

use clap::Args;
use graftling::doctor::{Finding, examine, families};
use graftling::gpu::DeviceInfo;
use graftling::words::count;
use graftling::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::Common;
use super::setup::open_device;

/// Checks every kernel that this device uses against a CPU reference, gradients too
#[derive(Args)]
#[command(
    after_help = "Examples:\n  graftling doctor\n  graftling doctor --device 1 --only adapter\n  graftling doctor --precision f16\n\nThe exit code is 0 if everything is right and 1 if \
                  something is wrong."
)]
pub struct Doctor {
    /// Check only the kernel families with WORD in their name, such as matmul or q4_k
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
}

impl Doctor {
    pub fn run(&self, common: &Common) -> Result<()> {
        let device = open_device(common)?;
        let wanted = |name: &str| self.only.as_deref().is_none_or(|word| name.contains(word));
        let half = common.half() && device.traits().half;
        let names: Vec<_> = families(device.traits()).into_iter().filter(|name| wanted(name)).collect();
        if names.is_empty() {
            let all = families(device.traits()).join(", ");
            return Err(Error::Usage(format!("--only '{}' matches no family; the families are {all}", self.only.as_deref().unwrap_or(""))));
        }
        let progress = Progress::new(common, &names);
        let findings = examine(&device, device.traits(), half, wanted, |finding| progress.found(common, finding))?;
        progress.bar.finish_and_clear();

        let report = Report { info: device.info(), findings: &findings };
        common.result(report.text(), report.json());
        report.verdict()
    }
}

/// What was found on a device, for printing.
struct Report<'a> {
    info: &'a DeviceInfo,
    findings: &'a [Finding],
}

impl Report<'_> {
    fn wrong(&self) -> Vec<&Finding> {
        self.findings.iter().filter(|finding| finding.wrong.is_some()).collect()
    }

    /// The table, and what it means.
    fn text(&self) -> String {
        let mut text = format!("{:24} {:>5}  {:>9}  {:>9}  {:>7}  verdict\n", "kernel", "cases", "error", "allowed", "seconds");
        text += &self.findings.iter().map(row).collect::<String>();
        let wrong = self.wrong();
        if wrong.is_empty() {
            let cases: usize = self.findings.iter().map(|finding| finding.cases).sum();
            let seconds: f64 = self.findings.iter().map(|finding| finding.seconds).sum();
            return format!("{text}\nAll kernels are right on {}: {} in {seconds:.0} s.", self.info, count(cases, "case"));
        }
        let sentences: String =
            wrong.iter().map(|finding| format!("{} is WRONG: {}\n", finding.kernel, finding.wrong.as_deref().unwrap_or(""))).collect();
        format!("{text}\n{sentences}{}", what_to_do(self.info))
    }

    fn json(&self) -> Value {
        // The error is infinite if a result was not finite; JSON writes that as null.
        let check = |f: &Finding| {
            json!({
                "kernel": f.kernel, "cases": f.cases, "error": f.error, "tolerance": f.tolerance, "ok": f.wrong.is_none(),
                "seconds": f.seconds, "wrong": f.wrong,
            })
        };
        let checks: Vec<_> = self.findings.iter().map(check).collect();
        json!({ "device": self.info.to_string(), "checks": checks, "ok": self.wrong().is_empty() })
    }

    /// An error if something is wrong, for the exit code.
    fn verdict(&self) -> Result<()> {
        let wrong = self.wrong();
        if wrong.is_empty() {
            return Ok(());
        }
        let names = wrong.iter().map(|finding| finding.kernel.as_str()).collect::<Vec<_>>().join(", ");
        let reason = format!("kernels are wrong in {} of {} ({names})", wrong.len(), count(self.findings.len(), "family"));
        Err(Error::Device { device: self.info.to_string(), reason })
    }
}

fn row(finding: &Finding) -> String {
    let Finding { kernel, cases, error, tolerance, wrong, seconds } = finding;
    let verdict = if wrong.is_none() { "ok" } else { "WRONG" };
    format!("{kernel:24} {cases:>5}  {error:>9.1e}  {tolerance:>9.1e}  {seconds:>7.1}  {verdict}\n")
}

/// Advice: which driver to update, and what to do if that does not help.
fn what_to_do(info: &DeviceInfo) -> String {
    let name = info.name.to_lowercase();
    let driver = match info.backend.as_str() {
        "metal" => "macOS, which includes the driver",
        _ if name.contains("llvmpipe") || name.contains("lavapipe") => "Mesa (on Debian or Ubuntu: apt install mesa-vulkan-drivers)",
        _ if name.contains("nvidia") || name.contains("geforce") || name.contains("quadro") => "NVIDIA's driver",
        _ if name.contains("amd") || name.contains("radeon") => "AMD's driver (on Linux: Mesa)",
        _ if name.contains("intel") => "Intel's driver (on Linux: Mesa)",
        _ if info.cpu && info.backend == "dx12" => "Windows, which includes this software device",
        _ => "its driver",
    };
    format!(
        "Do not trust anything trained on {info}: update {driver}, then run graftling doctor again.\n\
         If that does not help, report this table, and choose another device with --device (graftling devices lists them)."
    )
}

/// A bar on a terminal; elsewhere, one line per family.
struct Progress {
    bar: ProgressBar,
    lines: bool,
}

impl Progress {
    fn new(common: &Common, names: &[String]) -> Progress {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}  {elapsed} elapsed").expect("a template that is constant");
        let lines = !std::io::stderr().is_terminal();
        let bar = if common.quiet || lines { ProgressBar::hidden() } else { ProgressBar::new(names.len() as u64).with_style(style) };
        bar.set_message("compiling the first kernels");
        bar.enable_steady_tick(std::time::Duration::from_millis(200));
        Progress { bar, lines }
    }

    fn found(&self, common: &Common, finding: &Finding) {
        self.bar.inc(1);
        self.bar.set_message(format!("{} done", finding.kernel));
        if self.lines {
            let verdict = if finding.wrong.is_none() { "ok" } else { "WRONG" };
            common.note(format!("{:24} {verdict}  {:.1} s", finding.kernel, finding.seconds));
        }
    }
}

#[cfg(test)]
mod tests {
    use graftling::graph::Traits;

    use super::*;

    #[test]
    fn a_wrong_kernel_is_said_and_is_an_error() {
        let info = DeviceInfo {
            name: "AMD Radeon RX 6600 (RADV NAVI23)".into(),
            kind: "discrete GPU",
            backend: "vulkan".into(),
            driver: "radv Mesa 24.0.1".into(),
            cpu: false,
            max_buffer: 1 << 32,
            max_binding: 1 << 31,
            subgroup: Some([32, 64]),
            traits: Traits::minimal(),
        };
        let finding = |kernel: &str, error, wrong: Option<&str>| Finding {
            kernel: kernel.into(),
            cases: 3,
            error,
            tolerance: 1e-5,
            wrong: wrong.map(Into::into),
            seconds: 0.5,
        };
        let right = [finding("norm", 2e-7, None)];
        let report = Report { info: &info, findings: &right };
        assert!(report.verdict().is_ok() && report.text().contains("All kernels are right on AMD Radeon"), "{}", report.text());

        let findings = [finding("norm", 2e-7, None), finding("gated", f64::INFINITY, Some("3×257 silu: value of gated.forward: …"))];
        let report = Report { info: &info, findings: &findings };
        let text = report.text();
        for words in
            ["ok\n", "WRONG\n", "gated is WRONG: 3×257 silu: value of gated.forward", "update AMD's driver (on Linux: Mesa)", "--device"]
        {
            assert!(text.contains(words), "{text}");
        }
        let error = report.verdict().expect_err("a kernel is wrong");
        assert!(error.exit_code() == 1 && error.to_string().contains("kernels are wrong in 1 of 2 families (gated)"), "{error}");
        let json = report.json();
        assert_eq!((&json["ok"], &json["checks"][1]["error"]), (&false.into(), &Value::Null));
    }
}
