//! Files in memory.

use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::Mmap;

/// The bytes of a file, read from disk when they are first used.
///
/// Only for files that are replaced by renaming, or that never change: checkpoints and golden states. If the file is
/// shortened while it is mapped, reading what is gone ends the process with SIGBUS, so training data is read instead
/// (`data/store/`).
pub(crate) struct MappedFile(Mmap);

impl MappedFile {
    /// Maps the whole of `file`.
    ///
    /// # Errors
    /// If the system cannot map it; an empty file, for example.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is read-only, and bytes are all that is read from it. Were the file changed in place
        // meanwhile, its readers would see changed bytes, which a checksum or a parser rejects; this program never does
        // that.
        Ok(Self(unsafe { Mmap::map(file) }?))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
