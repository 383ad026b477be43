use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::*;

/// Members with these names, the bytes of each at a place of its own.
fn members(names: &[&[u8]]) -> Vec<Member> {
    let data = |number: usize| Content::Data(Span { start: NonZeroU64::new(number as u64 + 1).unwrap(), len: 1 });
    names.iter().enumerate().map(|(number, name)| Member { name: name.to_vec(), content: data(number) }).collect()
}

/// Key, image, caption and record of each sample, by the numbers of the members.
fn samples(names: &[&str]) -> (Vec<(String, [Option<u64>; 3])>, Unused) {
    let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let Samples { entries, unused, .. } = group(&members(&names));
    let number = |span: Option<Span>| span.map(|span| span.start.get() - 1);
    let entry = |e: Entry| (printable(&e.key), [e.image, e.txt, e.json].map(number));
    (entries.into_iter().map(entry).collect(), unused)
}

#[test]
fn keys_follow_the_webdataset_rule() {
    assert_eq!(key_and_extension(b"a/b.c/001.left.jpg"), Some((&b"a/b.c/001"[..], &b"left.jpg"[..])));
    assert_eq!(key_and_extension(b"./001.txt"), Some((&b"001"[..], &b"txt"[..])));
    for none in ["README", "a.b/README", ".hidden.jpg", "x/._1.jpg", "__meta__.json"] {
        assert_eq!(key_and_extension(none.as_bytes()), None, "{none}");
    }
}

#[test]
fn a_member_that_is_too_large_to_be_read_is_a_flaw() {
    let mut huge = members(&[b"1.jpg", b"1.txt"]);
    huge[0].content = Content::Data(Span { start: NonZeroU64::new(512).unwrap(), len: 9 << 30 });
    let entry = group(&huge).entries.remove(0);
    let flaw = entry.flaw.unwrap();
    assert!(entry.image.is_none() && flaw.kind == Kind::UnreadMember, "{flaw}");
    assert!(flaw.detail.contains("1.jpg has 9663676416 bytes"), "{flaw}");
}

