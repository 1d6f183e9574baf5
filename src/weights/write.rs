//! Writing a file so that it is there complete or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` to a temporary file beside `path`, syncs it, and renames it over `path`. Makes the directory if it is missing.
///
/// # Errors
/// [`Error::Write`]; what was at `path` is then still as it was.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let temporary = path.with_added_extension("partial");
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let renamed = written.and_then(|()| fs::rename(&temporary, path));
        renamed.inspect_err(|_| drop(fs::remove_file(&temporary)))
    };
    write().map_err(|e| Error::write(path, e))
}
