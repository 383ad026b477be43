//! Unpacked archives in a temporary file.

use std::fs::File;
use std::io::{self, Read};
#[cfg(feature = "parquet")]
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ReadAt;
#[cfg(feature = "parquet")]
use super::Span;
use super::local::{read_exact_at, write_all_at};

/// An unnamed temporary file, shared by all unpacked archives of a data set. The system removes it when the program
/// ends, however it ends.
pub(crate) struct Spool {
    folder: PathBuf,
    pieces: Mutex<Option<Arc<Pieces>>>,
}

/// The file, and which of its pieces are in use.
struct Pieces {
    file: File,
    /// All pieces from this one on are unused.
    next: AtomicU32,
    /// Those of archives that were dropped.
    free: Mutex<Vec<u32>>,
}

impl Pieces {
    fn take(&self) -> u32 {
        let freed = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        freed.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Archives are unpacked concurrently, each into pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// An archive in a [`Spool`]. When it is dropped, its pieces are used again.
pub(crate) struct Spooled {
    of: Arc<Pieces>,
    /// Its pieces, by their number in the file.
    pieces: Vec<u32>,
    pub(super) len: u64,
}

impl Drop for Spooled {
    fn drop(&mut self) {
        self.of.free.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.pieces);
    }
}

impl Default for Spool {
    /// In `TMPDIR`, or else in `/var/tmp`, since `/tmp` is often in memory.
    fn default() -> Self {
        let usual = Path::new("/var/tmp");
        let folder = match std::env::var_os("TMPDIR") {
            None if usual.is_dir() => usual.to_owned(),
            _ => std::env::temp_dir(),
        };
        Self { folder, pieces: Mutex::default() }
    }
}

impl Spool {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn pieces(&self) -> io::Result<Arc<Pieces>> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pieces) = &*pieces {
            return Ok(pieces.clone());
        }
        let file = tempfile::tempfile_in(&self.folder)?;
        let made = Arc::new(Pieces { file, next: AtomicU32::new(0), free: Mutex::default() });
        *pieces = Some(made.clone());
        Ok(made)
    }

    /// An archive that is still empty.
    ///
    /// # Errors
    /// Those of the temporary file.
    pub(super) fn start(&self) -> io::Result<Spooled> {
        Ok(Spooled { of: self.pieces()?, pieces: Vec::new(), len: 0 })
    }

    /// Unpacks `from` to its end, or to its first error, which is returned together with what was read before it.
    ///
    /// # Errors
    /// Those of the temporary file.
    pub(crate) fn unpack(&self, mut from: impl Read) -> io::Result<(Spooled, Option<io::Error>)> {
        let mut spooled = self.start()?;
        let mut piece = vec![0; PIECE];
        loop {
            let (filled, problem) = fill(&mut from, &mut piece);
            if filled > 0 {
                spooled.write_at(&piece[..filled], spooled.len)?;
            }
            if problem.is_some() || filled < PIECE {
                return Ok((spooled, problem));
            }
        }
    }
}

/// Parts that are written one after another.
#[cfg(feature = "parquet")]
pub(crate) struct Appended {
    spooled: Spooled,
    /// What is not written yet.
    buffer: Vec<u8>,
}

#[cfg(feature = "parquet")]
impl Appended {
    /// # Errors
    /// Those of the temporary file.
    pub(crate) fn new(spool: &Spool) -> io::Result<Self> {
        // No span starts at 0.
        Ok(Self { spooled: spool.start()?, buffer: vec![0] })
    }

    /// Adds a part, and returns where it is.
    ///
    /// # Errors
    /// Those of the temporary file.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<Option<Span>> {
        let start = NonZeroU64::new(self.spooled.len + self.buffer.len() as u64);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(start.map(|start| Span { start, len: bytes.len() as u64 }))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spooled.write_at(&self.buffer, self.spooled.len)?;
        self.buffer.clear();
        Ok(())
    }

    /// # Errors
    /// Those of the temporary file.
    pub(crate) fn finish(mut self) -> io::Result<Spooled> {
        self.flush()?;
        Ok(self.spooled)
    }
}