/// A key and the numbers of the members for image, caption and record.
type Expected = (&'static str, Option<u64>, Option<u64>, Option<u64>);

#[track_caller]
fn check(names: &[&str], expected: &[Expected]) -> Unused {
    let (found, unused) = samples(names);
    let expected: Vec<_> = expected.iter().map(|&(key, a, b, c)| (key.to_owned(), [a, b, c])).collect();
    assert_eq!(found, expected);
    unused
}

#[test]
fn plain_extensions_win_wherever_they_are() {
    let names = ["7.depth.png", "7.JPG", "7.orig.txt", "7.txt", "7.boxes.json", "7.json", "8.jpg", "8.x.png"];
    let unused = check(&names, &[("7", Some(1), Some(3), Some(5)), ("8", Some(6), None, None)]);
    assert_eq!(unused, Unused::default(), "other views beside the plain one are not worth a warning");
    // They do not replace a missing one.
    let unused = check(
        &["1.jpg", "1.txt", "2.depth.png", "2.txt"],
        &[("1", Some(0), Some(1), None), ("2", None, Some(3), None)],
    );
    assert_eq!(unused.compound[&Slot::Image], (1, "2.depth.png".to_owned()));
    // Without plain names in the archive, the first one is used.
    let unused = check(&["1.left.jpg", "1.right.jpg", "1.txt"], &[("1", Some(0), Some(2), None)]);
    assert_eq!(unused.compound[&Slot::Image], (1, "1.right.jpg".to_owned()));
    // Of several images OpenCLIP's first.
    let unused = check(&["1.webp", "1.png", "1.jpg", "1.gif"], &[("1", Some(2), None, None)]);
    assert_eq!(unused.second[&Slot::Image].0, 3);
}

#[test]
fn images_have_many_extensions() {
    for extension in ["jpg", "JPEG", "jpe", "JFIF", "png", "WebP", "gif", "bmp", "tif", "tiff", "avif"] {
        assert_eq!(check(&[&format!("1.{extension}")], &[("1", Some(0), None, None)]), Unused::default());
    }
    let [entry] = &group(&members(&[b"1.png", b"1.cls"])).entries[..] else { panic!() };
    assert!(entry.cls.is_some_and(|cls| cls.start.get() == 2));
}

#[test]
fn dots_in_names_are_mentioned() {
    let names: Vec<String> =
        (0..20).flat_map(|n| [format!("shot 2.{n} left.png"), format!("shot 2.{n} left.txt")]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let unused = check(&names, &[("shot 2", Some(0), Some(1), None)]);
    let [(_, note)] = &unused.notes("member")[..] else { panic!("{unused:?}") };
    assert!(note.contains("19 image members and 19 .txt members are not used"), "{note}");
    assert!(note.contains("`1 left.png` of the sample `shot 2`"), "{note}");
}

#[test]
fn repeated_names_begin_another_sample() {
    let twice = |first: &'static [&'static str]| [first, first].concat();
    let two = [("0", Some(0), Some(1), None), ("0", Some(2), Some(3), None)];
    assert_eq!(check(&twice(&["0.png", "0.txt"]), &two).repeated, Some((1, "0".to_owned())));
    // All of one data set, then all of the other.
    let four = [
        ("0", Some(0), Some(1), None),
        ("1", Some(2), Some(3), None),
        ("0", Some(4), Some(5), None),
        ("1", Some(6), Some(7), None),
    ];
    assert_eq!(check(&twice(&["0.png", "0.txt", "1.png", "1.txt"]), &four).repeated, Some((2, "0".to_owned())));
    // Sorted by name.
    check(&["0.png", "0.png", "0.txt", "0.txt"], &[("0", Some(0), Some(2), None), ("0", Some(1), Some(3), None)]);
    // The first has no caption; it does not get the second one's.
    let names = ["0.png", "1.png", "1.txt", "0.png", "0.txt"];
    check(&names, &[("0", Some(0), None, None), ("1", Some(1), Some(2), None), ("0", Some(3), Some(4), None)]);
    let names = ["0.png", "0.png", "0.txt"];
    check(&names, &[("0", Some(0), None, None), ("0", Some(1), Some(2), None)]);
    // Nor where its members are not adjacent.
    let names = ["0.png", "1.png", "0.png", "1.txt", "0.txt"];
    check(
        &names,
        &[
            ("0", Some(0), None, None),
            ("1", Some(1), Some(3), None),
            ("0", Some(2), None, None),
            ("0", None, Some(4), None),
        ],
    );
}

/// In time that is proportional to their number.
#[test]
fn a_name_may_be_repeated_any_number_of_times() {
    let many = vec!["1.txt"; 200_000];
    let (found, _) = samples(&many);
    assert_eq!(found.len(), many.len());
}

#[test]
fn keys_are_bytes() {
    let names: [&[u8]; 4] = [b"caf\xE9.jpg", b"caf\xE8.jpg", b"caf\xE9.txt", "caf\u{e9}.jpg".as_bytes()];
    let entries = group(&members(&names)).entries;
    let keys: Vec<String> = entries.iter().map(|entry| printable(&entry.key)).collect();
    assert_eq!(keys, ["caf\\xE9", "caf\\xE8", "café"]);
    assert!(entries[0].txt.is_some() && entries[1].txt.is_none());
}

#[test]
fn members_that_belong_to_no_sample_are_counted() {
    let unused = check(&["1.jpg", "1.npy", "2.mp4", "3.mp4", "README", ".x.jpg"], &[("1", Some(0), None, None)]);
    assert_eq!(unused.strangers, BTreeMap::from([("mp4".to_owned(), 2)]));
    let (_, note) = &unused.notes("member")[0];
    assert_eq!(note, "2 members belong to no sample: 2 .mp4 files");
    let one =
        Unused { strangers: BTreeMap::from([("md".to_owned(), 1)]), repeated: Some((1, "a".to_owned())), ..unused };
    let [(_, repeated), (_, note)] = &one.notes("file")[..] else { panic!("{one:?}") };
    assert_eq!(note, "1 file belongs to no sample: 1 .md file");
    assert!(repeated.starts_with("duplicate names: 1 occurs more than once"), "{repeated}");
}
