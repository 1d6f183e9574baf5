//! `graftling export`: a LoRA in another tool's files.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use graftling::model::{AdapterExpression, Base, BaseIdentity, ExportForm};
use graftling::words::count;
use graftling::{Error, Result};
use serde_json::json;

use super::Common;
use super::options::name_of;
use super::setup::adapters;

/// Writes a LoRA in another tool's files: a GGUF adapter for llama.cpp and Ollama, or a directory for PEFT or mlx-lm
#[derive(Args)]
#[command(after_help = "Example:
  graftling export --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter RUN/adapter --out lora.gguf
  llama-cli -m SmolLM2-135M-Instruct.Q4_1.gguf --lora lora.gguf")]
pub struct Export {
    /// The model that the LoRA was trained on: a directory in Hugging Face format, a .gguf file, or builtin
    #[arg(long)]
    model: PathBuf,
    /// The directory of a saved LoRA, or an average: average(A:0.7,B:0.3)
    #[arg(long, value_name = "DIR", value_parser = adapters(), value_hint = ValueHint::DirPath)]
    adapter: AdapterExpression,
    /// The file or directory to write
    #[arg(long, value_name = "FILE.gguf|DIR")]
    out: PathBuf,
    /// The tool's files
    #[arg(long, value_name = "TOOL", default_value = "gguf")]
    to: Tool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Tool {
    Gguf,
    Peft,
    Mlx,
}

impl Export {
    pub fn run(&self, common: &Common) -> Result<()> {
        let (form, name) = match self.to {
            Tool::Gguf => (ExportForm::Gguf, "gguf"),
            Tool::Peft => (ExportForm::Peft, "peft"),
            Tool::Mlx => (ExportForm::Mlx, "mlx"),
        };
        // A directory would be replaced with all that is in it.
        if self.to != Tool::Gguf && self.out.exists() {
            return Err(Error::Usage(format!("--out {} exists; remove it or choose another place", self.out.display())));
        }
        if self.to == Tool::Gguf && self.out.is_dir() {
            let advice = "give the name of a file, such as lora.gguf, or --to peft or mlx";
            return Err(Error::Usage(format!("--out {} is a directory; {advice}", self.out.display())));
        }
        let (config, weights) = Base::open_weights(&self.model)?;
        let adapter = self.adapter.read_one("--adapter")?;
        if let Some(warning) = adapter.check_base(&BaseIdentity::of(&config, &weights, &name_of(&self.model)))? {
            common.warn(warning);
        }
        if adapter.label_head.is_some() && self.to != Tool::Peft {
            common.warn("the adapter's head for labels is left out: these files have no place for it");
        }
        let modules = adapter.export(&config, form, &self.out)?;
        let text = format!("wrote {}: a LoRA on {} for {}", self.out.display(), count(modules, "module"), self.tool());
        common.result(text, json!({ "out": self.out, "to": name, "modules": modules }));
        Ok(())
    }

    fn tool(&self) -> &'static str {
        match self.to {
            Tool::Gguf => "llama.cpp and Ollama",
            Tool::Peft => "PEFT",
            Tool::Mlx => "mlx-lm",
        }
    }
}
