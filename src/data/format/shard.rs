//! One shard: its bytes, and its samples.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tracing::debug;

use super::damage::{self, Inflation};
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
    self, Access, Fetching, Files, Gunzip, Location, NEVER, OpenFile, ReadAt, Span, Spool, Store, embedded, fill_from,
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
    /// Indexes shard `number` of the data set.
    ///
    /// # Errors
    /// A file that cannot be read, is in no format that flipk reads, or has no samples.
    pub(crate) fn open(number: u32, location: &Location, common: &Common) -> Result<(Self, Report)> {
        Self::open_unless(number, location, common, &NEVER)
    }

    /// As [`Self::open`]; a fetch ends with an error when `stop` is set.
    ///
    /// # Errors
    /// As [`Self::open`].
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
            Location::File(path) => file(number, path, common, &mut report)?,
            Location::Remote(_) | Location::Pipe(_) => fetched(location, common, stop, &mut report)?,
        };
        let name = location.to_string();
        let Indexed { entries: samples, naming, fields, extensions, lost, notes, found } = indexed;
        if samples.is_empty() {
            return Err(empty(name, naming, found.unwrap_or_else(|| naming.found(extensions.iter()))));
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

fn empty(shard: String, naming: Naming, found: String) -> DataError {
    DataError::EmptyShard { shard, looked_for: naming.samples(), found }
}

fn embedded_archive(name: &str) -> Result<(Store, Indexed)> {
    let archive = embedded::SHARDS.iter().find(|(known, _)| *known == name);
    let mut bytes = Vec::new();
    let read = Gunzip::new(archive.map_or(&[][..], |(_, archive)| archive)).read_to_end(&mut bytes);
    let name = format!("embedded:{name}");
    read.map_err(|error| DataError::NotTar { shard: name.clone(), problem: error.to_string() })?;
    let indexed = index(&bytes[..], &name, "it is", None, false)?;
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
        return Err(empty(name, Naming::Members, "an empty file of 0 bytes".to_owned()));
    }
    if let Some(packing) = Packing::of(head) {
        return unpacked(packing, &file, path, common, report);
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
    let indexed = index(&file, &name, "it is", None, common.wants_fields)?;
    let (path, len) = (path.to_owned(), file.len);
    Ok((Store::File { number, path, len, files: common.files.clone() }, indexed))
}

fn unpacked(
    packing: Packing,
    file: &impl ReadAt,
    path: &Path,
    common: &Common,
    report: &mut Report,
) -> Result<(Store, Indexed)> {
    let (spooled, inflation) = packed::unpack(packing, file, path, &common.spool)?;
    report.unpacked = spooled.len();
    let name = path.display().to_string();
    let indexed = index(&spooled, &name, packing.inside(), inflation.as_ref(), common.wants_fields)?;
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
        return Err(empty(name, Naming::Members, "0 bytes".to_owned()));
    }
    if let Some(packing) = Packing::of(head) {
        return unpacked(packing, &store, path, common, report);
    }
    if table::is_table(path, head, common.image_key.as_deref()) {
        return Err(DataError::Table { path: path.to_owned(), problem: table::NOT_ON_DISK.to_owned() });
    }
    #[cfg(feature = "parquet")]
    if parquet::is_parquet(path, head) {
        return unpacked_table(path, None, store, common, report);
    }
    let indexed = index(&store, &name, "it is", None, common.wants_fields)?;
    Ok((store, indexed))
}