impl Spooled {
    /// Writes bytes at any offset, in any order. Parts that are never written have any content.
    pub(super) fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        // Owned before they are written, so that a failed write does not lose them.
        self.len = self.len.max(at + bytes.len() as u64);
        while self.pieces.len() < self.len.div_ceil(PIECE as u64) as usize {
            self.pieces.push(self.of.take());
        }
        self.parts(at, bytes.len()).try_for_each(|(part, at)| write_all_at(&self.of.file, &bytes[part], at))
    }

    /// Cuts `len` bytes from `at` on where pieces end: each part, and where in the file it is.
    fn parts(&self, at: u64, len: usize) -> impl Iterator<Item = (Range<usize>, u64)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let (piece, within) = ((at + done as u64) / PIECE as u64, (at + done as u64) % PIECE as u64);
            let part = done..len.min(done + PIECE - within as usize);
            done = part.end;
            (!part.is_empty()).then(|| (part, u64::from(self.pieces[piece as usize]) * PIECE as u64 + within))
        })
    }

    /// Gives its pieces back.
    #[cfg(feature = "remote")]
    pub(super) fn clear(&mut self) {
        self.of.free.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.pieces);
        self.len = 0;
    }
}

impl ReadAt for Spooled {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        if at.checked_add(into.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.parts(at, into.len()).try_for_each(|(part, at)| read_exact_at(&self.of.file, &mut into[part], at))
    }
}

/// Reads until `into` is full or `from` ends or fails.
fn fill(from: &mut impl Read, into: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spooled_archives_read_as_they_were_written() {
        let spool = Spool::default();
        let archive = |length: usize, seed: usize| (0..length).map(|i| (i * 7 + i / 251 + seed) as u8).collect();
        let archives: Vec<Vec<u8>> = vec![archive(3 * PIECE + 17, 1), archive(PIECE, 2), archive(5, 3), archive(0, 4)];
        let spooled: Vec<Spooled> = std::thread::scope(|scope| {
            let spool = &spool;
            let unpack = |bytes: &'static [u8]| spool.unpack(bytes).map(|(spooled, _)| spooled).unwrap();
            let threads: Vec<_> =
                archives.iter().map(|bytes| scope.spawn(move || unpack(bytes.clone().leak()))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (bytes, spooled) in archives.iter().zip(&spooled) {
            assert_eq!(spooled.len, bytes.len() as u64);
            for (start, end) in [(0, bytes.len()), (3, 5), (PIECE - 1, PIECE + 2), (PIECE, 3 * PIECE + 17)] {
                let mut part = vec![0; end - start];
                let read = spooled.read_at(&mut part, start as u64);
                assert_eq!(read.is_ok(), end <= bytes.len(), "{start}..{end} of {}", bytes.len());
                assert!(read.is_err() || part == bytes[start..end]);
            }
        }
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn appended_parts_are_where_they_were_put() {
        let spool = Spool::default();
        let mut appended = Appended::new(&spool).unwrap();
        let parts: Vec<Vec<u8>> =
            [3, 0, PIECE - 4, 1, 2 * PIECE + 5, 7].iter().map(|&len| vec![len as u8 ^ 0x55; len]).collect();
        let spans: Vec<Span> = parts.iter().map(|part| appended.add(part).unwrap().unwrap()).collect();
        let spooled = appended.finish().unwrap();
        for (part, span) in parts.iter().zip(spans) {
            let mut read = vec![0; span.len as usize];
            spooled.read_at(&mut read, span.start.get()).unwrap();
            assert!(read == *part);
        }
    }

    #[test]
    fn parts_are_written_in_any_order() {
        let spool = Spool::default();
        let bytes: Vec<u8> = (0..3 * PIECE + 17).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut spooled = spool.start().unwrap();
        for (start, end) in [(2 * PIECE - 5, bytes.len()), (0, 9), (9, 2 * PIECE - 5), (5, 12)] {
            spooled.write_at(&bytes[start..end], start as u64).unwrap();
        }
        let mut read = vec![0; bytes.len()];
        spooled.read_at(&mut read, 0).unwrap();
        assert!(read == bytes && spooled.len == bytes.len() as u64);
    }

    #[test]
    fn pieces_of_dropped_archives_are_used_again() {
        let spool = Spool::default();
        for number in 0..9 {
            let bytes = vec![number; 2 * PIECE + 1];
            let (spooled, _) = spool.unpack(&bytes[..]).unwrap();
            let mut read = vec![0; bytes.len()];
            spooled.read_at(&mut read, 0).unwrap();
            assert!(read == bytes);
        }
        let pieces = spool.pieces().unwrap();
        assert_eq!(pieces.file.metadata().unwrap().len(), 3 * PIECE as u64);
    }
}
