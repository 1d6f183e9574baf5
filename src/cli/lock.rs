//! One process a run: a second one that goes on with the same run would write over what the first writes.

use std::fs::{File, OpenOptions, TryLockError, remove_file};
use std::path::{Path, PathBuf};

use graftling::{Error, Result};

/// A run that is this process's until the value goes, or the process does, in whatever way.
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the run in that directory.
    ///
    /// # Errors
    /// [`Error::Usage`] if another process has it; [`Error::Write`].
    pub fn of(run: &Path) -> Result<Lock> {
        let path = run.join("lock");
        // Not emptied: where locks bind everyone, only its owner may.
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(|e| Error::write(&path, e))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let problem = format!("another process is training in {}; wait for it, or give another --out", run.display());
                Err(Error::Usage(problem))
            }
            // Some file systems know no locks; there a person has to take care.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Lock { path, _file: file }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(remove_file(&self.path));
    }
}
