//! Parquet files of images, or of paths of images, with captions: as Hugging Face's datasets, LAION, DataComp and
//! img2dataset have them.
//!
//! Opening a shard decodes its row groups one after another, a few rows at a time, and writes images and texts to the
//! spool; the index has spans into that, as for any other format. A row is a sample; its `.json` has the columns that
//! are numbers, texts, or lists of texts, so that `--caption-key` and `--where` can name any of them.
//!
//! | file | what it does |
//! |---|---|
//! | `columns` | which column is what |
//! | `nesting` | how deep columns are nested, before they are read |
//! | `pages` | the pages of a column, checked |
//! | `cell` | a value of a column |
//! | `read` | the values of a column, a few rows at a time |
//! | `number` | decimals, and floats of two bytes |
//! | `unpack` | from rows to samples |
//! | `vectors` | files with a vector per row |
//!
//! The crate `parquet` may panic on damaged files; [`confined`] makes that an error.

mod cell;
mod columns;
mod nesting;
mod number;
mod pages;
mod read;
#[cfg(test)]
mod tests;
mod unpack;
mod vectors;

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;

use self::columns::Columns;
use self::unpack::{Stop, Unpacker};
pub(crate) use self::vectors::Vectors;
use super::damage::samples_lost;
use super::notes::NoteKind;
use super::sniff::sniff;
use super::{Indexed, Naming, table, tar};
use crate::data::broken::confined;
use crate::data::error::{DataError, Result};
use crate::data::store::{OpenFile, ReadAt, Spool, Store, fill_from, parquet_stem};

/// What a file begins with; one whose footer is encrypted begins with the other.
const MAGIC: &[u8] = b"PAR1";
const ENCRYPTED: &[u8] = b"PARE";

/// Whether a file with this beginning is read as Parquet: by what it is, or else by its name.
pub(super) fn is_parquet(path: &Path, head: &[u8]) -> bool {
    let by_name = || parquet_stem(&path.to_string_lossy()).is_some();
    let is_other = || tar::is_start(head) || sniff(head).is_some();
    head.starts_with(MAGIC) || head.starts_with(ENCRYPTED) || by_name() && !is_other()
}

/// A file as the crate `parquet` reads it.
#[derive(Clone)]
struct Source {
    of: Arc<dyn ReadAt + Send + Sync>,
    /// Why the file could not be read, which is not damage.
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Source {
    fn new(of: impl ReadAt + Send + Sync + 'static) -> Self {
        Self { of: Arc::new(of), failed: Arc::default() }
    }

    fn fill<'a>(&self, into: &'a mut [u8], at: u64) -> io::Result<&'a [u8]> {
        fill_from(&*self.of, into, at).inspect_err(|error| {
            let copy = io::Error::new(error.kind(), error.to_string());
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        })
    }

    fn failure(&self) -> Option<io::Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the footer of a file of `len` bytes has columns that are nested too deep.
    fn is_too_deep(&self, len: u64) -> bool {
        let read = |start: Option<u64>, bytes: usize| self.get_bytes(start?, bytes).ok();
        let length = read(len.checked_sub(8), 4).and_then(|bytes| Some(u32::from_le_bytes(*bytes.first_chunk()?)));
        let footer = length.and_then(|length| read((len - 8).checked_sub(length.into()), length as usize));
        footer.is_some_and(|footer| nesting::is_too_deep(&footer))
    }

    /// What the footer says.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn footer(&self) -> Result<ParquetMetaData, String> {
        let mut magic = [0; MAGIC.len()];
        let len = Length::len(self);
        let mut is_at = |at: u64, of: &[u8]| self.fill(&mut magic, at).is_ok_and(|found| found == of);
        if is_at(0, ENCRYPTED) || is_at(len.saturating_sub(4), ENCRYPTED) {
            return Err("its footer is encrypted; write it without encryption".to_owned());
        }
        if !is_at(0, MAGIC) {
            return Err("it does not begin with `PAR1`, so it is not a Parquet file".to_owned());
        }
        if len < 12 || !is_at(len - 4, MAGIC) {
            return Err("it does not end with `PAR1`: it was cut, or is still being written; fetch it again".to_owned());
        }
        if self.is_too_deep(len) {
            return Err(format!("its columns are nested more than {} deep", nesting::MAX));
        }
        let skip = ParquetStatisticsPolicy::SkipAll;
        let options = ParquetMetaDataOptions::new().with_column_stats_policy(skip.clone()).with_size_stats_policy(skip);
        let reader = ParquetMetaDataReader::new().with_metadata_options(Some(options));
        let read = confined(|| Ok(reader.parse_and_finish(self)));
        let read = read.map_err(|panic| panic.detail).and_then(|read| read.map_err(|error| plain(&error)));
        let footer = read.map_err(|problem| format!("its footer is damaged ({problem}); fetch it again"))?;
        let rows = footer.row_groups().iter().map(|group| u64::try_from(group.num_rows()).ok());
        let rows = rows.sum::<Option<u64>>();
        if rows.is_none() || rows != u64::try_from(footer.file_metadata().num_rows()).ok() {
            return Err("its footer is damaged (its numbers of rows contradict each other); fetch it again".to_owned());
        }
        Ok(footer)
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.of.len()
    }
}

