//! One shard: its bytes, and its samples.

use std::borrow::Cow;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use super::damage::{self, Inflation};
use super::members::{self, Entry, image_members, printable};
use super::notes::NoteKind;
use super::sniff::sniff;
use super::tar::{self, TarError};
use crate::data::broken::{Broken, Kind};
use crate::data::error::{DataError, Result};
use crate::data::store::{Files, Gunzip, Location, OpenFile, ReadAt, Span, Spool, Spooled, Store, embedded, fill_from};
use crate::data::text::list_some;

const GZIP: [u8; 2] = [0x1F, 0x8B];
/// Bytes from which the kind of a file is guessed, if it is not an archive.
const PROBE_BYTES: usize = 4096;

/// What the shards of a data set share.
#[derive(Default)]
pub(crate) struct Common {
    files: Arc<Files>,
    pub(crate) spool: Spool,
}

/// An indexed archive.
pub(crate) struct Shard {
    pub(crate) location: Location,
    store: Store,
    pub(crate) samples: Vec<Entry>,
    /// An estimate of the samples that were lost to damage, in addition to those in `samples`.
    pub(crate) lost: u64,
}

/// What is known about a shard and only needed while the data set is opened.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) notes: Vec<(NoteKind, String)>,
    /// Every extension in the archive, for error messages.
    pub(crate) extensions: Vec<String>,
    /// Bytes that were unpacked to disk.
    pub(crate) unpacked: u64,
    /// Identifies its file.
    pub(crate) file: Option<(u64, u64)>,
}

impl Shard {
    /// Indexes shard `number` of the data set.
    ///
    /// # Errors
    /// A file that cannot be read, is not a tar archive, or has no samples.
    pub(crate) fn open(number: u32, location: &Location, common: &Common) -> Result<(Self, Report)> {
        let name = location.to_string();
        let not_tar = |problem: String| DataError::NotTar { shard: name.clone(), problem };
        let mut report = Report::default();
        let (store, indexed, inflation) = match location {
            Location::Embedded(wanted) => {
                let archive = embedded::SHARDS.iter().find(|(known, _)| known == wanted);
                let packed = archive.map_or(&[][..], |(_, archive)| archive);
                let mut bytes = Vec::new();
                let read = Gunzip::new(packed).read_to_end(&mut bytes);
                read.map_err(|error| not_tar(error.to_string()))?;
                let indexed = tar::index(&bytes[..]);
                (Store::Memory(bytes), indexed, None)
            }
            Location::File(path) => {
                let read = |source| DataError::Read { path: path.clone(), source };
                let file = OpenFile::open(path).map_err(read)?;
                report.file = file.identity;
                let mut head = vec![0; PROBE_BYTES];
                let head = fill_from(&file, &mut head, 0).map_err(read)?;
                if head.is_empty() {
                    return Err(empty(name, "an empty file of 0 bytes".to_owned()));
                }
                // A file in another format may contain something that looks like a tar header.
                let other = |head: &[u8]| sniff(head).filter(|found| found.sure && !tar::is_start(head));
                if head.starts_with(&GZIP) {
                    let (spooled, inflation) = unpack(file, path, &common.spool)?;
                    report.unpacked = spooled.len();
                    if let Some(found) = other(fill_from(&spooled, &mut vec![0; PROBE_BYTES], 0).map_err(read)?) {
                        return Err(not_tar(format!("it is gzipped, and inside it is {}", found.what)));
                    }
                    let indexed = tar::index(&spooled);
                    (Store::Spooled(spooled), indexed, inflation)
                } else {
                    if let Some(found) = other(head) {
                        return Err(not_tar(format!("it is {}", found.what)));
                    }
                    let indexed = tar::index(&file);
                    let (path, len) = (path.clone(), file.len);
                    (Store::File { number, path, len, files: common.files.clone() }, indexed, None)
                }
            }
        };
        let index = match (indexed, location) {
            (Ok(index), _) => index,
            (Err(TarError::Read(source)), Location::File(path)) => {
                return Err(DataError::Read { path: path.clone(), source });
            }
            (Err(TarError::Read(error)), _) => return Err(not_tar(error.to_string())),
            (Err(TarError::NotTar(problem)), _) => {
                let mut head = vec![0; PROBE_BYTES];
                let head = fill_from(&store, &mut head, 0).unwrap_or_default();
                let inside = if report.unpacked > 0 { "it is gzipped, and inside it is" } else { "it is" };
                let what = sniff(head).map_or_else(|| problem.to_string(), |found| format!("{inside} {}", found.what));
                return Err(not_tar(inflation.map_or(what.clone(), |broken| format!("{}; {what}", broken.problem))));
            }
        };
        let mut samples = members::group(&index.members);
        if samples.entries.is_empty() {
            let found = samples.extensions.iter().map(|extension| format!(".{extension}"));
            let found = match index.members.first().filter(|_| samples.extensions.is_empty()) {
                Some(first) => format!(
                    "only names that are hidden (.name), private (__name__) or without an extension, such as `{}`",
                    printable(&first.name)
                ),
                None => list_some(found),
            };
            return Err(empty(name, found));
        }
        let (lost, damage) = damage::assess(&index, &mut samples, store.len(), inflation.as_ref());
        let notes = damage.into_iter().chain(samples.unused.notes());
        report.notes = notes.map(|(kind, text)| (kind, format!("{name}: {text}"))).collect();
        report.extensions = samples.extensions;
        Ok((Self { location: location.clone(), store, samples: samples.entries, lost }, report))
    }

    /// A part of the archive, if the sample has it.
    ///
    /// # Errors
    /// A file that cannot be read, or has changed since it was indexed.
    pub(crate) fn part(&self, span: Option<Span>) -> Result<Option<Cow<'_, [u8]>>, Broken> {
        span.map(|span| self.store.part(span)).transpose().map_err(unreadable)
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

fn empty(shard: String, found: String) -> DataError {
    DataError::EmptyShard { shard, looked_for: format!("{}, .txt, .json or .cls", image_members()), found }
}

/// Unpacks a gzipped archive to disk. If it is damaged, unpacks up to the damage, and returns what is wrong.
fn unpack(file: OpenFile, path: &Path, spool: &Spool) -> Result<(Spooled, Option<Inflation>)> {
    let len = file.len;
    let mut packed = Gunzip::new(BufReader::with_capacity(1 << 16, file.file));
    let (spooled, problem) = spool.unpack(&mut packed).map_err(|source| DataError::Spool {
        shard: path.to_owned(),
        folder: spool.folder().to_owned(),
        source,
    })?;
    let inflation = problem.map(|problem| {
        let is_trailing = packed.is_trailing();
        let used = packed.get_mut().and_then(|file| file.stream_position().ok()).unwrap_or(len);
        let left = len.saturating_sub(used) as f64 / len.max(1) as f64;
        Inflation { problem: format!("gzip: {problem}"), is_trailing, left }
    });
    Ok((spooled, inflation))
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
