//! Where bytes are: from what a user writes to a list of shards, and any part of a shard.
//!
//! | file | what it does |
//! |---|---|
//! | `source` | from what a user writes to a list of shards |
//! | `embedded` | the data set inside the program |
//! | `gunzip` | unpacking |
//!
//! What the bytes mean belongs in `format`. Another place to read from (an object store, a pipe) is another [`Location`]
//! and another [`Store`].
//!
//! Nothing is mapped into memory: Linux allows some 65,000 maps, and truncating a mapped file would end the program with
//! SIGBUS. Files are opened when they are read, and a bounded number stays open.

mod embedded;
mod gunzip;
pub(crate) mod source;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use self::embedded::{SHARDS, TOKENIZER};
pub(crate) use self::gunzip::Gunzip;
pub use self::source::{Location, Source};
pub(crate) use self::source::{embedded_names, left_out};

/// A part of an archive. A member never begins at 0, where its header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub start: NonZeroU64,
    pub len: u64,
}

/// Bytes of which any part can be read.
pub(crate) trait ReadAt {
    fn len(&self) -> u64;

    /// Fills `into` with the bytes from `at` on.
    ///
    /// # Errors
    /// If there are too few, or they cannot be read.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let part = start.checked_add(into.len()).and_then(|end| self.get(start..end));
        into.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// An open file and the length that it had when it was opened.
pub(crate) struct OpenFile {
    pub file: File,
    pub len: u64,
    /// Tells it apart from other files whatever its path, where the system says.
    pub identity: Option<(u64, u64)>,
}

impl OpenFile {
    /// # Errors
    /// If it cannot be opened, or is not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Before opening: to open a pipe waits for its writer.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            let problem = "it is not a regular file (perhaps a pipe or a device), and samples are read in random order; \
                           save it as a file first";
            return Err(io::Error::other(problem));
        }
        let identity = identity(&metadata);
        Ok(Self { file: File::open(path)?, len: metadata.len(), identity })
    }
}

#[cfg(unix)]
fn identity(told: &std::fs::Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((told.dev(), told.ino()))
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
fn read_unchanged(file: &File, len: u64, into: &mut [u8], at: u64) -> io::Result<()> {
    read_exact_at(file, into, at).map_err(|error| changed(file, len).unwrap_or(error))
}

/// An error, if a file no longer has its former length.
fn changed(file: &File, len: u64) -> Option<io::Error> {
    let now = file.metadata().ok()?.len();
    (now != len).then(|| {
        io::Error::other(format!(
            "it had {len} bytes when it was opened and has {now} now; shards must not change while they are in use \
             (is a download or a copy still running?)"
        ))
    })
}

#[cfg(unix)]
fn read_exact_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut into: &mut [u8], mut at: u64) -> io::Result<()> {
    while !into.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, into, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (into, at) = (&mut into[read..], at + read as u64),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn write_all_at(file: &File, from: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, from, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut from: &[u8], mut at: u64) -> io::Result<()> {
    while !from.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, from, at)?;
        (from, at) = (&from[written..], at + written as u64);
    }
    Ok(())
}

/// Open files, by their number modulo [`OPEN`].
pub(crate) struct Files(Vec<Mutex<Option<(u32, Arc<File>)>>>);

/// Half of what a process may open by default on Linux (1,024).
const OPEN: usize = 512;

impl Default for Files {
    fn default() -> Self {
        Self((0..OPEN).map(|_| Mutex::default()).collect())
    }
}

impl Files {
    /// The file `number`, which had `len` bytes when its index was made.
    fn get(&self, number: u32, path: &Path, len: u64) -> io::Result<Arc<File>> {
        let mut place = self.0[number as usize % OPEN].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = place.as_ref().filter(|(held, _)| *held == number) {
            return Ok(file.clone());
        }
        // The previous file is closed before the next is opened.
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

/// `EMFILE`: the same number on Linux, macOS and in Windows' C library.
const TOO_MANY_OPEN: i32 = 24;

/// The bytes of one archive, unpacked.
pub(crate) enum Store {
    /// A file on disk; `number` identifies it in `files`.
    File {
        number: u32,
        path: PathBuf,
        len: u64,
        files: Arc<Files>,
    },
    Memory(Vec<u8>),
    Spooled(Spooled),
}

impl ReadAt for Store {
    fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Spooled(spooled) => spooled.len,
        }
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            Self::File { number, path, len, files } => {
                let file = files.get(*number, path, *len)?;
                read_unchanged(&file, *len, into, at)
            }
            Self::Memory(bytes) => bytes[..].read_at(into, at),
            Self::Spooled(spooled) => spooled.read_at(into, at),
        }
    }
}

