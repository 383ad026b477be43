//! Where bytes are: from what a user writes to a list of shards, and any part of a shard.
//!
//! | file | what it does |
//! |---|---|
//! | `location` | where a shard is |
//! | `source` | from what a user writes to a list of shards |
//! | `embedded` | the data set inside the program |
//! | `braces` | `{000..127}` and `{a,b}` |
//! | `local` | files on disk |
//! | `shards` | the shards in a folder |
//! | `folder`, `image_files` | the files in a folder; image files that are named one by one |
//! | `joined` | many small files as one store |
//! | `access`, `elsewhere` | how shards that are not on disk are fetched; which there are, and their bytes |
//! | `remote`, `pipe` | object stores and web servers; the output of commands |
//! | `spool`, `gunzip`, `unzstd` | fetched and unpacked archives |
//!
//! What the bytes mean belongs in `format`. Another place to read from is another [`Location`], and another [`Store`]
//! unless it is fetched into a temporary file.
//!
//! Nothing is mapped into memory: Linux allows about 65,000 maps per process, and reading a mapped file that was
//! truncated raises SIGBUS.

mod access;
mod braces;
mod elsewhere;
pub(crate) mod embedded;
mod folder;
mod gunzip;
mod image_files;
mod joined;
mod local;
mod location;
mod pipe;
#[cfg(feature = "remote")]
mod remote;
mod shards;
pub(crate) mod source;
mod spool;
mod unzstd;

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::access::{Access, CacheFolder};
pub(crate) use self::access::{Fetching, NEVER};
#[cfg(any(test, fuzzing))]
pub(crate) use self::braces::{MAX_SHARDS, expand_braces};
pub(crate) use self::elsewhere::{beside, fetch, names_in, version};
pub(crate) use self::folder::{IMAGES, files_in, table_in};
pub(crate) use self::gunzip::Gunzip;
pub(crate) use self::image_files::BESIDE;
pub(crate) use self::joined::Joined;
use self::local::read_unchanged;
pub(crate) use self::local::{Files, OpenFile};
pub use self::location::Location;
#[cfg(all(test, feature = "remote"))]
pub(crate) use self::remote::{ATTEMPTS, RANGE};
pub(crate) use self::shards::{by_kind, left_out, parquet_stem, shards_in};
pub use self::source::Source;
pub(crate) use self::source::embedded_names;
#[cfg(feature = "parquet")]
pub(crate) use self::spool::Appended;
pub(crate) use self::spool::{Spool, Spooled};
pub(crate) use self::unzstd::Unzstd;

/// A range of a shard's bytes. It never starts at 0, where the first header of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: NonZeroU64,
    pub(crate) len: u64,
}

/// Bytes that can be read at any offset.
pub(crate) trait ReadAt {
    fn len(&self) -> u64;

    /// Fills `into` with the bytes at `at`.
    ///
    /// # Errors
    /// If there are too few bytes, or they cannot be read.
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

/// The bytes of one shard, unpacked.
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
    /// A file in the cache of fetched shards.
    #[cfg(feature = "remote")]
    Held(local::Held),
    Joined(Joined),
}

impl ReadAt for Store {
    fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Spooled(spooled) => spooled.len,
            #[cfg(feature = "remote")]
            Self::Held(held) => held.len,
            Self::Joined(joined) => joined.len(),
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
            #[cfg(feature = "remote")]
            Self::Held(held) => held.read_at(into, at),
            Self::Joined(joined) => joined.read_at(into, at),
        }
    }
}

thread_local! {
    /// Reused by [`Store::with_part`].
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A thread keeps a buffer of at most this many bytes.
const MAX_BUFFER: usize = 16 << 20;

impl Store {
    /// A part of the archive, borrowed if the archive is in memory.
    pub(crate) fn part(&self, span: Span) -> io::Result<Cow<'_, [u8]>> {
        let (start, len) = (span.start.get(), usize::try_from(span.len).map_err(io::Error::other)?);
        if let Self::Memory(bytes) = self {
            let part = usize::try_from(start).ok().and_then(|start| bytes.get(start..start + len));
            return part.map(Cow::Borrowed).ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        self.read_at(&mut bytes, start)?;
        Ok(Cow::Owned(bytes))
    }

    /// Calls `use_it` with a part of the archive, in a buffer that is reused.
    pub(crate) fn with_part<T>(&self, span: Span, use_it: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
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

/// Bytes that are read from front to back.
pub(crate) struct Reading<'a, R: ReadAt + ?Sized> {
    of: &'a R,
    /// How much was read.
    pub(crate) at: u64,
}

impl<'a, R: ReadAt + ?Sized> Reading<'a, R> {
    pub(crate) fn new(of: &'a R) -> Self {
        Self { of, at: 0 }
    }
}

impl<R: ReadAt + ?Sized> io::Read for Reading<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = fill_from(self.of, into, self.at)?.len();
        self.at += read as u64;
        Ok(read)
    }
}

/// Reads from `at` on as many bytes as `buffer` holds, or all that there are.
pub(crate) fn fill_from<'a, R: ReadAt + ?Sized>(from: &R, buffer: &'a mut [u8], at: u64) -> io::Result<&'a [u8]> {
    let len = from.len().saturating_sub(at).min(buffer.len() as u64) as usize;
    from.read_at(&mut buffer[..len], at)?;
    Ok(&buffer[..len])
}