/// Indexes the bytes of a shard, unpacked. `it_is` begins a sentence about what they are; `inflation` says where
/// unpacking ended.
fn index<R: ReadAt + ?Sized>(
    bytes: &R,
    name: &str,
    it_is: &str,
    inflation: Option<&Inflation>,
    wants_fields: bool,
) -> Result<Indexed> {
    let read = |source| DataError::Read { path: name.into(), source };
    let not_tar = |problem: String| DataError::NotTar { shard: name.to_owned(), problem };
    if let Some(broken) = inflation.filter(|_| bytes.len() == 0) {
        return Err(not_tar(broken.problem.clone()));
    }
    let mut head = vec![0; PROBE_BYTES];
    let head = fill_from(bytes, &mut head, 0).map_err(read)?;
    if tfrecord::is_start(head) {
        return tfrecord::index(bytes, inflation, wants_fields).map_err(read);
    }
    let found = sniff(head);
    // A file in another format may contain something that looks like a tar header.
    if let Some(found) = found.as_ref().filter(|found| found.sure && !tar::is_start(head)) {
        return Err(not_tar(format!("{it_is} {}", found.what)));
    }
    match tar::index(bytes) {
        Ok(index) => Ok(archive(index, bytes.len(), inflation)),
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
    let notes = damage.into_iter().chain(samples.unused.notes()).collect();
    Indexed { entries: samples.entries, extensions: samples.extensions, lost, notes, found, ..Indexed::default() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ::tar::EntryType::{Link, Symlink};

    use super::*;
    use crate::data::testing::{append, append_link, finish};

    fn archive() -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, "1.JPG", b"image 1");
        append(&mut bytes, "2.png", b"image 2");
        append(&mut bytes, "1.txt", b"one");
        append(&mut bytes, "notes.md", b"no sample");
        append(&mut bytes, "2.json", &[b' '; 2000]);
        finish(&mut bytes);
        bytes
    }

    /// The shard, its report, and the file, which must outlive the shard.
    fn open(bytes: &[u8]) -> Result<(Shard, Report, tempfile::NamedTempFile)> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let (shard, report) = Shard::open(0, &Location::File(file.path().to_owned()), &Common::default())?;
        Ok((shard, report, file))
    }

    fn notes(report: &Report) -> String {
        report.notes.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn samples_are_members_that_share_a_key() {
        for (bytes, is_gzip) in [(archive(), false), (gzip(&archive()), true)] {
            let (shard, report, _file) = open(&bytes).unwrap();
            // Neither is in memory.
            let in_place = matches!(shard.store, Store::File { .. });
            assert!(in_place != is_gzip && matches!(shard.store, Store::Spooled(_)) == is_gzip);
            let read = |span| Some(String::from_utf8_lossy(&shard.part(span).unwrap()?).trim().to_owned());
            let samples: Vec<_> = shard.samples.iter().map(|e| (&*e.key, read(e.image), read(e.txt))).collect();
            let some = |text: &str| Some(text.to_owned());
            assert_eq!(samples, [(&b"1"[..], some("image 1"), some("one")), (b"2", some("image 2"), None)]);
            assert!(shard.samples[1].json.is_some() && shard.samples.iter().all(|entry| entry.flaw.is_none()));
            assert_eq!(report.extensions, ["jpg", "json", "md", "png", "txt"]);
            assert_eq!((shard.lost, notes(&report).contains("1 members belong to no sample: 1 x .md")), (0, true));
        }
    }

    #[test]
    fn a_cut_shard_keeps_its_whole_samples() {
        let (tar, gz) = (archive(), gzip(&archive()));
        for bytes in [&tar[..tar.len() - 2000], &gz[..gz.len() - 2000]] {
            let (shard, _, _file) = open(bytes).unwrap();
            let cut: Vec<bool> = shard.samples.iter().map(|entry| entry.flaw.is_some()).collect();
            assert_eq!(cut, [false, true]);
            let flaw = shard.samples[1].flaw.as_ref().unwrap();
            assert!(flaw.kind == Kind::TruncatedMember && flaw.detail.contains("2.json"), "{flaw}");
            assert_eq!(shard.lost, 0, "the one that is cut is counted by itself");
        }
        // Cut between members: only the gzip stream shows that something is missing.
        let (shard, report, _file) = open(&gz[..10 + 5 + 1024]).unwrap();
        assert_eq!((shard.samples.len(), shard.lost), (1, 1));
        assert!(notes(&report).contains("the rest of the archive is lost (gzip"), "{}", notes(&report));
        // In a plain one, the missing end mark.
        let (shard, report, _file) = open(&tar[..2 * 1024]).unwrap();
        assert_eq!((shard.samples.len(), shard.lost), (2, 0));
        assert!(notes(&report).contains("no end mark") && notes(&report).contains("after `2.png`"));
        // Bytes after a gzip stream do no harm.
        let (shard, report, _file) = open(&[&gz[..], b"more"].concat()).unwrap();
        assert_eq!((shard.samples.len(), shard.lost), (2, 0));
        assert!(notes(&report).contains("bytes after the end of the archive are not read"), "{}", notes(&report));
        // Archives that were joined after they were packed, with the padding of a tape between them.
        let second = gzip(&archive());
        for padding in [0, 512] {
            let joined = [&gz[..], &vec![0; padding], &second, &vec![0; padding]].concat();
            let (shard, report, _file) = open(&joined).unwrap();
            assert_eq!((shard.samples.len(), shard.lost), (4, 0));
            assert!(!notes(&report).contains("gzip"), "{}", notes(&report));
        }
        // What was unpacked may differ from what was packed.
        let mut other = gz.clone();
        let checksum = other.len() - 8;
        other[checksum] ^= 1;
        let (shard, report, _file) = open(&other).unwrap();
        assert_eq!((shard.samples.len(), shard.lost), (2, 0));
        assert!(notes(&report).contains("any of its samples may be damaged"), "{}", notes(&report));
        let twice = open(&gzip(&gz)).err().unwrap().to_string();
        assert!(twice.contains("inside it is compressed with gzip once more"), "{twice}");
    }

    /// Twenty samples; each has a header and a block for the image, and the same for the caption.
    fn twenty() -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in 0..20 {
            append(&mut bytes, &format!("{number:02}.jpg"), &[b'x'; 500]);
            append(&mut bytes, &format!("{number:02}.txt"), b"words");
        }
        finish(&mut bytes);
        bytes
    }

    #[test]
    fn damage_costs_the_samples_that_it_hits() {
        let whole = twenty();
        let lost = |bytes: &[u8]| {
            let (shard, report, _file) = open(bytes).unwrap();
            let bad = shard.samples.iter().filter(|e| e.flaw.is_some() || e.image.is_none() || e.txt.is_none());
            (shard.samples.len(), bad.count(), shard.lost, notes(&report))
        };
        // The header of the seventh image: half a sample is left of it.
        let mut bytes = whole.clone();
        bytes[6 * 2048..][..512].fill(0xFF);
        let (samples, bad, gone, note) = lost(&bytes);
        assert_eq!((samples, bad, gone), (20, 1, 0), "{note}");
        assert!(note.contains("1024 bytes from byte 12288 on are lost"), "{note}");
        // Five whole samples, and a hole of zeros of the same size.
        for byte in [0xFF, 0] {
            let mut bytes = whole.clone();
            bytes[6 * 2048..11 * 2048].fill(byte);
            // Half of a sample is left after the hole.
            bytes[11 * 2048..][..512].fill(0xFF);
            let (samples, bad, gone, note) = lost(&bytes);
            assert_eq!((samples, bad, gone), (15, 1, 5), "{note}");
            assert!(note.contains("are lost"), "{note}");
        }
        // Everything after the tenth sample.
        let mut bytes = whole.clone();
        bytes[10 * 2048..].fill(0xFF);
        let (samples, bad, gone, note) = lost(&bytes);
        assert_eq!((samples, bad), (10, 0), "{note}");
        assert!((10..=11).contains(&gone) && note.contains("the rest of the archive"), "{gone} {note}");
        // An unfinished download, for which the space was allocated in advance.
        let mut bytes = whole[..10 * 2048 + 700].to_vec();
        bytes.resize(3 << 20, 0);
        let (samples, _, gone, note) = lost(&bytes);
        assert!(samples == 11 && gone > 1000 && note.contains("a download that did not finish"), "{samples} {note}");
    }

    #[test]
    fn joined_archives_are_one() {
        let whole = twenty();
        let mut padded = whole.clone();
        padded.resize(padded.len().next_multiple_of(10240), 0);
        // Not a whole number of blocks, so that no header of the second one is at a multiple of 512.
        let odd = [&padded[..], &[0; 60]].concat();
        for first in [&whole, &padded, &odd] {
            let (shard, report, _file) = open(&[&first[..], &archive()].concat()).unwrap();
            assert_eq!((shard.samples.len(), shard.lost), (22, 0));
            assert!(!notes(&report).contains("lost"), "{}", notes(&report));
        }
        // The first one cut at an odd place: its last member includes the beginning of the second archive.
        let (shard, report, _file) = open(&[&whole[..19 * 2048 + 512 + 100], &archive()].concat()).unwrap();
        assert!(shard.samples.len() >= 21 && notes(&report).contains("are lost"), "{}", notes(&report));
        let (shard, report, _file) = open(&[&whole[..], b"a signature, perhaps"].concat()).unwrap();
        assert_eq!((shard.samples.len(), shard.lost), (20, 0));
        assert!(notes(&report).contains("20 bytes after the end"), "{}", notes(&report));
    }

    #[test]
    fn links_give_the_bytes_of_their_target() {
        let mut bytes = Vec::new();
        append(&mut bytes, "x/1.jpg", b"image");
        append_link(&mut bytes, Link, "x/2.jpg", "x/1.jpg");
        append_link(&mut bytes, Symlink, "y/3.jpg", "../x/2.jpg");
        append_link(&mut bytes, Symlink, "y/4.jpg", "/data/4.jpg");
        append_link(&mut bytes, Symlink, "5.jpg", "5.jpg");
        finish(&mut bytes);
        let (shard, _, _file) = open(&bytes).unwrap();
        let read = |entry: &Entry| shard.part(entry.image).unwrap().map(|bytes| bytes.to_vec());
        assert!(shard.samples[..3].iter().all(|entry| read(entry).as_deref() == Some(b"image")));
        let flaws: Vec<String> = shard.samples[3..].iter().map(|e| e.flaw.as_ref().unwrap().to_string()).collect();
        assert!(flaws[0].contains("y/4.jpg is a link to /data/4.jpg, which is not in the archive"), "{flaws:?}");
        assert!(flaws[1].contains("unread member"), "{flaws:?}");
    }

    #[test]
    fn empty_shards_and_other_files_say_what_they_are() {
        let error = |bytes: &[u8]| open(bytes).err().unwrap().to_string();
        assert!(error(b"").contains("0 bytes"));
        assert!(error(&[0; 10240]).contains("found nothing"));
        let mut bytes = Vec::new();
        append(&mut bytes, "a.mp3", b"sound");
        assert!(error(&bytes).contains("found .mp3"));
        assert!(error(b"%PDF-1.4").contains("not a tar archive: it is a PDF"));
        assert!(error(b"\x28\xB5\x2F\xFD and more").contains("zstd"));
        assert!(error(b"url,caption\nx,a cat\n").contains("CSV"));
        assert!(error(&gzip(b"url,caption\nx,a cat\n")).contains("inside it is a table in text form (CSV)"));
        assert!(error(&[7; 700]).contains("has no checksum"));
        let missing = Shard::open(0, &Location::File("/nonexistent.tar".into()), &Common::default());
        assert!(matches!(missing, Err(DataError::Read { .. })));
    }

    #[test]
    fn a_shard_that_shrinks_is_an_error() {
        let (shard, _, file) = open(&archive()).unwrap();
        let caption = |sample: usize| shard.part(shard.samples[sample].txt);
        assert!(caption(0).is_ok());
        file.as_file().set_len(600).unwrap();
        let broken = caption(0).unwrap_err();
        assert!(broken.kind == Kind::Unreadable && broken.detail.contains("has 600 now"), "{broken}");
    }
}
