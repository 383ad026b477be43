//! Shards with an index in front, against the same shards without one.

use std::cell::Cell;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::data::format::{Common, Report, Shard, is_damage, members};
use crate::data::store::Location;
use crate::data::testing::{append, finish};
use crate::fuzzing::cases;

/// An archive of these members, and the same with an index in front.
fn archives(members: &[(String, Vec<u8>)]) -> (Vec<u8>, Vec<u8>) {
    let mut plain = Vec::new();
    members.iter().for_each(|(name, data)| append(&mut plain, name, data));
    finish(&mut plain);
    let samples = members::group(&tar::index(&plain[..]).unwrap().members);
    let front = Front { entries: samples.entries, extensions: samples.extensions };
    let indexed = [front.write(plain.len() as u64), plain.clone()].concat();
    (plain, indexed)
}

fn few() -> (Vec<u8>, Vec<u8>) {
    let members = (0..40).flat_map(|number| {
        let member = |extension: &str, len: usize| (format!("f/{number:03}.{extension}"), vec![number; len]);
        [member("rgb", 9000), member("txt", 20), member("json", 70)]
    });
    archives(&members.collect::<Vec<_>>())
}

fn open(bytes: &[u8]) -> (Shard, Report) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Shard::open(0, &Location::File(file.path().to_owned()), &Common::default()).unwrap()
}

/// Byte ranges, counted from the end of the index.
fn ranges(shard: &Shard, shift: usize) -> Vec<(Box<[u8]>, Vec<Option<(u64, u64)>>)> {
    let range = |span: Span| (span.start.get() - shift as u64, span.len);
    let parts = |entry: &Entry| entry.parts().map(|part| part.map(range)).to_vec();
    shard.samples.iter().map(|entry| (entry.key.clone(), parts(entry))).collect()
}

/// The extension and the length of a member.
fn part() -> impl Strategy<Value = (&'static str, usize)> {
    (prop::sample::select(vec!["jpg", "txt", "json", "cls", "tokens"]), 0..1500_usize)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn an_index_says_what_the_headers_say(
        samples in vec(("[a-z0-9é]{1,9}(/[a-z猫]{1,60}){0,2}", vec(part(), 1..4)), 1..8),
    ) {
        let mut names = std::collections::HashSet::new();
        // Tokens alone are no sample.
        let first = ("first.txt".to_owned(), vec![7]);
        let members = samples.into_iter().flat_map(|(key, parts)| {
            parts.into_iter().map(move |(extension, len)| (format!("{key}.{extension}"), vec![7; len]))
        });
        let members = [first].into_iter().chain(members);
        let members: Vec<_> = members.filter(|(name, _)| names.insert(name.clone())).collect();
        let (plain, indexed) = archives(&members);
        let ((walked, report), (read, quick)) = (open(&plain), open(&indexed));
        prop_assert_eq!(ranges(&walked, 0), ranges(&read, indexed.len() - plain.len()));
        prop_assert_eq!(report.extensions, quick.extensions);
        prop_assert!(quick.notes.is_empty() && read.lost == 0);
    }
}

/// Counts how often it is read.
struct Counted<'a>(&'a [u8], Cell<usize>);

impl ReadAt for Counted<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.1.set(self.1.get() + 1);
        self.0.read_at(into, at)
    }
}

#[test]
fn an_index_takes_the_place_of_all_headers() {
    let (plain, indexed) = few();
    let walked = Counted(&plain, Cell::new(0));
    tar::index(&walked).unwrap();
    let quick = Counted(&indexed, Cell::new(0));
    read(&quick).unwrap().unwrap().unwrap();
    // One for each sample, its image and at once what is behind it, and two for the first header and the end.
    assert_eq!((walked.1.get(), quick.1.get()), (42, 3));
}

/// What other readers skip by its name.
#[test]
fn the_index_is_no_sample() {
    let (plain, mut indexed) = few();
    let shift = indexed.len() - plain.len();
    let index = tar::index(&indexed[..]).unwrap();
    assert!(index.faults.is_empty() && index.members[0].name == NAME);
    let expected = ranges(&open(&indexed).0, shift);
    // As after another program has written the header.
    indexed[500..512].fill(0);
    let sum: u32 = [&indexed[..148], &[b' '; 8], &indexed[156..512]].concat().iter().map(|&byte| u32::from(byte)).sum();
    indexed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(read(&indexed[..]).unwrap(), None);
    let (shard, report) = open(&indexed);
    assert_eq!((ranges(&shard, shift), report.notes.len()), (expected, 0));
}

