//! One shard: its bytes, and its samples.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tracing::debug;

use super::damage::{self, Inflation};
use super::front::{self, Front, Unused};
use super::members::{self, Entry, printable};
use super::notes::NoteKind;
use super::packed::{self, Packing};
#[cfg(feature = "parquet")]
use super::parquet;
use super::sniff::sniff;
use super::tar::{self, TarError};
use super::{Indexed, Naming, folder, table, tfrecord};
use crate::data::broken::{Broken, Kind};
use crate::data::error::{DataError, Result};
use crate::data::store::{
    self, Access, Fetching, Files, Gunzip, Location, OpenFile, ReadAt, Span, Spool, Store, embedded, fill_from,
};

/// Bytes from which the kind of a file is guessed, if it is not an archive.
const PROBE_BYTES: usize = 4096;

/// What the shards of a data set share.
#[derive(Default)]
pub(crate) struct Common {
    /// The column of tables that has the paths of images.
    pub(crate) image_key: Option<String>,
    /// Whether [`Report::fields`] is filled.
    pub(crate) wants_fields: bool,
    /// Whether the headers of a pack are read, too, to compare its index with them.
    pub(crate) wants_headers: bool,
    pub(crate) access: Access,
    pub(crate) files: Arc<Files>,
    pub(crate) spool: Spool,
}

/// An indexed shard.
pub(crate) struct Shard {
    pub(crate) location: Location,
    store: Store,
    pub(crate) naming: Naming,
    pub(crate) samples: Vec<Entry>,
    /// An estimate of the samples that were lost to damage, in addition to those in `samples`.
    pub(crate) lost: u64,
}

/// What is known about a shard and only needed while the data set is opened.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) notes: Vec<(NoteKind, String)>,
    /// See [`Indexed::fields`].
    pub(crate) fields: Vec<Option<String>>,
    /// Every extension in the archive, for error messages.
    pub(crate) extensions: Vec<String>,
    /// Bytes that were unpacked to disk.
    pub(crate) unpacked: u64,
    /// Bytes that were fetched.
    pub(crate) fetched: u64,
    /// Identifies its file.
    pub(crate) file: Option<(u64, u64)>,
}

impl Shard {
    /// As [`Self::open_unless`], which is never stopped.
    ///
    /// # Errors
    /// As [`Self::open_unless`].
    #[cfg(any(test, fuzzing))]
    pub(crate) fn open(number: u32, location: &Location, common: &Common) -> Result<(Self, Report)> {
        Self::open_unless(number, location, common, &store::NEVER)
    }

    /// Indexes shard `number` of the data set; a fetch ends with an error when `stop` is set.
    ///
    /// # Errors
    /// A file that cannot be read, is in no format that flipk reads, or has no samples.
    pub(crate) fn open_unless(
        number: u32,
        location: &Location,
        common: &Common,
        stop: &AtomicBool,
    ) -> Result<(Self, Report)> {
        let start = Instant::now();
        let mut report = Report::default();
        let (store, indexed) = match location {
            Location::Embedded(name) => embedded_archive(name)?,
            Location::Folder(path) => folder::open(path)?,
            Location::Images(path, names) => folder::open_images(path, names)?,
            Location::File(path) => file(number, path, common, &mut report)?,
            Location::Remote(_) | Location::Pipe(_) => fetched(location, common, stop, &mut report)?,
        };
        let name = location.to_string();
        let Indexed { entries: samples, naming, fields, extensions, lost, notes, found } = indexed;
        if samples.is_empty() {
            return Err(empty(name, naming, &found.unwrap_or_else(|| naming.found(extensions.iter()))));
        }
        report.notes = notes.into_iter().map(|(kind, text)| (kind, format!("{name}: {text}"))).collect();
        (report.extensions, report.fields) = (extensions, fields);
        debug!(shard = name, samples = samples.len(), seconds = start.elapsed().as_secs_f64(), "opened a shard");
        Ok((Self { location: location.clone(), store, naming, samples, lost }, report))
    }

    /// Bytes of an archive, unpacked; 0 for what consists of many files.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.store {
            Store::Joined(_) => 0,
            store => store.len(),
        }
    }

    /// A part of the archive, if the sample has it.
    ///
    /// # Errors
    /// A file that cannot be read, or has changed since it was indexed.
    pub(crate) fn part(&self, span: Option<Span>) -> Result<Option<Cow<'_, [u8]>>, Broken> {
        span.map(|span| self.store.part(span)).transpose().map_err(unreadable)
    }

    /// The texts that captions are read from: the `.txt` part, or all captions of a record.
    ///
    /// # Errors
    /// As [`Self::part`].
    pub(crate) fn txts(&self, entry: &Entry) -> Result<Vec<Cow<'_, [u8]>>, Broken> {
        let spans = entry.txt.iter().chain(&entry.more_txt);
        spans.filter_map(|span| self.part(Some(*span)).transpose()).collect()
    }

    /// Calls `use_it` with a part of the archive, if the sample has it; faster than [`Self::part`] for large ones.
    ///
    /// # Errors
    /// As [`Self::part`].
    pub(crate) fn with_part<T>(
        &self,
        span: Option<Span>,
        use_it: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Broken> {
        span.map(|span| self.store.with_part(span, use_it)).transpose().map_err(unreadable)
    }
}

