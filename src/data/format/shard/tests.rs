//! Whole and damaged shards, by what is left of their samples.

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
        assert_eq!((shard.lost, notes(&report).contains("1 member belongs to no sample: 1 .md file")), (0, true));
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
    assert!(error(b"").ends_with("holds no samples: it is an empty file (0 bytes)"));
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