impl ChunkReader for Source {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        // Headers of pages, which are small.
        Ok(BufReader::with_capacity(1 << 10, From { source: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > Length::len(self)) {
            return Err(ParquetError::EOF(format!("{length} bytes at byte {start} are not in the file")));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// Reads a [`Source`] from a place on.
struct From {
    source: Source,
    at: u64,
}

impl Read for From {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.source.fill(into, self.at)?.len();
        // A page header never reaches the end of the file. Past the end, the crate would skip values without end.
        if read == 0 && !into.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// An error without the name of the crate.
fn plain(error: &ParquetError) -> String {
    let text = error.to_string();
    let known = ["Parquet error: ", "External: ", "EOF: ", "NYI: "];
    known.iter().find_map(|start| text.strip_prefix(start)).unwrap_or(&text).to_owned()
}

/// How many rows a file has by its footer; `None` if that cannot be read.
pub(crate) fn rows(path: &Path) -> Option<u64> {
    let footer = Source::new(OpenFile::open(path).ok()?).footer().ok()?;
    u64::try_from(footer.file_metadata().num_rows()).ok()
}

/// Unpacks and indexes the Parquet file in `bytes`. `folder`: where paths of images start, as in a table; `None` if the
/// file is not on disk.
///
/// # Errors
/// A file without a readable footer, columns of images or rows; one of which no row group can be decoded; those of the
/// temporary file.
pub(super) fn open(
    path: &Path,
    folder: Option<&Path>,
    bytes: impl ReadAt + Send + Sync + 'static,
    image_key: Option<&str>,
    spool: &Spool,
) -> Result<(Store, Indexed)> {
    let shard = path.display().to_string();
    let source = Source::new(bytes);
    let read = |source: io::Error| DataError::Read { path: path.to_owned(), source };
    let unusable = |problem: String| DataError::NotParquet { shard: shard.clone(), problem };
    let footer = match (source.footer(), source.failure()) {
        (_, Some(error)) => return Err(read(error)),
        (footer, None) => footer.map_err(unusable)?,
    };
    let of_table = |problem: String| DataError::Table { path: path.to_owned(), problem };
    let columns = Columns::find(footer.file_metadata().schema_descr(), image_key).map_err(of_table)?;
    if columns.needs_files() && folder.is_none() {
        return Err(of_table(table::NOT_ON_DISK.to_owned()));
    }
    let failed = |source| DataError::Spool { shard: path.to_owned(), folder: spool.folder().to_owned(), source };
    let mut unpacker = Unpacker::new(&columns, spool).map_err(failed)?;
    let (mut lost, mut notes, mut first) = (0, Vec::new(), None);
    for (number, group) in footer.row_groups().iter().enumerate() {
        let before = unpacker.rows();
        let unpacked = confined(|| Ok(unpacker.row_group(&source, group)));
        let problem = match unpacked {
            Ok(Ok(())) => continue,
            Ok(Err(Stop::Spool(error))) => return Err(failed(error)),
            Ok(Err(Stop::Damage(error))) => plain(&error),
            Err(panic) => format!("the decoder failed: {}", panic.detail),
        };
        if let Some(error) = source.failure() {
            return Err(read(error));
        }
        // Damage can make either number anything.
        let rows = group.num_rows().min(footer.file_metadata().num_rows()).max(0) as u64;
        let done = unpacker.rows() - before;
        let gone = rows.saturating_sub(done);
        lost += gone;
        let groups = footer.num_row_groups();
        let text = format!(
            "row group {} of {groups} cannot be decoded after {done} of its {rows} rows ({problem}){}",
            number + 1,
            samples_lost(gone)
        );
        first.get_or_insert_with(|| text.clone());
        notes.push((NoteKind::Lost, text));
    }
    if unpacker.rows() == 0 {
        return Err(match first {
            Some(problem) => unusable(problem),
            None => DataError::EmptyShard { shard, problem: "it has no rows".to_owned() },
        });
    }
    let (store, entries) = unpacker.finish(folder).map_err(failed)?;
    Ok((
        store,
        Indexed { entries, naming: Naming::Columns, extensions: columns.names, lost, notes, ..Indexed::default() },
    ))
}