thread_local! {
    /// A buffer for a part, used again for the next one.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A thread keeps a buffer of at most this many bytes.
const MAX_BUFFER: usize = 16 << 20;

impl Store {
    /// A part of the archive; borrowed if the archive is in memory.
    pub fn part(&self, span: Span) -> io::Result<Cow<'_, [u8]>> {
        let (start, len) = (span.start.get(), usize::try_from(span.len).map_err(io::Error::other)?);
        if let Self::Memory(bytes) = self {
            let part = usize::try_from(start).ok().and_then(|start| bytes.get(start..start + len));
            return part.map(Cow::Borrowed).ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        self.read_at(&mut bytes, start)?;
        Ok(Cow::Owned(bytes))
    }

    /// Calls `use_it` with a part of the archive, without an allocation for each.
    pub fn with_part<T>(&self, span: Span, use_it: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        if let Self::Memory(_) = self {
            return Ok(use_it(&self.part(span)?));
        }
        let len = usize::try_from(span.len).map_err(io::Error::other)?;
        let mut buffer = BUFFER.take();
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        self.read_at(&mut buffer[..len], span.start.get())?;
        let used = use_it(&buffer[..len]);
        if buffer.len() <= MAX_BUFFER {
            BUFFER.set(buffer);
        }
        Ok(used)
    }
}

/// A temporary file without a name, which all unpacked archives of a data set share. The system removes it when the
/// program ends, however it ends.
pub(crate) struct Spool {
    folder: PathBuf,
    file: Mutex<Option<Arc<File>>>,
    next: AtomicU32,
}

/// Archives are unpacked side by side, each into pieces of this size.
const PIECE: usize = 1 << 20;

/// An archive in a [`Spool`].
pub(crate) struct Spooled {
    file: Arc<File>,
    /// Numbers of its pieces in the file.
    pieces: Vec<u32>,
    len: u64,
}

impl Default for Spool {
    /// In the folder `TMPDIR`, or else in `/var/tmp`, since `/tmp` is often in memory.
    fn default() -> Self {
        let usual = Path::new("/var/tmp");
        let folder = match std::env::var_os("TMPDIR") {
            None if usual.is_dir() => usual.to_owned(),
            _ => std::env::temp_dir(),
        };
        Self { folder, file: Mutex::default(), next: AtomicU32::new(0) }
    }
}

impl Spool {
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self) -> io::Result<Arc<File>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*file {
            return Ok(file.clone());
        }
        let made = Arc::new(tempfile::tempfile_in(&self.folder)?);
        *file = Some(made.clone());
        Ok(made)
    }

    /// Unpacks `from` to its end, or up to an error of its own, which is returned with what came before it.
    ///
    /// # Errors
    /// Those of the temporary file.
    pub fn unpack(&self, mut from: impl Read) -> io::Result<(Spooled, Option<io::Error>)> {
        let mut spooled = Spooled { file: self.file()?, pieces: Vec::new(), len: 0 };
        let mut piece = vec![0; PIECE];
        loop {
            let (filled, problem) = fill(&mut from, &mut piece);
            if filled > 0 {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                write_all_at(&spooled.file, &piece[..filled], u64::from(number) * PIECE as u64)?;
                spooled.pieces.push(number);
                spooled.len += filled as u64;
            }
            if problem.is_some() || filled < PIECE {
                return Ok((spooled, problem));
            }
        }
    }
}

/// The bytes from `at` on: as many as `buffer` holds, or all that there are.
pub(crate) fn fill_from<'a, R: ReadAt + ?Sized>(from: &R, buffer: &'a mut [u8], at: u64) -> io::Result<&'a [u8]> {
    let len = from.len().saturating_sub(at).min(buffer.len() as u64) as usize;
    from.read_at(&mut buffer[..len], at)?;
    Ok(&buffer[..len])
}

/// Reads until `into` is full or nothing more comes.
pub(crate) fn fill(from: &mut impl Read, into: &mut [u8]) -> (usize, Option<io::Error>) {
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

impl ReadAt for Spooled {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut into: &mut [u8], mut at: u64) -> io::Result<()> {
        if at.checked_add(into.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !into.is_empty() {
            let (piece, within) = ((at / PIECE as u64) as usize, (at % PIECE as u64) as usize);
            let (now, later) = into.split_at_mut((PIECE - within).min(into.len()));
            read_exact_at(&self.file, now, u64::from(self.pieces[piece]) * PIECE as u64 + within as u64)?;
            at += now.len() as u64;
            into = later;
        }
        Ok(())
    }
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

    /// More files than stay open, in every order, and one that changes its length.
    #[test]
    fn files_are_opened_again_and_a_changed_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::default());
        let path = |number: u32| folder.path().join(number.to_string());
        let stores: Vec<Store> = (0..OPEN as u32 + 40)
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
            read(OPEN).unwrap();
        }
        std::fs::remove_file(path(1)).unwrap();
        read(OPEN + 1).unwrap();
        assert_eq!(read(1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
