//! The doctor finds this device healthy, and names a deliberately broken kernel.

use graftling::doctor::{Finding, chosen_kernels, examine, families};
use graftling::gpu::{Device, devices};
use graftling::graph::{Kernel, Traits};

use crate::harness::{self, device};

fn wrong(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.wrong.is_some()).collect()
}

/// Only some families, since all of them take minutes on a software device; `graftling doctor` checks the rest.
#[test]
fn a_healthy_device_is_found_so() {
    let some = ["matmul q4_0", "head_norm", "gated", "dropout", "positions", "optimizer"];
    let mut told = 0;
    let findings = examine(device(), device().traits(), false, |name| some.contains(&name), |_| told += 1).expect("a working device");
    assert!(wrong(&findings).is_empty(), "{findings:#?}");
    assert_eq!((findings.len(), told), (some.len(), some.len()));
    for finding in &findings {
        assert!(finding.cases > 0 && finding.error <= finding.tolerance, "{finding:?}");
    }
}

/// Multiplies the activated gate by the gate.
fn tampered(kernel: &Kernel, source: String) -> String {
    let (right, wrong) = ("x[gate]) * x[gate + params.columns]", "x[gate]) * x[gate]");
    if kernel.file != "gated" {
        return source;
    }
    assert!(source.contains(right), "shaders/elementwise/gated.wgsl has changed: this test must change with it");
    source.replace(right, wrong)
}

#[test]
fn a_planted_error_is_found_and_named() {
    let mut device = Device::open_checked(None).expect("these tests need a device");
    device.tamper(tampered);
    let some = ["gated", "dropout", "positions"];
    let traits = device.traits().clone();
    let findings = examine(&device, &traits, false, |name| some.contains(&name), |_| ()).expect("a working device");
    let [finding] = wrong(&findings)[..] else { panic!("{findings:#?}") };
    assert_eq!(finding.kernel, "gated");
    assert!(finding.error > finding.tolerance);
    let sentence = finding.wrong.as_deref().expect("it is wrong");
    assert!(sentence.contains("3×257 silu: value of gated.forward"), "{sentence}");
}

/// An error in a gradient only.
#[test]
fn a_planted_error_in_a_gradient_is_found() {
    let mut device = Device::open_checked(None).expect("these tests need a device");
    device.tamper(|kernel, source| match (kernel.file, kernel.entry) {
        ("gated", "backward") => source.replace("= d * activate(", "= -d * activate("),
        _ => source,
    });
    let traits = device.traits().clone();
    let findings = examine(&device, &traits, false, |name| name == "gated", |_| ()).expect("a working device");
    let sentence = findings[0].wrong.as_deref().expect("it is wrong");
    assert!(sentence.contains("gradient of argument 0 of gated.backward"), "{sentence}");
}

/// A kernel that the driver does not compile is a finding; the other checks continue.
#[test]
fn a_kernel_that_does_not_compile_is_a_finding() {
    let mut device = Device::open_checked(None).expect("these tests need a device");
    device.tamper(|kernel, source| if kernel.file == "gated" { format!("{source}\nfn broken() -> u32 {{ return 1.5; }}") } else { source });
    let traits = device.traits().clone();
    let findings = examine(&device, &traits, false, |name| ["gated", "dropout"].contains(&name), |_| ()).expect("a working device");
    let [finding] = wrong(&findings)[..] else { panic!("{findings:#?}") };
    assert!(finding.wrong.as_deref().is_some_and(|w| w.contains("gated.forward does not compile")), "{finding:?}");
}

#[test]
fn large_products_are_for_gpus() {
    let cpu = Traits { cpu: true, subgroup: Some(8), ..Traits::minimal() };
    let large = |traits: &Traits| families(traits).iter().filter(|name| name.ends_with("large")).count();
    assert_eq!((large(&cpu), large(&Traits::minimal())), (0, 16));
}

/// The larger tiles, which only large products use.
#[test]
fn large_products() {
    let traits = Traits { cpu: false, ..device().traits().clone() };
    let findings = examine(device(), &traits, false, |name| name == "matmul f32, large", |_| ()).expect("a working device");
    assert!(findings.len() == 1 && wrong(&findings).is_empty(), "{findings:#?}");
}

fn graftling(arguments: &[&str]) -> (i32, String, String) {
    let output = harness::command().args(arguments).output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

#[test]
fn devices_are_listed() {
    let (code, text, _) = graftling(&["devices"]);
    assert_eq!(code, 0);
    let (code, stdout, stderr) = graftling(&["devices", "--json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let listed: serde_json::Value = serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON");
    let listed = listed["devices"].as_array().expect("a list");
    let here = devices();
    assert_eq!(listed.len(), here.len());
    for (i, (listed, info)) in listed.iter().zip(&here).enumerate() {
        assert_eq!((listed["number"].as_u64(), listed["name"].as_str()), (Some(i as u64), Some(info.name.as_str())));
        assert_eq!(listed["max_binding_bytes"].as_u64(), Some(info.max_binding));
        for (family, words) in chosen_kernels(&info.traits) {
            assert_eq!(listed["kernels"][family].as_str(), Some(words.as_str()));
            assert!(text.contains(&words), "{words}");
        }
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    for command in ["devices", "doctor"] {
        let (code, stdout, stderr) = graftling(&[command, "--device", "abacus"]);
        assert_eq!((code, stdout.as_str()), (4, ""), "{command}");
        assert!(stderr.contains("no device matches 'abacus'; the "), "{stderr}");
    }
}

#[test]
fn the_doctor_reports_in_json() {
    let (code, stdout, stderr) = graftling(&["doctor", "--only", "dropout", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("dropout") && stderr.contains("ok"), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON");
    assert_eq!(report["ok"], true);
    assert_eq!(report["device"], device().info().to_string());
    let check = &report["checks"][0];
    assert_eq!((&check["kernel"], &check["cases"], &check["ok"]), (&"dropout".into(), &2.into(), &true.into()));
    assert!(check["error"].as_f64() <= check["tolerance"].as_f64() && check["seconds"].is_f64(), "{check}");

    let (code, _, stderr) = graftling(&["doctor", "--only", "mamba"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("--only 'mamba' matches no family; the families are matmul f32"), "{stderr}");
}

#[test]
fn completions_and_what_was_meant() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, stdout, _) = graftling(&["completions", shell]);
        assert!(code == 0 && stdout.contains("graftling") && stdout.contains("doctor"), "{shell}");
    }
    for (arguments, meant) in
        [(&["docter"][..], "doctor"), (&["doctor", "--devise", "0"], "--device"), (&["train", "--bath-size", "2"], "--batch-size")]
    {
        let (code, _, stderr) = graftling(arguments);
        assert!(code == 2 && stderr.contains("similar") && stderr.contains(meant), "{arguments:?}: {stderr}");
    }
}
