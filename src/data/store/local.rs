//! Local files: opened when they are read, a bounded number at a time.

use std::fs::File;
use std::io;
use std::path::Path;
#[cfg(feature = "remote")]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ReadAt;

/// An open file and the length that it had when it was opened.
pub(crate) struct OpenFile {
    pub(crate) file: File,
    pub(crate) len: u64,
    /// Device and inode, which identify the file whatever its path; `None` where the system has none.
    pub(crate) identity: Option<(u64, u64)>,
}

impl OpenFile {
    /// # Errors
    /// If it cannot be opened, or is not a regular file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // Checked before opening, since opening a pipe waits for a writer.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            let problem = "it is not a regular file (perhaps a pipe or a device), and samples are read in random order; \
                           save it as a file first";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let identity = identity(&metadata);
        Ok(Self { file: File::open(path)?, len: metadata.len(), identity })
    }
}

#[cfg(unix)]
fn identity(metadata: &std::fs::Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> Option<(u64, u64)> {
    None
}

impl ReadAt for OpenFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        read_unchanged(&self.file, self.len, into, at)
    }
}

/// Reads from a file that had `len` bytes when it was opened.
pub(super) fn read_unchanged(file: &File, len: u64, into: &mut [u8], at: u64) -> io::Result<()> {
    read_exact_at(file, into, at).map_err(|error| changed(file, len).unwrap_or(error))
}

/// An error if the length of a file has changed.
pub(super) fn changed(file: &File, len: u64) -> Option<io::Error> {
    let now = file.metadata().ok()?.len();
    (now != len).then(|| {
        io::Error::other(format!(
            "it had {len} bytes when it was opened and has {now} now; shards must not change while they are in use \
             (is a download or a copy still running?)"
        ))
    })
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, mut into: &mut [u8], mut at: u64) -> io::Result<()> {
    while !into.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, into, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (into, at) = (&mut into[read..], at + read as u64),
        }
    }
    Ok(())
}

#[cfg(unix)]
pub(super) fn write_all_at(file: &File, from: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, from, at)
}

#[cfg(windows)]
pub(super) fn write_all_at(file: &File, mut from: &[u8], mut at: u64) -> io::Result<()> {
    while !from.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, from, at)?;
        (from, at) = (&from[written..], at + written as u64);
    }
    Ok(())
}

/// A file that stays open, since it may be removed while it is used.
#[cfg(feature = "remote")]
pub(crate) struct Held {
    file: File,
    pub(super) len: u64,
}

/// How many files there are of [`Held`].
#[cfg(feature = "remote")]
static HELD: AtomicUsize = AtomicUsize::new(0);
/// With [`MAX_OPEN`] others, three quarters of what a process may open.
#[cfg(feature = "remote")]
const MAX_HELD: usize = 256;

#[cfg(feature = "remote")]
impl Held {
    /// The first `len` bytes of a file; returns the file if too many are open.
    pub(super) fn new(file: File, len: u64) -> Result<Self, File> {
        match HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| (held < MAX_HELD).then_some(held + 1)) {
            Ok(_) => Ok(Self { file, len }),
            Err(_) => Err(file),
        }
    }

    pub(super) fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        if at.checked_add(into.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read_exact_at(&self.file, into, at)
    }
}

#[cfg(feature = "remote")]
impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Open files, by shard number modulo [`MAX_OPEN`].
pub(crate) struct Files(Vec<Mutex<Option<(u32, Arc<File>)>>>);

/// Half of what a process may open by default on Linux (1,024).
const MAX_OPEN: usize = 512;

impl Default for Files {
    fn default() -> Self {
        Self((0..MAX_OPEN).map(|_| Mutex::default()).collect())
    }
}

impl Files {
    /// File `number`, which had `len` bytes when it was indexed.
    pub(super) fn get(&self, number: u32, path: &Path, len: u64) -> io::Result<Arc<File>> {
        let mut place = self.0[number as usize % MAX_OPEN].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = place.as_ref().filter(|(held, _)| *held == number) {
            return Ok(file.clone());
        }
        // Closes the previous file before opening this one.
        *place = None;
        let file = match File::open(path) {
            Err(error) if error.raw_os_error() == Some(TOO_MANY_OPEN) => {
                self.close_others();
                File::open(path)?
            }
            opened => opened?,
        };
        if let Some(error) = changed(&file, len) {
            return Err(error);
        }
        let file = Arc::new(file);
        *place = Some((number, file.clone()));
        Ok(file)
    }

    /// Closes the files that no thread is using.
    fn close_others(&self) {
        self.0.iter().filter_map(|place| place.try_lock().ok()).for_each(|mut place| *place = None);
    }
}

/// `EMFILE`: the same on Linux, macOS and in Windows' C library.
const TOO_MANY_OPEN: i32 = 24;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::data::store::{Span, Store};

    /// More files than stay open, in every order, and one that changes its length.
    #[test]
    fn files_are_opened_again_and_a_changed_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::default());
        let path = |number: u32| folder.path().join(number.to_string());
        let stores: Vec<Store> = (0..MAX_OPEN as u32 + 40)
            .map(|number| {
                std::fs::write(path(number), format!("-{number:06}")).unwrap();
                Store::File { number, path: path(number), len: 7, files: files.clone() }
            })
            .collect();
        let span = Span { start: NonZeroU64::new(1).unwrap(), len: 6 };
        let read =
            |number: usize| stores[number].part(span).map(|bytes| String::from_utf8(bytes.into_owned()).unwrap());
        for number in (0..stores.len()).chain((0..stores.len()).rev()) {
            assert_eq!(read(number).unwrap(), format!("{number:06}"));
        }
        // Once while it is open, once when it is opened again.
        std::fs::write(path(0), "-0").unwrap();
        for _ in 0..2 {
            let error = read(0).unwrap_err().to_string();
            assert!(error.contains("had 7 bytes") && error.contains("has 2 now"), "{error}");
            read(MAX_OPEN).unwrap();
        }
        std::fs::remove_file(path(1)).unwrap();
        read(MAX_OPEN + 1).unwrap();
        assert_eq!(read(1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
