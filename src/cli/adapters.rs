//! `graftling adapters`: saved adapters made from others.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use graftling::files::replace_directory;
use graftling::model::{AdapterExpression, average, write_adapter};
use graftling::words::count;
use graftling::{Error, Result};
use serde_json::json;

use super::Common;
use super::setup::adapters;

/// Makes a saved adapter from others
#[derive(Args)]
pub struct Adapters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Average(Average),
}

/// Averages the weights of adapters of one form into a new adapter
#[derive(Args)]
#[command(after_help = "Example:
  graftling adapters average RUN1/adapter RUN2/adapter --weights 0.7,0.3 --out both")]
struct Average {
    /// The directories of saved adapters of the same configuration
    #[arg(value_name = "DIR", required = true, num_args = 2.., value_parser = adapters(), value_hint = ValueHint::DirPath)]
    adapters: Vec<AdapterExpression>,
    /// A weight for each adapter, which are divided by their sum [default: equal ones]
    #[arg(long, value_name = "W,W", value_delimiter = ',', allow_negative_numbers = true)]
    weights: Vec<f64>,
    /// The directory for the new adapter, which must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Adapters {
    pub fn run(&self, common: &Common) -> Result<()> {
        match &self.command {
            Command::Average(average) => average.run(common),
        }
    }
}

impl Average {
    fn run(&self, common: &Common) -> Result<()> {
        let (given, number) = (self.weights.len(), self.adapters.len());
        if given != 0 && given != number {
            let weights = count(given, "weight");
            return Err(Error::Usage(format!("--weights has {weights} for {number} adapters; give one for each, or leave it out")));
        }
        // A directory would be replaced with all that is in it.
        if self.out.exists() {
            return Err(Error::Usage(format!("--out {} exists; remove it or choose another place", self.out.display())));
        }
        let shares = self.weights.iter().copied().chain(std::iter::repeat(1.0));
        let read = |(adapter, share): (&AdapterExpression, f64)| Ok((adapter.read_one("adapters average")?, share));
        let adapters = self.adapters.iter().zip(shares).map(read).collect::<Result<Vec<_>>>()?;
        let average = average(&adapters, "the average")?;
        replace_directory(&self.out, |temporary| write_adapter(temporary, &average))?;
        let text = format!("wrote {}: the average of {}", self.out.display(), count(number, "adapter"));
        common.result(text, json!({ "out": self.out, "adapters": number }));
        Ok(())
    }
}
