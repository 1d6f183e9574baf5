//! One process per run: a second process that resumed the same run would overwrite the first one's files.

use std::fs::{File, OpenOptions, TryLockError, remove_file};
use std::path::{Path, PathBuf};

use graftling::{Error, Result};

/// An exclusive lock on a run, held until the value is dropped or the process ends, however it ends.
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Locks the run in a directory.
    ///
    /// # Errors
    /// [`Error::Usage`] if another process holds the lock; [`Error::Write`] if the file cannot be created.
    pub fn of(run: &Path) -> Result<Lock> {
        let path = run.join("lock");
        // Not truncated: where locks are mandatory, only the holder can write.
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(|e| Error::write(&path, e))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let problem = format!("another process is training in {}; wait for it to finish, or give another --out", run.display());
                Err(Error::Usage(problem))
            }
            // Some file systems have no locks; there, the user has to take care.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Lock { path, _file: file }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(remove_file(&self.path));
    }
}
