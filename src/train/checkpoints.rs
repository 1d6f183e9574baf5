//! The checkpoints of a run: which exist, which is the newest intact one, and which can be removed.

use std::fs;
use std::path::{Path, PathBuf};

use super::Checkpoint;
use crate::error::{Error, Result};

/// The number of newest checkpoints to keep, in addition to the best.
const KEPT: usize = 3;

/// The `checkpoints` directory of a run.
pub struct Checkpoints {
    directory: PathBuf,
}

/// What a run can resume from.
pub struct Found {
    /// The newest intact checkpoint, if there is one.
    pub newest: Option<Checkpoint>,
    /// What is wrong with the checkpoints after it.
    pub torn: Vec<Error>,
}

impl Checkpoints {
    /// The checkpoints of the run in a directory.
    pub fn of(run: &Path) -> Checkpoints {
        Checkpoints { directory: run.join("checkpoints") }
    }

    /// The directory of the checkpoint after `step` steps.
    pub fn path(&self, step: u64) -> PathBuf {
        self.directory.join(format!("step-{step:06}"))
    }

    /// The steps after which there is a checkpoint, intact or not, in ascending order.
    pub fn steps(&self) -> Vec<u64> {
        let mut steps: Vec<u64> = self.names().filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
        steps.sort_unstable();
        steps
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    }

    /// Reads the newest intact checkpoint, and tells what is wrong with those after it.
    pub fn newest(&self) -> Found {
        let mut torn = Vec::new();
        for step in self.steps().into_iter().rev() {
            match Checkpoint::read(&self.path(step)) {
                Ok(checkpoint) if checkpoint.state.trainer.step == step => return Found { newest: Some(checkpoint), torn },
                Ok(other) => {
                    let problem = format!("is the checkpoint of step {}; rename or remove it", other.state.trainer.step);
                    torn.push(Error::file(self.path(step), problem));
                }
                Err(error) => torn.push(error),
            }
        }
        Found { newest: None, torn }
    }

    /// Writes a checkpoint, then removes all but the newest three and the best.
    ///
    /// # Errors
    /// [`Error::Write`]; the existing checkpoints are then still there.
    pub fn write(&self, checkpoint: &Checkpoint) -> Result<PathBuf> {
        let state = &checkpoint.state;
        let path = self.path(state.trainer.step);
        checkpoint.write(&path)?;
        let steps = self.steps();
        let old = steps.iter().rev().skip_while(|&&step| step > state.trainer.step).skip(KEPT);
        for &step in old.filter(|&&step| state.best.is_none_or(|best| best.step != step)) {
            // One that cannot be removed takes up space, but does no other harm.
            drop(fs::remove_dir_all(self.path(step)));
        }
        Ok(path)
    }

    /// Removes checkpoints that an earlier process left unfinished.
    pub fn clean(&self) {
        let partial = self.names().filter(|name| name.ends_with(".partial")).map(|name| self.directory.join(name));
        partial.for_each(|path| drop(fs::remove_dir_all(path)));
    }
}
