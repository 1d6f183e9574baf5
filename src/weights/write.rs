//! Writing a file or a directory so that it is there complete or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` to a temporary file beside `path`, syncs it, and renames it over `path`. Makes the directory if it is missing.
///
/// # Errors
/// [`Error::Write`]; what was at `path` is then still as it was.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let directory = directory_of(path);
        fs::create_dir_all(directory)?;
        let temporary = path.with_added_extension("partial");
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let renamed = written.and_then(|()| fs::rename(&temporary, path)).and_then(|()| sync_directory(directory));
        renamed.inspect_err(|_| drop(fs::remove_file(&temporary)))
    };
    write().map_err(|e| Error::write(path, e))
}

/// Lets `fill` put files into a temporary directory beside `path`, which then becomes `path`. What was there before goes, once all of the
/// new is there.
///
/// # Errors
/// Those of `fill`, or [`Error::Write`]; the temporary directory is then gone.
pub fn replace_directory(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = path.with_added_extension("partial");
    let failed = |e| Error::write(path, e);
    let write = || {
        remove_directory(&temporary).and_then(|()| fs::create_dir_all(&temporary)).map_err(failed)?;
        fill(&temporary)?;
        sync_directory(&temporary).map_err(failed)?;
        // No system renames a directory over one that has files.
        remove_directory(path).and_then(|()| fs::rename(&temporary, path)).map_err(failed)?;
        sync_directory(directory_of(path)).map_err(failed)
    };
    write().inspect_err(|_: &Error| drop(fs::remove_dir_all(&temporary)))
}

/// Makes `path` the same file as `from`, which nobody changes any more; a copy where the file system has no second names.
///
/// # Errors
/// [`Error::Write`].
pub fn share_file(from: &Path, path: &Path) -> Result<()> {
    let copy = || fs::copy(from, path).and_then(|_| OpenOptions::new().write(true).open(path)?.sync_all());
    fs::hard_link(from, path).or_else(|_| copy()).map_err(|e| Error::write(path, e))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn remove_directory(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Makes what was renamed into a directory outlast a loss of power. Where directories cannot be opened or synced, the system sees to that
/// itself or nobody does.
fn sync_directory(path: &Path) -> io::Result<()> {
    let Ok(directory) = File::open(path) else { return Ok(()) };
    directory.sync_all().or_else(|e| match e.kind() {
        ErrorKind::InvalidInput | ErrorKind::PermissionDenied | ErrorKind::Unsupported => Ok(()),
        _ => Err(e),
    })
}
