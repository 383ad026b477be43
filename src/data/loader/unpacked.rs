//! Batches from Parquet are those from a tar archive of the same samples.

use std::io::Write;
use std::sync::Arc;

use ::parquet::basic::Compression;

use super::tests::{batches, config, tokenizer};
use super::*;
use crate::data::dataset::{Dataset, Order, TrainingData};
use crate::data::sample::image::Decoding;
use crate::data::sample::{CaptionKeys, CaptionLines};
use crate::data::testing::parquet::{Values, file};
use crate::data::testing::{Archive, jpeg, png};

const COLUMNS: &str = "optional binary key (UTF8); optional group image { optional binary bytes; } \
                       optional binary txt (UTF8); optional int64 width;";

/// Shards of these numbers of samples in a folder, as `.tar` and as `.parquet` in row groups of at most seven.
fn shards(folder: &std::path::Path, lengths: &[u64]) {
    let mut number = 0;
    for (shard, &len) in lengths.iter().enumerate() {
        let samples: Vec<(String, Vec<u8>, String)> = (number..number + len)
            .map(|n| {
                let image = if n % 3 == 0 { jpeg(30, 20, n) } else { png(20, 30, n) };
                (n.to_string(), image, format!("name {n}\ntag {n}"))
            })
            .collect();
        number += len;
        let mut archive = Archive::default();
        for (key, image, caption) in &samples {
            let width = if image.starts_with(b"\xFF\xD8") { 30 } else { 20 };
            archive.add(&format!("{key}.jpg"), image).add(&format!("{key}.txt"), caption.as_bytes());
            archive.add(&format!("{key}.json"), format!("{{\"width\": {width}}}").as_bytes());
        }
        std::fs::copy(archive.file(), folder.join(format!("{shard:03}.tar"))).unwrap();
        let groups = samples.chunks(7).map(|rows| {
            let width = |image: &Vec<u8>| Some(if image.starts_with(b"\xFF\xD8") { 30 } else { 20 });
            vec![
                Values::Bytes(rows.iter().map(|row| Some(row.0.clone().into_bytes())).collect()),
                Values::Bytes(rows.iter().map(|row| Some(row.1.clone())).collect()),
                Values::Bytes(rows.iter().map(|row| Some(row.2.clone().into_bytes())).collect()),
                Values::Ints(rows.iter().map(|row| width(&row.1)).collect()),
            ]
        });
        let bytes = file(COLUMNS, Compression::SNAPPY, groups.collect());
        std::fs::write(folder.join(format!("{shard:03}.parquet")), bytes).unwrap();
    }
}

#[test]
fn batches_have_the_bits_of_those_from_tar() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path(), &[40, 7, 1, 25]);
    let spec = |end: &str| vec![folder.path().join(format!("*.{end}")).display().to_string()];
    for filter in [None, Some("width > 20")] {
        // A value of a table is one caption, even if it has several lines.
        let (filter, caption_lines) = (filter.map(|filter| filter.parse().unwrap()), CaptionLines::Join);
        let keys = CaptionKeys { filter, caption_lines, ..CaptionKeys::default() };
        let whole = |end: &str, threads: usize| {
            let dataset = Arc::new(Dataset::open(&spec(end), keys.clone()).unwrap());
            let mut loader = Loader::new(dataset, tokenizer(), config(6, threads), Position::default()).unwrap();
            batches(&mut loader, 30)
        };
        let by_shard = |end: &str, threads: usize, start: Position| {
            let order = Order::Shards;
            let data = TrainingData::open(&spec(end), keys.clone(), Decoding::default(), order, None).unwrap();
            batches(&mut Loader::new(data, tokenizer(), config(6, threads), start).unwrap(), 30)
        };
        let (expected, in_turn) = (whole("tar", 1), by_shard("tar", 1, Position::default()));
        assert_ne!(expected, in_turn);
        for threads in [1, 2, 5] {
            assert_eq!(whole("parquet", threads), expected);
            assert_eq!(by_shard("parquet", threads, Position::default()), in_turn);
        }
        // Resumed in the middle.
        assert_eq!(by_shard("parquet", 2, in_turn[10].next.clone())[..19], in_turn[11..]);
    }
}

#[test]
fn footers_say_how_many_samples_there_are() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path(), &[9; 12]);
    // A damaged one, which is skipped where shards are opened in turn, and unknown before that.
    let spec = [folder.path().join("*.parquet").display().to_string()];
    let open = || TrainingData::open(&spec, CaptionKeys::default(), Decoding::default(), Order::Shards, None).unwrap();
    let TrainingData::Listed(list) = open() else { unreachable!("it was opened by shard") };
    assert_eq!(list.samples(), Some(108));
    let path = folder.path().join("005.parquet");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let TrainingData::Listed(list) = open() else { unreachable!("it was opened by shard") };
    assert_eq!(list.samples(), None);
    let opened = list.open_all(&[3, 5, 6], 2, &crate::data::store::NEVER).unwrap().unwrap();
    assert_eq!((opened.lengths().collect::<Vec<_>>(), opened.lost), (vec![9, 0, 9], 9));
    assert!(opened.warnings[0].contains("skipped a shard") && opened.warnings[0].contains("005.parquet as Parquet"));
}

