//! Files by the crate's own writer, and those of `tests/fixtures/parquet` by Arrow's.

use std::io::Write;

use ::parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use ::parquet::file::metadata::ParquetMetaDataReader;

use super::*;
use crate::data::format::{Common, Entry, Report, Shard};
use crate::data::store::Location;
use crate::data::testing::parquet::{Values, file};

const PAIRS: &str = "optional binary jpg; optional binary caption (UTF8);";

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet").join(name)
}

fn open_at(path: &Path, image_key: Option<&str>) -> Result<(Shard, Report)> {
    let common = Common { image_key: image_key.map(str::to_owned), ..Common::default() };
    Shard::open(0, &Location::File(path.to_owned()), &common)
}

fn open(bytes: &[u8]) -> Result<(Shard, Report)> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    open_at(file.path(), None)
}

fn error(bytes: &[u8]) -> String {
    open(bytes).err().unwrap().to_string()
}

fn text(shard: &Shard, span: Option<crate::data::store::Span>) -> String {
    shard.part(span).unwrap().map_or_else(|| "none".to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn texts(shard: &Shard, entry: &Entry) -> Vec<String> {
    shard.txts(entry).unwrap().iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// Row groups of this many rows; the image of row `n` is `n` bytes of `n`.
fn numbered(rows: &[u8], compression: Compression) -> Vec<u8> {
    let mut next = 0_u8;
    let mut group = |&rows: &u8| {
        let numbers = next..next + rows;
        next += rows;
        let images = numbers.clone().map(|number| Some(vec![number; usize::from(number)]));
        let captions = numbers.map(|number| Some(format!("caption {number}").into_bytes()));
        vec![Values::Bytes(images.collect()), Values::Bytes(captions.collect())]
    };
    file(PAIRS, compression, rows.iter().map(&mut group).collect())
}

#[test]
fn what_hugging_face_writes_is_read() {
    let (shard, report) = open_at(&fixture("hugging-face.parquet"), None).unwrap();
    assert_eq!(report.extensions, ["image.bytes", "image.path", "text", "label"]);
    assert!(report.notes.is_empty() && report.unpacked > 5000);
    let images = fixture("../images");
    for (number, (entry, name)) in
        shard.samples.iter().zip(["jpeg-420", "jpeg-422", "jpeg-444", "jpeg-grey"]).enumerate()
    {
        assert_eq!(&*entry.key, format!("{number:06}").as_bytes());
        assert_eq!(
            *shard.part(entry.image).unwrap().unwrap(),
            std::fs::read(images.join(format!("{name}.jpg"))).unwrap()
        );
        assert_eq!(
            (text(&shard, entry.txt), text(&shard, entry.cls)),
            ("a good one".into(), u8::from(number != 3).to_string())
        );
    }
    assert_eq!(text(&shard, shard.samples[0].json), r#"{"image.path":"jpeg-420.jpg","text":"a good one","label":1}"#);
    assert_eq!((shard.samples.len(), rows(&fixture("hugging-face.parquet"))), (6, Some(6)));
}

#[test]
fn what_img2dataset_writes_is_read_with_columns_of_any_type() {
    let (shard, report) = open_at(&fixture("img2dataset.parquet"), None).unwrap();
    assert_eq!((shard.samples.len(), report.notes.len()), (7, 0));
    let keys: Vec<String> =
        shard.samples.iter().map(|entry| String::from_utf8_lossy(&entry.key).into_owned()).collect();
    assert_eq!((&*keys[0], &*keys[6]), ("000000000", "000000006"));
    let flaw = shard.samples[2].flaw.as_ref().unwrap();
    assert_eq!(flaw.to_string(), "missing image: the column `jpg` is null");
    assert!(shard.samples.iter().filter(|entry| entry.image.is_some() && entry.flaw.is_none()).count() == 6);
    let record = |row: usize| text(&shard, shard.samples[row].json);
    assert_eq!(
        record(0),
        r#"{"key":"000000000","caption":"a good one","status":"success","width":100,"similarity":0.25,"#.to_owned()
            + r#""pwatermark":0.5,"hash":9223372036854775808,"ok":true,"alt":["one","two"],"language":"en","#
            + r#""exif.Make":"it","exif.deep.n":0,"price":1.25,"large":1.25,"day":19724,"half":1.5}"#
    );
    let alt =
        |row: usize| record(row).split_once("\"alt\":").unwrap().1.split_once(",\"language").unwrap().0.to_owned();
    assert_eq!([1, 2, 3, 4, 5].map(alt), ["null", "null", r#"["three"]"#, "null", r#"["four"]"#]);
    assert!(record(3).contains("\"similarity\":0.28,"), "{}", record(3));
    // A column of captions in a list, by name.
    let keys = crate::data::CaptionKeys { caption_key: Some("alt".to_owned()), ..Default::default() };
    let dataset = crate::data::Dataset::open(&[fixture("img2dataset.parquet").display().to_string()], keys).unwrap();
    assert_eq!(dataset.caption(0).unwrap().texts, ["one", "two"]);
}

#[test]
fn every_codec_is_read() {
    let level = (GzipLevel::default(), ZstdLevel::default(), BrotliLevel::default());
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(level.0),
        Compression::ZSTD(level.1),
        Compression::BROTLI(level.2),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ] {
        let (shard, _) = open(&numbered(&[40, 3], codec)).unwrap();
        assert_eq!((shard.samples.len(), shard.lost), (43, 0));
        for (number, entry) in shard.samples.iter().enumerate() {
            assert_eq!(*shard.part(entry.image).unwrap().unwrap(), vec![number as u8; number], "{codec:?}");
            assert_eq!(text(&shard, entry.txt), format!("caption {number}"));
        }
    }
}

#[test]
fn a_damaged_row_group_costs_its_rows() {
    let bytes = numbered(&[40, 40, 3], Compression::SNAPPY);
    let footer = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(bytes.clone())).unwrap();
    let (start, len) = footer.row_group(1).column(1).byte_range();
    let mut damaged = bytes.clone();
    damaged[start as usize..(start + len) as usize].fill(0xFF);
    let (shard, report) = open(&damaged).unwrap();
    assert_eq!((shard.samples.len(), shard.lost), (43, 40));
    let note = &report.notes[0].1;
    assert!(note.contains("row group 2 of 3 cannot be decoded after 0 of its 40 rows (the column `caption`"), "{note}");
    assert!(note.ends_with(": about 40 samples"), "{note}");
    assert_eq!(text(&shard, shard.samples[40].txt), "caption 80", "the next row group is read");
    // All of them.
    for group in footer.row_groups() {
        let (start, len) = group.column(1).byte_range();
        damaged[start as usize..(start + len) as usize].fill(0xFF);
    }
    let all = error(&damaged);
    assert!(all.contains("as Parquet: row group 1 of 3 cannot be decoded"), "{all}");
}

/// Arrow's file has checksums of its pages.
#[test]
fn damage_anywhere_is_an_error_or_lost_samples() {
    let whole = std::fs::read(fixture("img2dataset.parquet")).unwrap();
    let footer = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(whole.clone())).unwrap();
    let column = footer.row_group(1).column(1);
    let images = column.byte_range().0 + 60..column.data_page_offset() as u64;
    for at in (0..whole.len()).step_by(23) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let Ok((shard, _)) = open(&bytes) else { continue };
        assert!(shard.lost <= 7, "byte {at}: {}", shard.lost);
        for entry in &shard.samples {
            assert!(shard.part(entry.image).is_ok() && shard.part(entry.json).is_ok() && shard.txts(entry).is_ok());
        }
        // In the data of the page with the images, which is that of the dictionary, not in its header.
        assert!(!images.contains(&(at as u64)) || shard.lost == 3, "byte {at}: {}", shard.lost);
    }
    for cut in (0..whole.len()).step_by(101) {
        let error = error(&whole[..cut]);
        let words = ["0 bytes", "cut, or is still being written", "is not a tar archive"];
        assert!(words.iter().any(|word| error.contains(word)), "cut at {cut}: {error}");
    }
}

#[test]
fn a_damaged_footer_says_so() {
    let whole = numbered(&[5, 5], Compression::SNAPPY);
    let with = |at: usize, bytes: &[u8]| {
        let mut damaged = whole.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        error(&damaged)
    };
    let len = whole.len();
    assert!(with(len - 8, &u32::MAX.to_le_bytes()).contains("its footer is damaged"));
    assert!(with(len - 8, &1_u32.to_le_bytes()).contains("its footer is damaged"));
    assert!(with(len - 4, b"PARE").contains("its footer is encrypted"));
    assert!(with(len - 4, b"PAR2").contains("it does not end with `PAR1`"));
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("a.parquet");
    std::fs::write(&named, [7; 600]).unwrap();
    let none = open_at(&named, None).err().unwrap().to_string();
    assert!(none.contains("it does not begin with `PAR1`"), "{none}");
    std::fs::write(&named, b"<!DOCTYPE html><html><head><title>404</title>").unwrap();
    assert!(open_at(&named, None).err().unwrap().to_string().contains("an HTML page"));
    assert_eq!(rows(&named), None);
}

#[test]
fn files_without_images_say_what_is_missing() {
    let url = "optional binary URL (UTF8); optional binary TEXT (UTF8); optional double similarity;";
    let row = || vec![Values::texts(&["http://x"]), Values::texts(&["a cat"]), Values::Floats(vec![Some(0.3)])];
    let laion = error(&file(url, Compression::SNAPPY, vec![row()]));
    assert!(
        laion.contains("addresses of images (`URL`) and no images; download them first, with img2dataset"),
        "{laion}"
    );
    let other = error(&file(&url.replace("URL", "link"), Compression::SNAPPY, vec![row()]));
    assert!(
        other.contains("looked for image, jpg") && other.contains("it has `link`, `TEXT`, `similarity`"),
        "{other}"
    );
    let numbers = error(&file("optional int64 IMAGE;", Compression::SNAPPY, vec![vec![Values::Ints(vec![Some(3)])]]));
    assert!(numbers.contains("it has `IMAGE` (`IMAGE` has values of another type)"), "{numbers}");
    let empty = error(&file(PAIRS, Compression::SNAPPY, vec![]));
    assert!(empty.ends_with("holds no samples: it has no rows"), "{empty}");
    let named = open_at(&fixture("hugging-face.parquet"), Some("picture")).err().unwrap().to_string();
    assert!(named.contains("no column `picture`"), "{named}");
}

#[test]
fn paths_start_from_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.png"), b"image a").unwrap();
    let columns = "optional binary file_name (UTF8); optional binary text (UTF8); optional int64 label;";
    let rows = vec![
        Values::Bytes(vec![Some(b"a.png".to_vec()), Some(b"gone.png".to_vec()), None]),
        Values::Bytes(vec![Some(b"a cat".to_vec()), None, Some(b"a dog".to_vec())]),
        Values::Ints(vec![Some(3), None, Some(5)]),
    ];
    let bytes = file(columns, Compression::SNAPPY, vec![rows]);
    let path = folder.path().join("metadata.parquet");
    std::fs::write(&path, &bytes).unwrap();
    let (shard, _) = open_at(&path, None).unwrap();
    let found: Vec<[String; 4]> = shard
        .samples
        .iter()
        .map(|entry| {
            let flaw = entry.flaw.as_ref().map_or_else(String::new, |flaw| flaw.to_string());
            [String::from_utf8_lossy(&entry.key).into(), text(&shard, entry.image), text(&shard, entry.cls), flaw]
        })
        .collect();
    assert_eq!(found[0], ["a.png", "image a", "3", ""]);
    assert!(
        found[1][..3] == ["gone.png", "none", "none"] && found[1][3].contains("gone.png, and none at gone.png"),
        "{found:?}"
    );
    assert!(found[2][0] == "000002" && found[2][3].contains("the column `file_name` is null"), "{found:?}");
    // A caption that is null is an empty one.
    assert_eq!(texts(&shard, &shard.samples[1]), [""]);
    assert_eq!(text(&shard, shard.samples[2].json), r#"{"file_name":null,"text":"a dog","label":5}"#);
    let fetched = open_elsewhere(&bytes).err().unwrap().to_string();
    assert!(fetched.contains("read only from disk"), "{fetched}");
}

fn open_elsewhere(bytes: &[u8]) -> Result<(Store, Indexed)> {
    super::open(Path::new("s3://b/a.parquet"), None, Store::Memory(bytes.to_vec()), None, &Spool::default())
}

/// A file that can no longer be read does not count as damaged.
#[test]
fn a_disk_that_fails_ends_the_run() {
    struct Failing(Vec<u8>);
    impl ReadAt for Failing {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
            match at {
                4..1000 => Err(io::Error::other("the disk is on fire")),
                _ => self.0[..].read_at(into, at),
            }
        }
    }
    let bytes = numbered(&[40, 40], Compression::SNAPPY);
    let opened = super::open(Path::new("a.parquet"), None, Failing(bytes), None, &Spool::default());
    let error = opened.err().unwrap();
    assert!(matches!(error, DataError::Read { .. }) && error.to_string().contains("the disk is on fire"), "{error}");
}

#[test]
fn the_best_columns_are_taken() {
    let columns = |schema: &str, image_key: Option<&str>| {
        let schema = ::parquet::schema::parser::parse_message_type(&format!("message t {{ {schema} }}")).unwrap();
        let found =
            Columns::find(&::parquet::schema::types::SchemaDescriptor::new(Arc::new(schema)), image_key).unwrap();
        [found.image, found.path, found.caption, found.key, found.label]
            .map(|at| at.map_or_else(String::new, |at| found.read[at].name.clone()))
    };
    let datacomp = "optional binary uid (UTF8); optional binary url (UTF8); optional binary text (UTF8);
        optional binary JPG; optional binary title (UTF8); optional double cls;";
    assert_eq!(columns(datacomp, None), ["JPG", "", "text", "uid", ""]);
    let both = "required binary image (UTF8); required binary bytes; required int64 id; required int32 class;
        optional group caption (LIST) { repeated group list { optional binary element (UTF8); } }";
    assert_eq!(columns(both, None), ["bytes", "", "caption", "id", "class"]);
    assert_eq!(columns(both, Some("image")), ["", "image", "caption", "id", "class"]);
    let hugging_face =
        "optional group img { optional binary bytes; optional binary path (UTF8); } optional binary TEXT (UTF8);";
    assert_eq!(columns(hugging_face, None), ["img.bytes", "img.path", "TEXT", "", ""]);
}
