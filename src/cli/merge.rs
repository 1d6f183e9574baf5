//! `graftling merge`: a LoRA folded into the weights of its base.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use graftling::model::{AdapterExpression, Base, BaseIdentity, merge};
use graftling::weights::GgmlType;
use graftling::words::count;
use graftling::{Error, Result};
use serde_json::json;

use super::Common;
use super::options::name_of;
use super::setup::adapters;

/// Folds a LoRA into the weights of its base and writes the model: a GGUF file or a directory in Hugging Face format
#[derive(Args)]
#[command(after_help = "Example:
  graftling merge --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter RUN/adapter --out mine.gguf --type q8_0
  llama-cli -m mine.gguf")]
pub struct Merge {
    /// The model that the LoRA was trained on: a directory in Hugging Face format, or a .gguf file
    #[arg(long)]
    model: PathBuf,
    /// The directory of a saved LoRA, or an average: average(A:0.7,B:0.3)
    #[arg(long, value_name = "DIR", value_parser = adapters(), value_hint = ValueHint::DirPath)]
    adapter: AdapterExpression,
    /// The file or directory to write
    #[arg(long, value_name = "FILE.gguf|DIR")]
    out: PathBuf,
    /// The format of matrices; same keeps each tensor's own, and tensors without a LoRA to the byte
    #[arg(long = "type", value_name = "TYPE", default_value = "same")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Same,
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_1")]
    Q4_1,
    #[value(name = "q5_0")]
    Q5_0,
    #[value(name = "q5_1")]
    Q5_1,
}

impl Format {
    fn wanted(self) -> Option<GgmlType> {
        Some(match self {
            Format::Same => return None,
            Format::F32 => GgmlType::F32,
            Format::F16 => GgmlType::F16,
            Format::Bf16 => GgmlType::Bf16,
            Format::Q8_0 => GgmlType::Q8_0,
            Format::Q4_0 => GgmlType::Q4_0,
            Format::Q4_1 => GgmlType::Q4_1,
            Format::Q5_0 => GgmlType::Q5_0,
            Format::Q5_1 => GgmlType::Q5_1,
        })
    }
}

impl Merge {
    pub fn run(&self, common: &Common) -> Result<()> {
        let is_gguf = self.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        // A directory would be replaced with all that is in it.
        if !is_gguf && self.out.exists() {
            return Err(Error::Usage(format!("--out {} exists; remove it or choose another place", self.out.display())));
        }
        if is_gguf && self.out.is_dir() {
            return Err(Error::Usage(format!("--out {} is a directory; give the name of a file", self.out.display())));
        }
        let (config, weights) = Base::open_weights(&self.model)?;
        let adapter = self.adapter.read_one("--adapter")?;
        let mut warnings: Vec<_> = adapter.check_base(&BaseIdentity::of(&config, &weights, &name_of(&self.model)))?.into_iter().collect();
        if adapter.label_head.is_some() {
            warnings.push("the adapter's head for labels is left out: what is written is a language model".into());
        }
        let merged = merge(&self.model, &adapter, &self.out, self.format.wanted())?;
        if merged.coarse > 0 {
            let tensors = count(merged.coarse, "tensor");
            warnings.push(format!("rounding {tensors} to fewer than 8 bits can lose much of what the LoRA learned; --type q8_0 keeps it"));
        }
        warnings.iter().for_each(|warning| common.warn(warning));
        let mut text = format!(
            "wrote {}: {}, {} with the LoRA in their weights",
            self.out.display(),
            count(merged.tensors, "tensor"),
            count(merged.modules, "module")
        );
        for ([from, to], tensors) in &merged.converted {
            text += &format!("\n{} {from} → {to}", count(*tensors, "tensor"));
        }
        let converted: Vec<_> =
            merged.converted.iter().map(|([from, to], tensors)| json!({ "from": from, "to": to, "tensors": tensors })).collect();
        let (modules, tensors) = (merged.modules, merged.tensors);
        let json = json!({ "out": self.out, "modules": modules, "tensors": tensors, "converted": converted, "warnings": warnings });
        common.result(text, json);
        Ok(())
    }
}