#[test]
fn without_a_good_index_the_headers_are_read() {
    let (plain, indexed) = few();
    let shift = indexed.len() - plain.len();
    let expected = ranges(&open(&indexed).0, shift);
    let edited = |edit: &dyn Fn(&mut Vec<u8>), repair: bool| {
        let mut bytes = indexed.clone();
        edit(&mut bytes);
        if repair {
            let len = Header::parse(&bytes[..BLOCK]).unwrap().size as usize;
            let checksum = crc32c::crc32c(&bytes[BLOCK + HEAD..BLOCK + len]);
            bytes[BLOCK + 12..BLOCK + HEAD].copy_from_slice(&checksum.to_le_bytes());
        }
        bytes
    };
    let sample = BLOCK + HEAD + 8 + 4 + "json,rgb,txt".len() + 4;
    // Behind the bits and the key of the first sample.
    let part = sample + 1 + 4 + "f/000".len();
    for (edit, repair, words, damage) in [
        (&(|bytes: &mut Vec<u8>| bytes[part + 3] ^= 1) as &dyn Fn(&mut Vec<u8>), false, "its checksum is wrong", true),
        (&|bytes| bytes[part + 7] = 0x80, true, "a part reaches beyond the archive", true),
        (&|bytes| bytes[part..part + 8].fill(0), true, "a part begins with the archive", true),
        (&|bytes| bytes[sample] |= 0x80, true, "a sample has no parts, or one of an unknown kind", true),
        (&|bytes| bytes[sample] = 0, true, "a sample has no parts", true),
        (&|bytes| bytes[sample - 4..sample].fill(0xFF), true, "more samples than the archive has room for", true),
        (&|bytes| bytes[sample] = 1, true, "damaged", true),
        (&|bytes| bytes[sample - 4..sample].fill(0), true, "it has no samples", true),
        (&|bytes| bytes[sample - 4] += 1, true, "it is cut", true),
        (&|bytes| bytes[sample - 4] -= 1, true, "it is too long", true),
        (&|bytes| bytes[BLOCK] = 0, true, "it does not begin as an index", true),
        (&|bytes| bytes[BLOCK + 8] = 2, true, "its index is of version 2", false),
        (&|bytes| bytes.extend_from_slice(&[0; 512]), false, "bytes, and this one has", false),
    ] {
        let (shard, report) = open(&edited(edit, repair));
        assert_eq!(ranges(&shard, shift), expected, "{words}");
        let [(kind, note)] = &report.notes[..] else { panic!("{words}: {:?}", report.notes) };
        assert!(note.contains(words) && note.ends_with("its headers are read instead"), "{words}: {note}");
        assert_eq!(is_damage(*kind), damage, "{words}");
    }
    // Joined with `cat`.
    let (shard, report) = open(&[&indexed[..], &plain].concat());
    assert_eq!(shard.samples.len(), 80);
    assert!(report.notes.iter().all(|(kind, _)| !is_damage(*kind)), "{:?}", report.notes);
}

/// As GNU tar does when it deletes a member.
#[test]
fn members_that_moved_are_noticed() {
    let (plain, mut indexed) = few();
    let (len, shift) = (indexed.len(), indexed.len() - plain.len());
    indexed.drain(shift..shift + BLOCK + 9216);
    indexed.resize(len, 0);
    let (shard, report) = open(&indexed);
    assert_eq!((shard.samples.len(), shard.samples[0].image), (40, None));
    assert!(report.notes.iter().any(|(_, note)| note.contains("the members are elsewhere")), "{:?}", report.notes);
}

#[test]
fn headers_are_compared_if_asked_for() {
    let (plain, indexed) = few();
    let common = Common { wants_headers: true, ..Common::default() };
    let open = |bytes: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Shard::open(0, &Location::File(file.path().to_owned()), &common).unwrap()
    };
    assert!(open(&indexed).1.notes.is_empty());
    let mut damaged = indexed.clone();
    // The name of the second member.
    damaged[indexed.len() - plain.len() + BLOCK + 9216] ^= 1;
    let (_, report) = open(&damaged);
    assert!(report.notes.iter().any(|(kind, _)| is_damage(*kind)), "{:?}", report.notes);
    assert!(report.notes.iter().any(|(_, note)| note.contains("the headers differ")), "{:?}", report.notes);
}

/// As without an index; only the note about it is new.
#[test]
fn a_cut_shard_keeps_what_is_there() {
    let (plain, indexed) = few();
    let shift = indexed.len() - plain.len();
    for kept in [4, 700, 9000, plain.len() / 2, plain.len() - 1100, plain.len() - 512] {
        let ((walked, report), (shard, quick)) =
            (open(&plain[..kept.max(600)]), open(&indexed[..shift + kept.max(600)]));
        assert_eq!(ranges(&walked, 0), ranges(&shard, shift), "{kept}");
        let broken = |shard: &Shard| shard.samples.iter().filter(|entry| entry.flaw.is_some()).count();
        assert_eq!((broken(&walked), walked.lost), (broken(&shard), shard.lost));
        assert_eq!(report.notes.len() + 1, quick.notes.len(), "{:?}", quick.notes);
        assert!(quick.notes.iter().any(|(kind, _)| *kind == NoteKind::OtherIndex));
    }
    // Within the index, nothing is left.
    for kept in [100, 600, shift - 512] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &indexed[..kept]).unwrap();
        let opened = Shard::open(0, &Location::File(file.path().to_owned()), &Common::default());
        let error = opened.err().unwrap().to_string();
        assert!(kept < 512 || error.contains("its index is of a file of"), "{kept}: {error}");
    }
}
