//! What `--where` does to data sets.

use super::*;
use crate::data::broken::Kind;
use crate::data::testing::{Archive, png};

fn keys(filter: &str) -> CaptionKeys {
    CaptionKeys { filter: Some(filter.parse().unwrap()), ..CaptionKeys::default() }
}

/// Samples with these records.
fn archive(records: &[&str]) -> Archive {
    let mut archive = Archive::default();
    for (number, record) in records.iter().enumerate() {
        archive.add(&format!("{number}.png"), &png(4, 4, 1)).add(&format!("{number}.txt"), b"a name");
        archive.add(&format!("{number}.json"), record.as_bytes());
    }
    archive
}

#[test]
fn only_samples_that_pass_have_numbers() {
    let mut some = archive(&[r#"{"width": 100}"#, r#"{"width": 300}"#, "{broken", r#"{"width": null}"#]);
    some.add("none.png", &png(4, 4, 1)).add("none.txt", b"a name");
    let more = archive(&[r#"{"width": 200}"#, r#"{"width": 10}"#]);
    let files = [some.file(), more.file()];
    let open = |filter: &str| Dataset::open(&files, keys(filter));
    let dataset = open("width >= 200").unwrap();
    assert_eq!((0..3).map(|sample| dataset.key(sample)).collect::<Vec<_>>(), ["1", "2", "0"]);
    assert_eq!(dataset.source_lengths(), [2, 1]);
    // Its width is unknown, and so it is not left out in silence.
    let broken = dataset.caption(1).unwrap_err();
    assert!(broken.kind == Kind::BadRecord && broken.detail.contains("does not parse"), "{broken}");
    assert!(dataset.warnings()[0].starts_with("2 of 6 samples looked at pass --where width >= 200"));
    // Other filters that let the same samples pass are other data.
    let sums = ["width >= 200", "width > 199", "not width < 200"].map(|filter| open(filter).unwrap().fingerprint());
    assert!(sums[0] != sums[1] && sums[1] != sums[2] && sums[0] == open("width >= 200").unwrap().fingerprint());
    for (filter, words) in [
        ("breadth >= 200", "none of 6 samples has `breadth`; the fields there are: width"),
        ("width > 250", "none of the 2 samples of"),
        ("width > 1000", "none of the 4 samples of"),
    ] {
        let error = open(filter).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(&format!("--where {filter}")), "{error}");
    }
}

#[test]
fn columns_of_tables_are_fields() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.png"), png(4, 4, 1)).unwrap();
    let table = folder.path().join("t.csv");
    std::fs::write(&table, "filepath,title,width\na.png,one,90\na.png,two,1000\nno.png,three,1000\n").unwrap();
    let dataset = Dataset::open(&[table.display().to_string()], keys("width >= 200")).unwrap();
    assert_eq!((dataset.len(), dataset.caption(0).unwrap().first()), (2, "two"), "the row without its file is broken");
}

/// Numbers and texts, in a file that another program wrote.
#[test]
fn features_are_fields() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tfrecord/six.tfrecord");
    let open = |filter: &str| Dataset::open(&[file.display().to_string()], keys(filter));
    let whole = Dataset::open(&[file.display().to_string()], CaptionKeys::default()).unwrap();
    let first = whole.decoded(0).unwrap();
    let same = (0..6).filter(|&sample| whole.decoded(sample).unwrap().width() == first.width()).count();
    let (width, height) = first.dimensions();
    assert_eq!(open(&format!("width = {width}")).unwrap().len(), same);
    let some = open(&format!("height = {height} and key in ('jpeg-420', 'none')")).unwrap();
    assert_eq!((some.len(), &*some.key(0)), (1, "jpeg-420"));
    let error = open("breadth > 3").unwrap_err().to_string();
    assert!(error.contains("the fields there are: height, key, txt, width"), "{error}");
}

/// Shards of four samples each, of which as many pass as the number of the shard modulo 3 says.
#[test]
fn shards_that_are_opened_later_are_filtered_too() {
    let folder = tempfile::tempdir().unwrap();
    for shard in 0..40 {
        let records: Vec<String> =
            (0..4).map(|n| format!(r#"{{"n": {}}}"#, if n < shard % 3 { 1 } else { 0 })).collect();
        let archive = archive(&records.iter().map(String::as_str).collect::<Vec<_>>());
        std::fs::copy(archive.file(), folder.path().join(format!("{shard:03}.tar"))).unwrap();
    }
    std::fs::write(folder.path().join("__len__"), "160").unwrap();
    let specs = [folder.path().display().to_string()];
    let cache = folder.path().join("cache.tsv");
    let open = |keys| TrainingData::open(&specs, keys, Decoding::default(), Order::Shards, Some(&cache)).unwrap();
    assert_eq!(open(CaptionKeys::default()).samples(), Some(160));
    let data = open(keys("n = 1"));
    assert_eq!(data.samples(), None, "__len__ counts samples that do not pass");
    assert!(data.warnings().iter().any(|line| line.contains("of 32 samples looked at pass")), "{:?}", data.warnings());
    data.write_counts(cache.clone());
    let TrainingData::Listed(list) = &data else { unreachable!("it was opened by shard") };
    let opened = list.open_all(&(0..40).collect::<Vec<_>>(), 2, &false.into()).unwrap().unwrap();
    assert!(opened.lengths().eq((0..40).map(|shard| shard % 3)));
    assert_eq!(open(keys("n = 1")).samples(), Some(39));
    assert_eq!((open(keys("n != 0")).samples(), open(CaptionKeys::default()).samples()), (None, Some(160)));
}
