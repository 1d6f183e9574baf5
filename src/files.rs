//! Reading whole text files, and writing files and directories whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// The maximum size of a config or options file in bytes: many times what one needs.
pub const CONFIG_BYTES: u64 = 1 << 20;

/// The maximum size in bytes of a file that lists a model's tensors or tokens, which has a few hundred thousand entries at most.
pub const LIST_BYTES: u64 = 100 << 20;

/// Opens a file. `advice` says what to give instead if the path is a directory or a device.
///
/// # Errors
/// [`Error::File`] if it cannot be opened or is not a regular file.
pub fn open(path: &Path, advice: &str) -> Result<File> {
    // Checked before opening, since opening a pipe would wait for its other end.
    let is_file = fs::metadata(path).map(|metadata| metadata.is_file());
    let file = is_file.and_then(|is_file| if is_file { File::open(path).map(Some) } else { Ok(None) });
    file.map_err(|e| unreadable(path, e))?.ok_or_else(|| Error::file(path, format!("is not a file; {advice}")))
}

/// The error for a file that the system cannot read.
pub fn unreadable(path: &Path, e: io::Error) -> Error {
    let advice = if e.kind() == ErrorKind::PermissionDenied { "check its permissions" } else { "check the path" };
    Error::file(path, format!("cannot be read ({e}); {advice}"))
}

/// Reads a text file of at most `most` bytes and strips its byte-order mark.
///
/// # Errors
/// [`Error::File`] if it cannot be read, is longer, or is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    let mut bytes = Vec::new();
    let file = open(path, "give the path of the file itself")?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| unreadable(path, e))?;
    if bytes.len() as u64 > most {
        return Err(Error::file(path, format!("is longer than {} MiB, far more than such a file needs; check the path", most >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        not_utf8(path, 1 + valid.iter().filter(|&&byte| byte == b'\n').count())
    })?;
    Ok(text.strip_prefix('\u{FEFF}').map(str::to_owned).unwrap_or(text))
}

/// Like [`read_text`], but returns `None` if the file does not exist.
///
/// # Errors
/// As [`read_text`].
pub fn read_text_if_any(path: &Path, most: u64) -> Result<Option<String>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        _ => read_text(path, most).map(Some),
    }
}

/// The error for a line that is not UTF-8.
pub(crate) fn not_utf8(path: &Path, line: usize) -> Error {
    Error::file(path, format!("line {line} is not UTF-8; convert the file to UTF-8"))
}

/// Writes `bytes` to a temporary file beside `path`, syncs it, and renames it over `path`. Makes the directory if it is missing.
///
/// # Errors
/// [`Error::Write`]; the previous file at `path` is then intact.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file_with(path, |file| file.write_all(bytes).map_err(|e| Error::write(path, e)))
}

/// Like [`replace_file`], with a file that `fill` writes, so that it need not fit in memory.
///
/// # Errors
/// Those of `fill`, or [`Error::Write`]; the previous file at `path` is then intact.
pub fn replace_file_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let failed = |e| Error::write(path, e);
    let (directory, temporary) = (directory_of(path), path.with_added_extension("partial"));
    let write = || {
        let mut file = BufWriter::new(File::create(&temporary).map_err(failed)?);
        fill(&mut file)?;
        file.into_inner().map_err(|e| e.into_error()).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&temporary, path).and_then(|()| sync_directory(directory)).map_err(failed)
    };
    fs::create_dir_all(directory).map_err(failed)?;
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Lets `fill` write files into a temporary directory beside `path`, which then replaces `path`. The previous directory is removed once the
/// new one is complete.
///
/// # Errors
/// Those of `fill`, or [`Error::Write`]; the temporary directory is then removed.
pub fn replace_directory(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = path.with_added_extension("partial");
    let failed = |e| Error::write(path, e);
    let write = || {
        remove_directory(&temporary).and_then(|()| fs::create_dir_all(&temporary)).map_err(failed)?;
        fill(&temporary)?;
        sync_directory(&temporary).map_err(failed)?;
        // A directory cannot be renamed over one that has files.
        remove_directory(path).and_then(|()| fs::rename(&temporary, path)).map_err(failed)?;
        sync_directory(directory_of(path)).map_err(failed)
    };
    write().inspect_err(|_: &Error| drop(fs::remove_dir_all(&temporary)))
}

/// Hard-links `path` to `from`, which must not change any more, or copies it where the file system has no hard links.
///
/// # Errors
/// [`Error::Write`] if neither is possible.
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

/// Makes renames in a directory survive a power failure. Systems that cannot open or sync a directory either do so themselves or offer no
/// way to.
fn sync_directory(path: &Path) -> io::Result<()> {
    let Ok(directory) = File::open(path) else { return Ok(()) };
    directory.sync_all().or_else(|e| match e.kind() {
        ErrorKind::InvalidInput | ErrorKind::PermissionDenied | ErrorKind::Unsupported => Ok(()),
        _ => Err(e),
    })
}

/// A directory for a unit test, removed at its end.
#[cfg(test)]
pub(crate) struct Folder(pub std::path::PathBuf);

#[cfg(test)]
impl Folder {
    /// An empty directory; the name tells tests apart.
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("graftling-unit-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).expect("a directory");
        Folder(path)
    }

    /// Writes a file and returns its path.
    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> std::path::PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }
}

#[cfg(test)]
impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
