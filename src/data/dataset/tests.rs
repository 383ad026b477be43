//! What the index of a data set promises.

use super::*;
use crate::data::broken::Kind;
use crate::data::sample::ClassNumbers;
use crate::data::sample::image::ExifOrientation;
use crate::data::testing::{Archive, png};

#[test]
fn samples_of_all_sources_are_numbered_in_order() {
    let (mut a, mut b) = (Archive::default(), Archive::default());
    a.add("1.png", &png(4, 4, 1)).add("1.txt", b"cat");
    a.add("2.png", &png(4, 4, 2)).add("2.json", br#"{"caption": "dog", "tags": ["pet"]}"#);
    b.add("x/1.png", &png(4, 4, 3)).add("x/1.txt", b"cat");
    b.add("x/2.png", &png(4, 4, 4)).add("x/2.txt", b"\xFF");
    let dataset = Dataset::open(&[a.file(), b.file()], CaptionKeys::default()).unwrap();
    assert_eq!(dataset.len(), 4);
    assert_eq!((0..4).map(|sample| dataset.key(sample)).collect::<Vec<_>>(), ["1", "2", "x/1", "x/2"]);
    let dog = Caption { texts: vec!["dog".into()], tags: vec!["pet".into()], ..Caption::default() };
    assert_eq!(dataset.caption(1).unwrap(), dog);
    assert_eq!(dataset.image(2).unwrap(), png(4, 4, 3));
    assert_eq!(dataset.name(3), format!("{}:x/2", b.file()));

    let cats = dataset.filtered(|sample| dataset.caption(sample).is_ok_and(|c| c.first() == "cat")).unwrap();
    assert_eq!((0..2).map(|sample| cats.key(sample)).collect::<Vec<_>>(), ["1", "x/1"]);
    assert_ne!(cats.fingerprint(), dataset.fingerprint());
    let again = Dataset::open(&[a.file(), b.file()], CaptionKeys::default()).unwrap();
    assert_eq!(again.fingerprint(), dataset.fingerprint());
    assert!(matches!(dataset.filtered(|_| false), Err(DataError::NoSamples { of: 4 })));
}

/// Hugging Face's image folders have such a table.
#[test]
fn a_table_in_a_folder_of_images_is_pointed_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.png"), png(4, 4, 1)).unwrap();
    let table = folder.path().join("metadata.csv");
    std::fs::write(&table, "file_name,text\na.png,a cat\n").unwrap();
    let open = |path: &std::path::Path| Dataset::open(&[path.display().to_string()], CaptionKeys::default());
    let error = open(folder.path()).unwrap_err().to_string();
    let hint = format!("to use the captions in a table, name it instead of the folder: {}", table.display());
    assert!(error.starts_with("no captions in") && error.ends_with(&hint), "{error}");
    assert_eq!(open(&table).unwrap().caption(0).unwrap().first(), "a cat");
}

#[test]
fn photos_are_rotated_when_asked() {
    let photo = include_bytes!("../../../tests/fixtures/images/jpeg-turned-6.jpg");
    let mut archive = Archive::default();
    archive.add("1.jpg", photo).add("1.txt", b"a photo");
    let stored = Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap();
    assert_eq!(stored.decoded(0).unwrap().dimensions(), (32, 24));
    let upright = stored.with_decoding(Decoding { orientation: ExifOrientation::Apply, ..Decoding::default() });
    assert_eq!(upright.decoded(0).unwrap().dimensions(), (24, 32));
    assert_eq!(upright.filtered(|_| true).unwrap().decoded(0).unwrap().dimensions(), (24, 32));
}