/// Rows that img2dataset could not download are broken unless the filter leaves them out.
#[test]
fn rows_without_an_image_have_fields() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet/img2dataset.parquet");
    let open = |filter: &str| {
        let keys = CaptionKeys { filter: Some(filter.parse().unwrap()), ..CaptionKeys::default() };
        Dataset::open(&[path.display().to_string()], keys).unwrap()
    };
    let (good, all) = (open("status = 'success' and `exif.deep.n` < 6"), open("width < 1000 and price = 1.25"));
    assert_eq!((good.len(), all.len()), (5, 7));
    assert!((0..5).all(|sample| good.decoded(sample).is_ok()));
    assert!(all.decoded(2).unwrap_err().detail.contains("the column `jpg` is null"));
}

/// As Spark, DuckDB and pandas write numbers.
#[test]
fn decimals_and_short_floats_are_fields() {
    let mut shard = tempfile::NamedTempFile::with_suffix(".parquet").unwrap();
    let bytes = |numbers: [i128; 3], width: usize| -> Vec<Option<Vec<u8>>> {
        numbers.iter().map(|number| Some(number.to_be_bytes()[16 - width..].to_vec())).collect()
    };
    let rows = vec![
        Values::Bytes((0..3).map(|n| Some(png(4, 4, n))).collect()),
        Values::texts(&["one", "two", "three"]),
        Values::Fixed(bytes([1 << 63, (1 << 63) + 1, 5], 9)),
        Values::Bytes(bytes([-300, 299, 301], 2)),
        Values::Ints(vec![Some(9_007_199_254_740_992), Some(9_007_199_254_740_993), None]),
        Values::Fixed(
            ["0.3", "0.25", "0.5"]
                .map(|n| Some(half::f16::from_f64(n.parse().unwrap()).to_le_bytes().to_vec()))
                .to_vec(),
        ),
    ];
    let columns = "optional binary png; optional binary text (UTF8); \
                   optional fixed_len_byte_array(9) id (DECIMAL(20,0)); optional binary price (DECIMAL(4,3)); \
                   optional int64 uid (DECIMAL(18,0)); optional fixed_len_byte_array(2) score (FLOAT16);";
    shard.write_all(&file(columns, Compression::SNAPPY, vec![rows])).unwrap();
    for (filter, expected) in [
        ("id = 9223372036854775809", &["two"][..]),
        ("price > -0.3 and price < 0.301", &["two"]),
        ("price = -0.3", &["one"]),
        ("uid = 9007199254740993", &["two"]),
        ("uid is null", &["three"]),
        ("score <= 0.3", &["one", "two"]),
        ("score = 0.3", &["one"]),
    ] {
        let keys = CaptionKeys { filter: Some(filter.parse().unwrap()), ..CaptionKeys::default() };
        let dataset = Dataset::open(&[shard.path().display().to_string()], keys).unwrap();
        let found: Vec<String> =
            (0..dataset.len() as u64).map(|sample| dataset.caption(sample).unwrap().first().to_owned()).collect();
        assert_eq!(found, expected, "{filter}");
    }
}

/// A list has a caption per element, which are lines where a sample is one of files, as in a pack.
#[test]
fn lists_are_several_captions() {
    let mut shard = tempfile::NamedTempFile::with_suffix(".parquet").unwrap();
    let rows = vec![
        Values::Bytes((0..3).map(|n| Some(png(4, 4, n))).collect()),
        Values::Lists(vec![vec!["one", "two", "three"], vec![], vec!["four"]]),
    ];
    let columns = "optional binary png; repeated binary captions (UTF8);";
    shard.write_all(&file(columns, Compression::ZSTD(Default::default()), vec![rows])).unwrap();
    let dataset = Dataset::open(&[shard.path().display().to_string()], CaptionKeys::default()).unwrap();
    assert_eq!(dataset.caption(0).unwrap().texts, ["one", "two", "three"]);
    assert_eq!(dataset.caption(1).unwrap_err().kind, crate::data::Kind::EmptyCaption);
    assert_eq!(dataset.caption(2).unwrap().texts, ["four"]);
    let texts = |sample| dataset.held(sample).view().texts().unwrap()[0].as_deref().map(<[u8]>::to_vec).unwrap();
    assert_eq!((texts(0), texts(2)), (b"one\ntwo\nthree".to_vec(), b"four".to_vec()));
}
