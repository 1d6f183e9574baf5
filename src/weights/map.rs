//! Files mapped into memory.

use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::Result;
use crate::files::{open, unreadable};

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

/// Maps a file, which must not change while it is mapped.
pub(super) fn map(path: &Path, advice: &str) -> Result<Mmap> {
    let file = open(path, advice)?;
    // SAFETY: The map is only read, and only as bytes. Another program could still change the file. Everything that is checked is copied
    // out of the map, so changed bytes in the tensors are only other values; a file that is truncated ends the process with a signal, as it
    // does for every program that maps files.
    unsafe { Mmap::map(&file) }.map_err(|e| unreadable(path, e))
}
