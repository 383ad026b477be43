//! Records are written here as TensorFlow's documentation describes them; `tests/fixtures/tfrecord` has files by
//! another writer.

use super::*;

/// A field of a protocol buffer that is delimited by its length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    [bytes, value.to_vec()].concat()
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

fn sample(features: &[(&str, &[u8])]) -> Vec<u8> {
    let entry = |(name, value): &(&str, &[u8])| {
        let feature = field(1, &field(1, value));
        field(1, &[field(1, name.as_bytes()), field(2, &feature)].concat())
    };
    // An int64_list, which is not bytes, is skipped.
    let width = field(1, &[field(1, b"width"), field(2, &field(3, &[0x0A, 1, 64]))].concat());
    let entries: Vec<u8> = features.iter().flat_map(entry).chain(width).collect();
    record(&field(1, &entries))
}

fn ten() -> Vec<Vec<u8>> {
    (0..10)
        .map(|number| {
            let (key, image) = (format!("k{number}"), vec![number; 300]);
            sample(&[("txt", b"words"), ("jpg", &image), ("key", key.as_bytes())])
        })
        .collect()
}

fn read(bytes: &[u8]) -> Indexed {
    index(bytes, None, false).unwrap()
}

fn flaws(indexed: &Indexed) -> usize {
    indexed.entries.iter().filter(|entry| entry.flaw.is_some()).count()
}

#[test]
fn parts_are_ranges_of_the_file() {
    let bytes = ten().concat();
    assert!(is_start(&bytes));
    let indexed = read(&bytes);
    assert_eq!((indexed.entries.len(), flaws(&indexed), indexed.lost), (10, 0, 0));
    assert_eq!(indexed.extensions, ["jpg", "key", "txt"]);
    for (number, entry) in indexed.entries.iter().enumerate() {
        let part = |span: Option<Span>| {
            let span = span.unwrap();
            &bytes[span.start.get() as usize..][..span.len as usize]
        };
        assert_eq!(&*entry.key, format!("k{number}").as_bytes());
        assert_eq!((part(entry.image), part(entry.txt)), (&[number as u8; 300][..], &b"words"[..]));
    }
    let other = read(&sample(&[("image/encoded", b"x"), ("caption", b"a cat"), ("png", b"preferred")]));
    let entry = &other.entries[0];
    assert_eq!((entry.image.unwrap().len, entry.txt.unwrap().len, &*entry.key), (9, 5, &b"000000"[..]));
}

/// All values of the caption's feature, and of no other; those of the preferred name.
#[test]
fn every_caption_of_a_record_has_its_range() {
    let list = |name: &str, values: &[&[u8]]| {
        let values: Vec<u8> = values.iter().flat_map(|value| field(1, value)).collect();
        field(1, &[field(1, name.as_bytes()), field(2, &field(1, &values))].concat())
    };
    let bytes = record(&field(
        1,
        &[
            list("caption", &[b"a", b"b"]),
            list("txt", &[b"one", b"", b"three"]),
            list("image/caption", &[b"c", b"d"]),
            list("jpg", &[b"first", b"second"]),
        ]
        .concat(),
    ));
    let entry = &read(&bytes).entries[0];
    let text =
        |span: &Span| String::from_utf8_lossy(&bytes[span.start.get() as usize..][..span.len as usize]).into_owned();
    let texts: Vec<String> = entry.txt.iter().chain(&entry.more_txt).map(text).collect();
    assert_eq!(
        (texts, text(&entry.image.unwrap())),
        (["one", "", "three"].map(str::to_owned).to_vec(), "first".to_owned())
    );
}

#[test]
fn damage_costs_the_records_that_it_hits() {
    let records = ten();
    let (whole, size) = (records.concat(), records[0].len());
    for at in 0..4 * size {
        let mut bytes = whole.clone();
        bytes[2 * size + at % size] ^= 1 << (at % 8);
        let indexed = read(&bytes);
        // A damaged length loses its record, damaged data is a broken sample.
        let good = indexed.entries.len() - flaws(&indexed);
        assert_eq!((good, flaws(&indexed) as u64 + indexed.lost), (9, 1), "byte {}", at % size);
    }
    for cut in 0..whole.len() {
        let indexed = read(&whole[..cut]);
        let missing = u64::from(cut % size != 0);
        assert_eq!(indexed.entries.len() - flaws(&indexed), cut / size);
        assert_eq!(flaws(&indexed) as u64 + indexed.lost, missing, "cut at {cut}");
    }
    // Five lost records are counted by the mean size of the others.
    let mut bytes = whole.clone();
    bytes[2 * size..7 * size].fill(0xFF);
    let indexed = read(&bytes);
    assert_eq!((indexed.entries.len(), indexed.lost), (5, 5), "{:?}", indexed.notes);
}

