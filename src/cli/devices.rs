//! `graftling devices`: the devices that can be used.

use std::fmt::Write;

use clap::Args;
use graftling::Result;
use graftling::doctor::{Verdicts, chosen_kernels};
use graftling::gpu::{Device, DeviceInfo, devices, find_device};
use graftling::words::count;
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::Common;

/// Lists the devices: names, drivers, limits, and which kernels each will use
#[derive(Args)]
#[command(after_help = "Examples:\n  graftling devices\n  graftling train --device 1 …      device number 1\n  \
                        graftling train --device radeon … the first device with radeon in its name")]
pub struct Devices {}

impl Devices {
    pub fn run(&self, common: &Common) -> Result<()> {
        let found = devices();
        let wanted = common.device.as_deref();
        let chosen = wanted.and_then(|wanted| find_device(&found, wanted));
        if found.is_empty() || (wanted.is_some() && chosen.is_none()) {
            // Fails with the same message as every other sub-command.
            return Device::open(wanted).map(drop);
        }
        let shown: Vec<_> = found.iter().enumerate().filter(|(i, _)| chosen.is_none_or(|chosen| chosen == *i)).collect();
        let text = shown.iter().map(|(i, info)| text(*i, info)).collect::<Vec<_>>().join("\n");
        let json: Vec<_> = shown.iter().map(|(i, info)| json(*i, info)).collect();
        common.result(text.trim_end(), json!({ "devices": json }));
        Ok(())
    }
}

fn text(number: usize, info: &DeviceInfo) -> String {
    let subgroup = match info.subgroup {
        None => "no subgroup operations".into(),
        Some([least, most]) if least == most => format!("subgroups of {least}"),
        Some([least, most]) => format!("subgroups of {least} to {most}"),
    };
    let half = if info.traits.half { "16-bit floats" } else { "no 16-bit floats" };
    let mut text = format!(
        "{number}: {}\n   kind     {}\n   backend  {}\n   driver   {}\n   limits   buffers up to {}, bindings up to {}; workgroup memory of {}; {subgroup}; {half}\n",
        info.name,
        info.kind,
        info.backend,
        info.driver,
        BinaryBytes(info.max_buffer),
        BinaryBytes(info.max_binding),
        BinaryBytes(info.traits.workgroup_memory.into()),
    );
    for (i, (family, words)) in chosen_kernels(&info.traits).iter().enumerate() {
        let title = if i == 0 { "kernels" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "   {title:8} {family:30} {words}");
    }
    let verdicts = Verdicts::of_user(info);
    if !verdicts.is_empty() {
        let wrong = verdicts.wrong().count();
        let found = if wrong == 0 { "all right".into() } else { format!("{wrong} WRONG") };
        let _ = writeln!(text, "   {:8} {} on first use: {found}", "checked", count(verdicts.len(), "kernel"));
        for (kernel, wrong) in verdicts.wrong() {
            let _ = writeln!(text, "            {kernel}: {wrong}");
        }
    }
    text
}

fn json(number: usize, info: &DeviceInfo) -> Value {
    let kernels: serde_json::Map<_, _> = chosen_kernels(&info.traits).into_iter().map(|(f, words)| (f.to_string(), words.into())).collect();
    let verdicts = Verdicts::of_user(info);
    let wrong: serde_json::Map<_, _> = verdicts.wrong().map(|(kernel, wrong)| (kernel.into(), wrong.into())).collect();
    json!({
        "number": number, "name": info.name, "kind": info.kind, "backend": info.backend, "driver": info.driver, "cpu": info.cpu,
        "max_buffer_bytes": info.max_buffer, "max_binding_bytes": info.max_binding,
        "workgroup_memory_bytes": info.traits.workgroup_memory, "subgroup": info.subgroup, "half": info.traits.half, "kernels": kernels,
        "checked": verdicts.len(), "wrong": wrong,
    })
}