#[test]
fn mistakes_of_a_whole_source_are_found_at_once() {
    let error = |archive: &Archive, key: Option<&str>| {
        let keys = CaptionKeys { caption_key: key.map(str::to_owned), ..CaptionKeys::default() };
        Dataset::open(&[archive.file()], keys).unwrap_err().to_string()
    };
    let mut archive = Archive::default();
    archive.add("1.png", &png(4, 4, 0)).add("1.json", br#"{"alt": "a cat", "url": "x"}"#).add("1.cls", b"3");
    let message = error(&archive, None);
    assert!(message.contains("`caption`") && message.contains("JSON fields alt, url"), "{message}");
    assert!(error(&archive, Some("txt")).contains("found .cls, .json, .png"));
    for (record, why) in [
        ("{\"caption\": 7}", "1: bad record: the field `caption` of the .json member is a number, not text"),
        ("{\"caption\": null}", "1: empty caption: the field `caption` of the .json member is null"),
        ("caption: a cat", "1: bad record: .json does not parse: line 1, byte 1:"),
    ] {
        let mut archive = Archive::default();
        archive.add("1.png", &png(4, 4, 0)).add("1.json", record.as_bytes());
        let message = error(&archive, None);
        assert!(message.contains(why), "{message}");
    }
    let mut archive = Archive::default();
    archive.add("1.svg", b"<svg").add("1.txt", b"a cat");
    let message = error(&archive, None);
    assert!(message.contains("no images") && message.contains(".svg, .txt"), "{message}");
    let none: [&str; 0] = [];
    assert!(matches!(Dataset::open(&none, CaptionKeys::default()), Err(DataError::NoSources { .. })));
}

#[test]
fn the_class_number_is_read_if_it_is_asked_for() {
    let mut archive = Archive::default();
    for (name, txt, cls) in [
        ("0", Some("a cat"), Some(&b"3\n"[..])),
        ("1", None, Some(b"\xEF\xBB\xBF12\r\n")),
        ("2", Some("a dog"), None),
        ("3", None, Some(b"tench\n")),
        ("4", None, Some(b" \n")),
    ] {
        archive.add(&format!("{name}.png"), &png(4, 4, 1));
        txt.map(|txt| archive.add(&format!("{name}.txt"), txt.as_bytes()));
        cls.map(|cls| archive.add(&format!("{name}.cls"), cls));
    }
    let labels = |class_numbers| {
        let keys = CaptionKeys { class_numbers, ..CaptionKeys::default() };
        let dataset = Dataset::open(&[archive.file()], keys).unwrap();
        [0, 1, 2, 3, 4].map(|sample| dataset.label(sample).map_err(|broken| broken.kind))
    };
    let says = |text: &str| Ok(Label::Captions(vec![text.to_owned()]));
    let (cat, dog, tench) = (says("a cat"), says("a dog"), says("tench"));
    let number = |number| Ok(Label::Number(number));
    let (missing, empty) = (Err(Kind::MissingCaption), Err(Kind::EmptyCaption));
    let expected = [&cat, &missing, &dog, &missing, &missing];
    assert!(labels(ClassNumbers::Ignore).iter().eq(expected));
    let expected = [&number(3), &number(12), &dog, &tench, &empty];
    assert!(labels(ClassNumbers::Prefer).iter().eq(expected));
    let expected = [&cat, &number(12), &dog, &tench, &empty];
    assert!(labels(ClassNumbers::Accept).iter().eq(expected));
    let expected = [&number(3), &number(12), &missing, &tench, &empty];
    assert!(labels(ClassNumbers::Require).iter().eq(expected));
}

#[test]
fn an_archive_of_images_and_class_numbers_can_be_opened_for_them() {
    let mut archive = Archive::default();
    archive.add("0.png", &png(4, 4, 1)).add("0.cls", b"3");
    let open =
        |class_numbers| Dataset::open(&[archive.file()], CaptionKeys { class_numbers, ..CaptionKeys::default() });
    assert!(open(ClassNumbers::Ignore).is_err());
    assert_eq!(open(ClassNumbers::Prefer).unwrap().label(0).unwrap(), Label::Number(3));
}

#[test]
fn the_cache_holds_what_fits_whole() {
    let mut archive = Archive::default();
    for number in 0..10 {
        archive.add(&format!("{number}.png"), &png(8, 8, number)).add(&format!("{number}.txt"), b"x");
    }
    let size = 8 * 8 * 3;
    for (budget, kept) in [(0, 0), (9 * size, 0), (10 * size, 10)] {
        let dataset = Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap().with_cache(budget);
        for sample in 0..10 {
            let [first, second] = [dataset.decoded(sample).unwrap(), dataset.decoded(sample).unwrap()];
            assert_eq!(first, second);
            assert_eq!(Arc::ptr_eq(&first, &second), kept > 0);
        }
        assert_eq!(dataset.reader.cache.images.lock().unwrap().len(), kept);
    }
}

/// Latin-1, which tables on Windows are.
#[test]
fn columns_that_are_not_utf8_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.png"), png(4, 4, 1)).unwrap();
    let path = folder.path().join("t.csv");
    std::fs::write(&path, b"filepath,title,alt,width\na.png,caf\xE9 \"1\",caf\xE9,90\na.png,a cup,a cup,90\n").unwrap();
    let open = |key: Option<&str>, filter: &str| {
        let filter = Some(filter.parse().unwrap());
        let keys = CaptionKeys { caption_key: key.map(str::to_owned), filter, ..CaptionKeys::default() };
        Dataset::open(&[path.display().to_string()], keys).unwrap()
    };
    let plain = open(None, "width = 90");
    let words = "non-UTF-8 caption: the caption is not UTF-8 (byte 0xE9 in the columns `title`, `alt`); save the table";
    let error = plain.caption(0).unwrap_err().to_string();
    assert!(error.starts_with(words), "{error}");
    let error = open(Some("alt"), "width = 90").caption(0).unwrap_err().to_string();
    assert_eq!(error, "non-UTF-8 caption: the column `alt` is not UTF-8; save the table as UTF-8");
    assert_eq!(open(None, "alt = 'a cup'").len(), 1);
    // Other programs read what a pack has of it.
    let held = plain.held(0);
    let [_, json, _] = held.view().texts().unwrap();
    let record: serde_json::Value = serde_json::from_slice(&json.unwrap()).unwrap();
    assert_eq!((&record["title"], &record["width"]), (&"caf\u{FFFD} \"1\"".into(), &"90".into()));
}
