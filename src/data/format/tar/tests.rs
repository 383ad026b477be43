use ::tar::EntryType::{Link, Symlink};
use ::tar::Header as Written;

use super::*;
use crate::data::testing::{add_to, append, append_link, finish, member};

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, data) in members {
        append(&mut bytes, name, data);
    }
    finish(&mut bytes);
    bytes
}

fn indexed(bytes: &[u8]) -> Index {
    index(bytes).unwrap()
}

fn bytes_of<'a>(bytes: &'a [u8], member: &Member) -> &'a [u8] {
    let Content::Data(Span { start, len }) = member.content else { panic!("{member:?}") };
    &bytes[start.get() as usize..][..len as usize]
}

fn members(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let name = |member: &Member| String::from_utf8(member.name.clone()).unwrap();
    indexed(bytes).members.iter().map(|member| (name(member), bytes_of(bytes, member).to_vec())).collect()
}

fn fails(bytes: &[u8]) -> HeaderError {
    match index(bytes) {
        Err(TarError::NotTar(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

/// Overwrites bytes of the first header, and corrects its checksum.
fn patch(bytes: &mut [u8], at: usize, field: &[u8]) {
    let mut header = Written::from_byte_slice(&bytes[..BLOCK]).clone();
    header.as_mut_bytes()[at..at + field.len()].copy_from_slice(field);
    header.set_cksum();
    bytes[..BLOCK].copy_from_slice(header.as_bytes());
}

#[test]
fn members_of_every_length_are_found() {
    let (empty, block, over) = (vec![], vec![1; BLOCK], vec![2; BLOCK + 1]);
    let bytes = archive(&[("a.txt", &empty), ("b/c.jpg", &block), ("d", &over)]);
    let expected = [("a.txt", empty), ("b/c.jpg", block), ("d", over)].map(|(name, data)| (name.to_owned(), data));
    assert_eq!(members(&bytes), expected);
    assert_eq!(indexed(&bytes).faults, []);
}

/// `tar -V` begins an archive with a header that has no size at all.
#[test]
fn the_label_of_a_volume_is_no_member_and_no_damage() {
    let mut bytes = Vec::new();
    append(&mut bytes, "my label", b"");
    patch(&mut bytes, 156, b"V");
    patch(&mut bytes, 124, &[0; 12]);
    append(&mut bytes, "a.txt", b"one");
    finish(&mut bytes);
    assert_eq!(members(&bytes), [("a.txt".to_owned(), b"one".to_vec())]);
    assert_eq!(indexed(&bytes).faults, []);
}

#[test]
fn long_names_come_from_gnu_pax_and_prefix() {
    let long = format!("{}/é.jpg", "folder".repeat(40));
    let bytes = archive(&[(&long, b"gnu"), ("short", b"next")]);
    assert_eq!(members(&bytes), [(long.clone(), b"gnu".to_vec()), ("short".to_owned(), b"next".to_vec())]);

    let mut bytes = Vec::new();
    let records = [("path", long.as_bytes()), ("size", b"4"), ("mtime", b"1.5")];
    add_to(&mut bytes, |builder| builder.append_pax_extensions(records).unwrap());
    append(&mut bytes, "cut name", b"pax!");
    append(&mut bytes, "short", b"next");
    assert_eq!(members(&bytes), [(long, b"pax!".to_vec()), ("short".to_owned(), b"next".to_vec())]);

    let (prefix, name) = ("prefix".repeat(15), format!("{}.txt", "name".repeat(10)));
    let mut posix = Written::new_ustar();
    posix.set_size(1);
    let mut bytes = Vec::new();
    let path = format!("{prefix}/{name}");
    add_to(&mut bytes, |builder| builder.append_data(&mut posix, &path, &b"x"[..]).unwrap());
    assert_eq!(members(&bytes), [(path, b"x".to_vec())]);
    patch(&mut bytes, 257, b"ustar  \0");
    assert_eq!(members(&bytes)[0].0, name, "GNU has other fields where POSIX has the prefix");
}

#[test]
fn folders_and_devices_are_no_members_and_links_have_no_data() {
    for kind in [b"3", b"4", b"5", b"6"] {
        let mut bytes = archive(&[("folder", b""), ("b", b"b")]);
        patch(&mut bytes, 156, kind);
        patch(&mut bytes, 124, b"00000001000\0");
        assert_eq!(members(&bytes), [("b".to_owned(), b"b".to_vec())]);
    }
    assert_eq!(members(&archive(&[("folder/", b""), ("b", b"b")])).len(), 1);
    let mut bytes = archive(&[("link", b""), ("b", b"b")]);
    patch(&mut bytes, 157, b"b");
    patch(&mut bytes, 156, b"2");
    patch(&mut bytes, 124, b"00000001000\0");
    assert_eq!(members(&bytes), [("link".to_owned(), b"b".to_vec()), ("b".to_owned(), b"b".to_vec())]);
}

#[test]
fn links_with_long_targets_are_followed_and_circles_end() {
    let long = format!("{}/1.jpg", "folder".repeat(40));
    let mut bytes = Vec::new();
    append(&mut bytes, &long, b"image");
    append_link(&mut bytes, Link, "2.jpg", &long);
    add_to(&mut bytes, |builder| builder.append_pax_extensions([("linkpath", long.as_bytes())]).unwrap());
    append_link(&mut bytes, Symlink, "3.jpg", "cut");
    append_link(&mut bytes, Symlink, "x/a.jpg", "b.jpg");
    add_to(&mut bytes, |builder| {
        let mut link = member(Symlink, 0);
        link.set_path("x/b.jpg").unwrap();
        // As it is: the writer would leave out the dot.
        link.set_link_name_literal("../x/./a.jpg").unwrap();
        link.set_cksum();
        builder.append(&link, io::empty()).unwrap();
    });
    finish(&mut bytes);
    let index = indexed(&bytes);
    assert!(index.members[..3].iter().all(|member| bytes_of(&bytes, member) == b"image"));
    let circle = |target: &str| Content::DanglingLink(target.as_bytes().into());
    assert_eq!(index.members[3].content, circle("x/b.jpg"));
    assert_eq!(index.members[4].content, circle("x/a.jpg"));
}

#[test]
fn sparse_files_are_reported() {
    let mut bytes = archive(&[("a.jpg", b"a"), ("b.jpg", b"b")]);
    // A map that continues in two more blocks.
    patch(&mut bytes, 482, &[1]);
    patch(&mut bytes, 156, b"S");
    let mut map = [[0; BLOCK]; 2].concat();
    map[504] = 1;
    bytes.splice(BLOCK..BLOCK, map);
    bytes.truncate(6 * BLOCK);
    let records = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.name", b"sparse.jpg")];
    add_to(&mut bytes, |builder| builder.append_pax_extensions(records).unwrap());
    append(&mut bytes, "GNUSparseFile.1/x", b"a map and data");
    append(&mut bytes, "c.jpg", b"c");
    let index = indexed(&bytes);
    let names: Vec<&[u8]> = index.members.iter().map(|member| &*member.name).collect();
    assert_eq!(names, [&b"a.jpg"[..], b"b.jpg", b"sparse.jpg", b"c.jpg"]);
    let unread: Vec<bool> = index.members.iter().map(|m| matches!(m.content, Content::Unread(_))).collect();
    assert_eq!(unread, [true, false, true, false]);
}

#[test]
fn base_256_sizes_are_read() {
    let mut bytes = archive(&[("a", b"12345"), ("b", b"b")]);
    patch(&mut bytes, 124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    assert_eq!(members(&bytes)[0].1, b"12345");
    patch(&mut bytes, 124, &[0xFF; 12]);
    // A size of 2^95 is refused; the next member is found all the same.
    let found = indexed(&bytes);
    assert!(found.members.len() == 1 && found.members[0].name == b"b", "{found:?}");
    assert!(matches!(found.faults[..], [Fault::Lost { at: 0, bytes: 1024, .. }]), "{found:?}");
}

/// Every cut of a small archive: the whole members before it, and the one that is cut, if one is.
#[test]
fn a_cut_archive_gives_what_is_whole() {
    let bytes = archive(&[("a", &[1; 700]), ("b", &[2; 10])]);
    let (second, end) = (BLOCK + 1024, BLOCK + 1024 + BLOCK + 10);
    for length in BLOCK..bytes.len() {
        let index = indexed(&bytes[..length]);
        let names = |whole: bool| -> Vec<&[u8]> {
            let is_whole = |member: &&Member| matches!(member.content, Content::Data(_)) == whole;
            index.members.iter().filter(is_whole).map(|member| &*member.name).collect()
        };
        let expected: &[&[u8]] = match length {
            _ if length < BLOCK + 700 => &[],
            _ if length < end => &[b"a"],
            _ => &[b"a", b"b"],
        };
        assert_eq!(names(true), expected, "{length}");
        let cut: &[&[u8]] = match length {
            _ if length < BLOCK + 700 => &[b"a"],
            // From the byte after its name on.
            _ if length >= second + 2 && length < end => &[b"b"],
            _ => &[],
        };
        assert_eq!(names(false), cut, "{length}");
        match &index.faults[..] {
            [] => assert!(!cut.is_empty() || length >= second + 3 * BLOCK, "{length}"),
            [Fault::NoEnd] => assert!(cut.is_empty() && length < second + 3 * BLOCK, "{length}"),
            [Fault::Lost { bytes: 1, .. }] => assert_eq!(length, second + 1),
            faults => panic!("{length}: {faults:?}"),
        }
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    assert_eq!(fails(b"GIF89a"), HeaderError::Cut(6));
    assert_eq!(fails(&[b'x'; 1024]), HeaderError::NoChecksum);
}

#[test]
fn the_index_continues_after_a_damaged_header() {
    let whole = archive(&[("a", b"a"), ("b", b"b"), ("c", &[3; 600]), ("d", b"d"), ("e", b"e")]);
    let names = |bytes: &[u8]| -> Vec<Vec<u8>> { indexed(bytes).members.into_iter().map(|m| m.name).collect() };
    let mut bytes = whole.clone();
    bytes[2 * BLOCK] ^= 1;
    assert_eq!(names(&bytes), [b"a", b"c", b"d", b"e"]);
    let Fault::Lost { at: 1024, bytes: 1024, problem, members_before: 1 } = &indexed(&bytes).faults[0] else {
        panic!()
    };
    assert!(matches!(problem, HeaderError::Checksum { .. }), "{problem}");
    // The very first one.
    let mut bytes = whole.clone();
    bytes[..BLOCK].fill(7);
    assert_eq!(names(&bytes), [b"b", b"c", b"d", b"e"]);
    // Bytes that were inserted or left out, so that the rest is not on multiples of a block.
    let mut bytes = whole.clone();
    bytes.splice(3 * BLOCK..3 * BLOCK, [9; 77]);
    assert_eq!(names(&bytes), [b"a", b"b", b"c", b"d", b"e"]);
    let faults = indexed(&bytes).faults;
    assert!(matches!(faults[..], [Fault::Lost { at: 2048, bytes: 77, .. }]), "{faults:?}");
    let mut bytes = whole;
    bytes.drain(5 * BLOCK..5 * BLOCK + 30);
    assert_eq!(names(&bytes), [b"a", b"b", b"c", b"e"]);
}

/// Each is searched for from the one before it; what is read must not grow with the square of their number.
#[test]
fn an_archive_of_damaged_headers_is_read_in_linear_time() {
    struct Counted(Vec<u8>, std::cell::Cell<u64>);
    impl ReadAt for Counted {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
            self.1.set(self.1.get() + into.len() as u64);
            self.0[..].read_at(into, at)
        }
    }
    let mut header = archive(&[("a", b"")])[..BLOCK].to_vec();
    patch(&mut header, 124, b"77777777777\0");
    let archive = Counted(header.repeat(5000), std::cell::Cell::default());
    let found = index(&archive).unwrap();
    assert_eq!((found.faults.len(), found.members.len()), (4999, 1));
    let times = archive.1.get() / ReadAt::len(&archive);
    assert!(times < 50, "read {times} times");
}

#[test]
fn any_number_of_links_to_one_name_is_followed() {
    let mut bytes = Vec::new();
    for _ in 0..50_000 {
        append_link(&mut bytes, Symlink, "a", "a");
    }
    finish(&mut bytes);
    let is_circle = |member: &Member| matches!(member.content, Content::DanglingLink(_));
    assert!(indexed(&bytes).members.iter().all(is_circle));
}

/// A good header is found wherever it is, also across the boundaries of what is read at once.
#[test]
fn headers_are_found_across_the_borders_of_a_search() {
    let tail = archive(&[("z", b"z")]);
    let near = |step: usize| [step - 1, step, step + 1, step + BLOCK - 1, step + BLOCK];
    for gap in [FIRST_SEARCH_STEP, SEARCH_STEP, FIRST_SEARCH_STEP + SEARCH_STEP].map(near).concat() {
        let mut bytes = archive(&[("a", b"a")])[..2 * BLOCK].to_vec();
        bytes.resize(bytes.len() + gap, 0xAB);
        bytes.extend(&tail);
        let names: Vec<Vec<u8>> = indexed(&bytes).members.into_iter().map(|member| member.name).collect();
        assert_eq!(names, [b"a", b"z"], "{gap}");
    }
}
