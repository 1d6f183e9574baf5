//! Opening files: large ones mapped, small ones read as text.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// The most bytes of a JSON or TOML file. Configs have some thousands, and the index of a large model some hundred thousand.
const MAX_TEXT: u64 = 100 << 20;

/// A file in memory, usually mapped, and its name for messages.
pub(super) struct MappedFile {
    pub path: PathBuf,
    bytes: Box<dyn AsRef<[u8]> + Send + Sync>,
}

impl MappedFile {
    pub fn new(path: &Path, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> MappedFile {
        MappedFile { path: path.into(), bytes: Box::new(bytes) }
    }

    pub fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

/// Opens a file. `advice` says what should have been given where the path is a directory or a device.
fn open(path: &Path, advice: &str) -> Result<File> {
    // Looked at before it is opened, since opening a pipe would wait for its other end.
    let is_file = fs::metadata(path).map(|metadata| metadata.is_file());
    let file = is_file.and_then(|is_file| if is_file { File::open(path).map(Some) } else { Ok(None) });
    file.map_err(|e| unreadable(path, e))?.ok_or_else(|| Error::file(path, format!("is not a file; {advice}")))
}

fn unreadable(path: &Path, e: std::io::Error) -> Error {
    Error::file(path, format!("cannot be read ({e}); check the path"))
}

/// Maps a file, which must not change meanwhile.
pub(super) fn map(path: &Path, advice: &str) -> Result<Mmap> {
    let file = open(path, advice)?;
    // SAFETY: The map is only read, and only as bytes. What cannot be ruled out is that another program changes the file meanwhile. All
    // that is checked is copied out of the map, so other bytes in the tensors are other numbers and nothing worse; a file that is
    // cut shorter ends the process with a signal, as it does for every program that maps files.
    unsafe { Mmap::map(&file) }.map_err(|e| unreadable(path, e))
}

/// Reads the text of a JSON or TOML file.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let mut text = Vec::new();
    let file = open(path, "give the path of the file itself")?;
    file.take(MAX_TEXT + 1).read_to_end(&mut text).map_err(|e| unreadable(path, e))?;
    if text.len() as u64 > MAX_TEXT {
        return Err(Error::file(path, "is far too large for a file of its kind; fetch it again"));
    }
    String::from_utf8(text).map_err(|_| Error::file(path, "is not text in UTF-8; fetch it again"))
}
