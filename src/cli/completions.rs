//! `graftling completions`: shell completion scripts.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};
use graftling::Result;

use super::{Cli, Common, print};

/// Prints a script that lets a shell complete commands and options
#[derive(Args)]
#[command(after_help = "Examples:\n  graftling completions bash > ~/.local/share/bash-completion/completions/graftling\n  \
                        graftling completions zsh > ~/.zfunc/_graftling\n  graftling completions fish > ~/.config/fish/completions/graftling.fish")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub fn run(&self, common: &Common) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "graftling", &mut script);
        let script = String::from_utf8_lossy(&script);
        match common.json {
            true => print(serde_json::json!({ "shell": self.shell.to_string(), "script": script })),
            false => print(script.trim_end()),
        }
        Ok(())
    }
}