fn unreadable(error: std::io::Error) -> Broken {
    Broken { kind: Kind::Unreadable, detail: error.to_string() }
}

fn empty(shard: String, naming: Naming, found: &str) -> DataError {
    DataError::EmptyShard { shard, problem: format!("looked for {}; found {found}", naming.samples()) }
}

fn no_bytes(shard: String) -> DataError {
    DataError::EmptyShard { shard, problem: "it is an empty file (0 bytes)".to_owned() }
}

fn embedded_archive(name: &str) -> Result<(Store, Indexed)> {
    let archive = embedded::SHARDS.iter().find(|(known, _)| *known == name);
    let mut bytes = Vec::new();
    let read = Gunzip::new(archive.map_or(&[][..], |(_, archive)| archive)).read_to_end(&mut bytes);
    let name = format!("embedded:{name}");
    read.map_err(|error| DataError::NotTar { shard: name.clone(), problem: error.to_string() })?;
    let indexed = index(&bytes[..], &name, "it is", None, &Common::default())?;
    Ok((Store::Memory(bytes), indexed))
}

fn file(number: u32, path: &Path, common: &Common, report: &mut Report) -> Result<(Store, Indexed)> {
    let read = |source| DataError::Read { path: path.to_owned(), source };
    let name = path.display().to_string();
    let image_key = common.image_key.as_deref();
    let file = OpenFile::open(path).map_err(read)?;
    report.file = file.identity;
    let mut head = vec![0; PROBE_BYTES];
    let head = fill_from(&file, &mut head, 0).map_err(read)?;
    if head.is_empty() {
        return Err(no_bytes(name));
    }
    if let Some(packing) = Packing::detect(head) {
        return unpacked(packing, &file, path, true, common, report);
    }
    if table::is_table(path, head, image_key) {
        let mut bytes = vec![0; usize::try_from(file.len).unwrap_or(usize::MAX)];
        file.read_at(&mut bytes, 0).map_err(read)?;
        return table::open(path, &bytes, image_key);
    }
    #[cfg(feature = "parquet")]
    if parquet::is_parquet(path, head) {
        let folder = path.parent().unwrap_or(Path::new(""));
        return unpacked_table(path, Some(folder), file, common, report);
    }
    let indexed = index(&file, &name, "it is", None, common)?;
    let (path, len) = (path.to_owned(), file.len);
    Ok((Store::File { number, path, len, files: common.files.clone() }, indexed))
}

/// A compressed file; a table in it needs its images, so it must be `on_disk`.
fn unpacked(
    packing: Packing,
    file: &impl ReadAt,
    path: &Path,
    on_disk: bool,
    common: &Common,
    report: &mut Report,
) -> Result<(Store, Indexed)> {
    let (spooled, inflation) = packed::unpack(packing, file, path, &common.spool)?;
    report.unpacked = spooled.len();
    let name = path.display().to_string();
    let read = |source| DataError::Read { path: path.to_owned(), source };
    let mut head = vec![0; PROBE_BYTES];
    let head = fill_from(&spooled, &mut head, 0).map_err(read)?;
    // Without the ending of the compression, such as that of `a.csv.gz`.
    if !head.is_empty() && table::is_table(&path.with_extension(""), head, common.image_key.as_deref()) {
        let problem = match inflation {
            Some(damage) => format!("its end cannot be unpacked ({}); fetch it again", damage.problem),
            None if on_disk => {
                let mut bytes = vec![0; usize::try_from(spooled.len()).unwrap_or(usize::MAX)];
                spooled.read_at(&mut bytes, 0).map_err(read)?;
                return table::open(path, &bytes, common.image_key.as_deref());
            }
            None => table::NOT_ON_DISK.to_owned(),
        };
        return Err(DataError::Table { path: path.to_owned(), problem });
    }
    let indexed = index(&spooled, &name, packing.inside(), inflation.as_ref(), common)?;
    Ok((Store::Spooled(spooled), indexed))
}

/// A Parquet file; `folder` is where it is, if it is on disk.
#[cfg(feature = "parquet")]
fn unpacked_table(
    path: &Path,
    folder: Option<&Path>,
    file: impl ReadAt + Send + Sync + 'static,
    common: &Common,
    report: &mut Report,
) -> Result<(Store, Indexed)> {
    let (store, indexed) = parquet::open(path, folder, file, common.image_key.as_deref(), &common.spool)?;
    report.unpacked = match &store {
        Store::Spooled(spooled) => spooled.len(),
        _ => 0,
    };
    Ok((store, indexed))
}