#[test]
fn a_record_that_is_no_example_is_broken() {
    let indexed = read(&[record(b"\x0A\xFF\xFF"), record(b""), record(&[0xFF; 40])].concat());
    assert_eq!((indexed.entries.len(), flaws(&indexed)), (3, 2));
}

/// A feature with a list of this kind: 1 of bytes, 2 of floats, 3 of integers; `list` is its encoding.
fn feature(name: &str, kind: u8, list: &[u8]) -> Vec<u8> {
    field(1, &[field(1, name.as_bytes()), field(2, &field(kind, list))].concat())
}

#[test]
fn texts_and_numbers_are_fields() {
    let features = [
        feature("jpg", 1, &field(1, b"\xFF\xD8")),
        feature("txt", 1, &field(1, b"a \"cat\"")),
        feature("tags", 1, &[field(1, b"a"), field(1, b"b")].concat()),
        // Packed, and not.
        feature("width", 3, &field(1, &[0xAC, 2])),
        feature("height", 3, &[1 << 3, 0xAC, 2]),
        feature("below", 3, &field(1, &[&[0xFF; 9][..], &[1]].concat())),
        feature("score", 2, &field(1, &0.3_f32.to_le_bytes())),
        feature("other", 2, &[&[1 << 3 | 5][..], &(-2.5_f32).to_le_bytes()].concat()),
        feature("sizes", 3, &field(1, &[1, 2, 3])),
        feature("none", 2, &[]),
        feature("nan", 2, &field(1, &f32::NAN.to_le_bytes())),
    ];
    let bytes = [record(&field(1, &features.concat())), record(b"\x0A\xFF\xFF")].concat();
    let indexed = index(&bytes[..], None, true).unwrap();
    let expected = r#"{"txt":"a \"cat\"","tags":[],"width":300,"height":300,"below":-1,"score":0.3,"other":-2.5,"#
        .to_owned()
        + r#""sizes":[],"none":null,"nan":null}"#;
    assert_eq!(indexed.fields, [Some(expected), None]);
    assert!(index(&bytes[..], None, false).unwrap().fields.iter().all(Option::is_none));
    // A list that ends within a number.
    let cut = record(&field(1, &feature("width", 3, &field(1, &[0xAC]))));
    assert_eq!(index(&cut[..], None, true).unwrap().fields, [None]);
}

#[test]
fn a_record_that_is_too_large_is_broken_and_the_next_one_is_read() {
    // A file with a hole, which takes no room on the disk.
    let file = tempfile::NamedTempFile::new().unwrap();
    let length = (MAX_RECORD + 1).to_le_bytes();
    let last = sample(&[("txt", b"words"), ("jpg", b"image")]);
    std::fs::write(file.path(), [&length[..], &masked_crc(&length).to_le_bytes()].concat()).unwrap();
    let mut out = std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
    let end = HEADER + MAX_RECORD + 1 + FOOTER;
    std::io::Seek::seek(&mut out, std::io::SeekFrom::Start(end)).unwrap();
    std::io::Write::write_all(&mut out, &last).unwrap();
    let indexed = index(&crate::data::store::OpenFile::open(file.path()).unwrap(), None, false).unwrap();
    assert_eq!((indexed.entries.len(), indexed.lost, indexed.notes.len()), (2, 0, 0));
    let flaw = indexed.entries[0].flaw.as_ref().unwrap().to_string();
    assert!(flaw.contains("it has 1073741825 bytes") && indexed.entries[1].flaw.is_none(), "{flaw}");
}

#[test]
fn bytes_after_a_compressed_file_cost_no_sample() {
    let inflation = |is_trailing| Inflation { problem: "gzip: no header".to_owned(), is_trailing, left: 0.5 };
    let bytes = ten().concat();
    let found = |is_trailing| index(&bytes[..], Some(&inflation(is_trailing)), false).unwrap();
    assert_eq!((found(true).lost, found(false).lost), (0, 10));
    assert!(found(true).notes[0].1.contains("are not read (gzip"), "{:?}", found(true).notes);
}