/// A shard that is not on disk: fetched, and then as one that is.
fn fetched(location: &Location, common: &Common, stop: &AtomicBool, report: &mut Report) -> Result<(Store, Indexed)> {
    let name = location.to_string();
    let path = Path::new(&name);
    let read = |source| DataError::Read { path: path.to_owned(), source };
    let store = store::fetch(location, &common.spool, Fetching { access: &common.access, stop })?;
    report.fetched = store.len();
    let mut head = vec![0; PROBE_BYTES];
    let head = fill_from(&store, &mut head, 0).map_err(read)?;
    if head.is_empty() {
        return Err(no_bytes(name));
    }
    if let Some(packing) = Packing::detect(head) {
        return unpacked(packing, &store, path, false, common, report);
    }
    if table::is_table(path, head, common.image_key.as_deref()) {
        return Err(DataError::Table { path: path.to_owned(), problem: table::NOT_ON_DISK.to_owned() });
    }
    #[cfg(feature = "parquet")]
    if parquet::is_parquet(path, head) {
        return unpacked_table(path, None, store, common, report);
    }
    let indexed = index(&store, &name, "it is", None, common)?;
    Ok((store, indexed))
}

/// Indexes the bytes of a shard, unpacked. `it_is` begins a sentence about what they are; `inflation` says where
/// unpacking ended.
fn index<R: ReadAt + ?Sized>(
    bytes: &R,
    name: &str,
    it_is: &str,
    inflation: Option<&Inflation>,
    common: &Common,
) -> Result<Indexed> {
    let read = |source| DataError::Read { path: name.into(), source };
    let not_tar = |problem: String| DataError::NotTar { shard: name.to_owned(), problem };
    if let Some(broken) = inflation.filter(|_| bytes.len() == 0) {
        return Err(DataError::NotUnpacked { shard: name.to_owned(), problem: broken.problem.clone() });
    }
    let mut head = vec![0; PROBE_BYTES];
    let head = fill_from(bytes, &mut head, 0).map_err(read)?;
    if tfrecord::is_start(head) {
        return tfrecord::index(bytes, inflation, common.wants_fields).map_err(read);
    }
    let found = sniff(head);
    // A file in another format may contain something that looks like a tar header.
    if let Some(found) = found.as_ref().filter(|found| found.sure && !tar::is_start(head)) {
        return Err(not_tar(format!("{it_is} {}", found.what)));
    }
    // Where unpacking ended early, the length of the archive is unknown.
    let front = if inflation.is_none() { front::read(bytes).map_err(read)? } else { None };
    let (stated, mut unused) = match front {
        Some(Ok(Front { entries, extensions })) if !common.wants_headers => {
            return Ok(Indexed { entries, extensions, ..Indexed::default() });
        }
        Some(Ok(front)) => (Some(front.entries), None),
        Some(Err(unused)) => (None, Some(unused)),
        None => (None, None),
    };
    match tar::index(bytes) {
        Ok(index) => {
            let mut indexed = archive(index, bytes.len(), inflation);
            if stated.is_some_and(|stated| stated != indexed.entries) {
                unused = Some(Unused::Damage("the headers differ"));
            }
            if let Some(unused) = unused.as_ref().filter(|_| indexed.entries.is_empty()) {
                let problem = format!("{unused}, and nothing follows it: the file was cut; fetch it again");
                return Err(DataError::EmptyShard { shard: name.to_owned(), problem });
            }
            indexed.notes.extend(unused.map(|unused| unused.note()));
            Ok(indexed)
        }
        Err(TarError::Read(source)) => Err(read(source)),
        Err(TarError::NotTar(problem)) => {
            let what = found.map_or_else(|| problem.to_string(), |found| format!("{it_is} {}", found.what));
            Err(not_tar(inflation.map_or(what.clone(), |broken| format!("{}; {what}", broken.problem))))
        }
    }
}

/// The samples of a tar archive of `bytes` bytes.
fn archive(index: tar::Index, bytes: u64, inflation: Option<&Inflation>) -> Indexed {
    let mut samples = members::group(&index.members);
    let found = index.members.first().filter(|_| samples.extensions.is_empty()).map(|first| {
        format!(
            "only names that are hidden (.name), private (__name__) or without an extension, such as `{}`",
            printable(&first.name)
        )
    });
    if samples.entries.is_empty() {
        return Indexed { extensions: samples.extensions, found, ..Indexed::default() };
    }
    let (lost, damage) = damage::assess(&index, &mut samples, bytes, inflation);
    let notes = damage.into_iter().chain(samples.unused.notes("member")).collect();
    Indexed { entries: samples.entries, extensions: samples.extensions, lost, notes, found, ..Indexed::default() }
}
