//! Captions and tags as files have them, and as visits see them.

use std::collections::BTreeMap;

use super::*;
use crate::random::Purpose;

fn keys(caption_key: Option<&str>) -> CaptionKeys {
    CaptionKeys { caption_key: caption_key.map(str::to_owned), ..CaptionKeys::default() }
}

const JSON: Option<&[u8]> = Some(br#"{"caption": "from json", "alt": " an alt ", "tags": ["one", 2, "three"]}"#);

fn read(key: Option<&str>, txt: Option<&[u8]>, json: Option<&[u8]>) -> Result<Vec<String>, Kind> {
    keys(key).read(txt, json).map(|caption| caption.texts).map_err(|broken| broken.kind)
}

#[test]
fn the_key_decides_where_the_caption_comes_from() {
    let one = |key, txt, json| read(key, txt, json).map(|texts| texts.join("|"));
    assert_eq!(one(None, Some(b"from txt\n"), JSON).unwrap(), "from txt");
    assert_eq!(one(None, Some(b" \n"), JSON).unwrap(), "from json");
    assert_eq!(one(None, None, JSON).unwrap(), "from json");
    assert_eq!(one(Some("alt"), Some(b"from txt"), JSON).unwrap(), "an alt");
    assert_eq!(one(Some("txt"), None, JSON), Err(Kind::MissingCaption));
    assert_eq!(one(Some(".txt"), Some(b"from txt"), JSON).unwrap(), "from txt");
    assert_eq!(one(Some("other"), None, JSON), Err(Kind::MissingCaption));
    assert_eq!(one(None, Some(b"fine"), Some(b"{broken")).unwrap(), "fine");
    assert_eq!(one(None, Some(b"caf\xE9"), None), Err(Kind::NonUtf8Caption));
    assert_eq!(one(None, None, Some(b"{\"caption\": \"caf\xE9\"}")), Err(Kind::NonUtf8Caption));
    assert_eq!(keys(None).read(None, JSON).unwrap().tags, ["one", "three"]);
}

#[test]
fn each_line_and_each_text_of_a_list_is_a_caption() {
    let lines = Some(&b"\xEF\xBB\xBFa red square\r\n\r\n a square that is red \r\n"[..]);
    assert_eq!(read(None, lines, None).unwrap(), ["a red square", "a square that is red"]);
    let list = Some(&br#"{"caption": ["a red square", " ", 3, "a square that is red"], "tags": null}"#[..]);
    assert_eq!(read(None, None, list).unwrap(), ["a red square", "a square that is red"]);
    let joined = CaptionKeys { caption_lines: CaptionLines::Join, ..keys(None) };
    assert_eq!(joined.read(Some(b"one\ntwo\n"), None).unwrap().texts, ["one\ntwo"]);
    // As many texts as a record of a TFRecord file has.
    let several = [&b"one\ntwo\n"[..], b" ", b"three"];
    assert_eq!(joined.read_all(&several, None, Naming::Members).unwrap().texts, ["one\ntwo", "three"]);
    assert_eq!(keys(None).read_all(&several, None, Naming::Features).unwrap().texts, ["one", "two", "three"]);
    // A value of a table is one caption, as a text in JSON is.
    assert_eq!(keys(None).read_all(&several, None, Naming::Columns).unwrap().texts, ["one\ntwo", "three"]);
    let several_fields = keys(Some("txt,alt")).read_all(&several, None, Naming::Columns).unwrap();
    assert_eq!(several_fields.texts, ["one\ntwo", "three"]);
    let latin1 = keys(None).read_all(&[b"caf\xE9"], None, Naming::Columns).unwrap_err().to_string();
    let of_struct = keys(None).read_all(&[] as &[&[u8]], Some(br#"{"caption.en": "x"}"#), Naming::Columns).unwrap_err();
    assert_eq!(of_struct.detail, "there is no column `caption` of texts or lists of texts; did you mean `caption.en`?");
    assert_eq!(latin1, "non-UTF-8 caption: the caption is not UTF-8 (byte 0xE9); save the table as UTF-8");
    assert_eq!(
        keys(None).read_all(&[&b"one"[..], b"\xE9"], None, Naming::Members).unwrap_err().kind,
        Kind::NonUtf8Caption
    );
    assert_eq!(read(None, Some("re\u{200B}d".as_bytes()), None).unwrap(), ["re\u{200B}d"]);
    // The same letters in another Unicode form.
    assert_eq!(read(None, Some("cafe\u{301}".as_bytes()), None).unwrap(), ["caf\u{e9}"]);
}

#[test]
fn empty_missing_and_unusable_captions_differ() {
    let error = |key, txt: Option<&str>, json: Option<&str>| {
        keys(key).read(txt.map(str::as_bytes), json.map(str::as_bytes)).unwrap_err()
    };
    for (key, txt, json, kind, words) in [
        (None, Some(""), None, Kind::EmptyCaption, ".txt member is blank"),
        (None, Some("\u{200B}\u{2060}\u{202B}\n"), None, Kind::EmptyCaption, ".txt member is blank"),
        (None, None, Some(r#"{"caption": [{"text": "x"}]}"#), Kind::EmptyCaption, "first element is an object"),
        (None, Some(" \n\n"), Some("{}"), Kind::EmptyCaption, ".txt member is blank"),
        (Some("txt"), Some("\u{FEFF}"), None, Kind::EmptyCaption, ".txt member is blank"),
        (None, Some(""), Some("{broken"), Kind::BadRecord, "does not parse"),
        (None, None, None, Kind::MissingCaption, "a .txt member or the field `caption`"),
        (None, None, Some("{}"), Kind::MissingCaption, "it lacks a .txt member, and there is no field `caption`"),
        (None, None, Some(r#"{"caption": null}"#), Kind::EmptyCaption, "is null"),
        (None, None, Some(r#"{"caption": " "}"#), Kind::EmptyCaption, "is blank"),
        (None, None, Some(r#"{"caption": []}"#), Kind::EmptyCaption, "an empty list"),
        (None, None, Some(r#"{"caption": [null, 3]}"#), Kind::EmptyCaption, "a list without text"),
        (None, None, Some(r#"{"caption": 7}"#), Kind::BadRecord, "is a number, not text"),
        (None, None, Some(r#"{"caption": true}"#), Kind::BadRecord, "is true or false, not text"),
        (None, None, Some(r#"{"caption": {"en": "x"}}"#), Kind::BadRecord, "is an object, not text"),
        (None, None, Some("[1]"), Kind::BadRecord, "this is a list"),
        (None, None, Some("{broken"), Kind::BadRecord, "does not parse: line 1, byte 2"),
        (Some("text"), None, Some(r#"{"TEXT": "x"}"#), Kind::MissingCaption, ".json member; did you mean `TEXT`?"),
        (Some("alt"), Some("fine"), Some(r#"{"alt": null}"#), Kind::EmptyCaption, "`alt`"),
    ] {
        let found = error(key, txt, json);
        assert!(found.kind == kind && found.detail.contains(words), "{txt:?} {json:?}: {found}");
    }
}

#[test]
fn tags_that_cannot_be_read_are_reported() {
    let tags = |json: &str| {
        let caption = keys(None).read(Some(b"fine"), Some(json.as_bytes())).unwrap();
        (caption.tags, caption.tags_lost)
    };
    assert_eq!(tags(r#"{"tags": ["red", "big"], "score": NaN}"#), (vec!["red".to_owned(), "big".to_owned()], None));
    for none in ["{}", r#"{"tags": null}"#, r#"{"tags": []}"#] {
        assert_eq!(tags(none), (Vec::new(), None), "{none}");
    }
    let lost = |json| tags(json).1.unwrap();
    assert!(lost("{broken").contains(".json does not parse"));
    assert!(lost(r#"{"tags": "red, big"}"#).contains("`tags` is text, not a list"));
}

#[test]
fn captions_vary_with_the_visit_alone() {
    let tags = ["a", "b", "c"].map(str::to_owned).to_vec();
    let caption = Caption { texts: vec!["cat".to_owned()], tags, ..Caption::default() };
    let variation = CaptionVariation { tag_chance: 0.5, max_tags: 2 };
    let visit = |epoch| caption.vary(&variation, &mut Random::new(5, Purpose::Caption, epoch, 9));
    let mut seen = BTreeMap::new();
    for epoch in 0..4000 {
        *seen.entry(visit(epoch)).or_insert(0) += 1;
    }
    // The name alone half of the time; each of 3 single tags and 6 ordered pairs shares its quarter.
    // Tolerance: five standard deviations of a binomial count.
    assert_eq!(seen.len(), 10);
    for (words, count) in seen {
        let p: f64 = [0.5, 0.25 / 3.0, 0.25 / 6.0][words.matches(", ").count()];
        let (mean, deviation) = (4000.0 * p, (4000.0 * p * (1.0 - p)).sqrt());
        assert!((f64::from(count) - mean).abs() < 5.0 * deviation, "{words}: {count}");
    }
    assert_eq!(visit(3), visit(3));
    let never = CaptionVariation { tag_chance: 0.0, max_tags: 2 };
    assert_eq!(caption.vary(&never, &mut Random::new(5, Purpose::Caption, 0, 0)), "cat");
}

/// Tolerance: five standard deviations of a binomial count.
#[test]
fn fields_are_drawn_by_their_probabilities() {
    let shares = |key: &str, json: &str| {
        let caption = keys(Some(key)).read(Some(b"from txt\n"), Some(json.as_bytes())).unwrap();
        let visit = |epoch| caption.vary(&CaptionVariation::default(), &mut Random::new(5, Purpose::Caption, epoch, 9));
        let mut seen = BTreeMap::new();
        (0..4000).for_each(|epoch| *seen.entry(visit(epoch)).or_insert(0.0) += 1.0 / 4000.0);
        assert_eq!(visit(3), visit(3));
        seen
    };
    let is = |found: BTreeMap<String, f64>, expected: &[(&str, f64)]| {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (text, p) in expected {
            let deviation = (p * (1.0 - p) / 4000.0).sqrt();
            assert!((found[*text] - p).abs() <= 5.0 * deviation + 1e-9, "{text}: {found:?}");
        }
    };
    let whole = r#"{"caption": "one", "alt": ["two", "three"]}"#;
    is(shares("caption:0.7,alt:0.2,txt:0.1", whole), &[("one", 0.7), ("two", 0.1), ("three", 0.1), ("from txt", 0.1)]);
    is(shares("caption:7, alt:3", whole), &[("one", 0.7), ("two", 0.15), ("three", 0.15)]);
    is(shares("caption,txt", whole), &[("one", 0.5), ("from txt", 0.5)]);
    // What a sample lacks, or what cannot be used, is shared out.
    for json in [r#"{"alt": "two"}"#, r#"{"caption": " ", "alt": "two"}"#, r#"{"alt": "two", "caption": 7}"#] {
        is(shares("caption:0.7,alt:0.2,txt:0.1", json), &[("two", 2.0 / 3.0), ("from txt", 1.0 / 3.0)]);
    }
    is(shares("caption:0.7,txt:0.3", "{broken"), &[("from txt", 1.0)]);
    let error = |key: &str, json: &str| keys(Some(key)).read(None, Some(json.as_bytes())).unwrap_err();
    let missing = error("a:1,txt:1", r#"{"b": 1}"#);
    assert!(missing.kind == Kind::MissingCaption, "{missing}");
    assert!(missing.detail.contains("the field `a` of the .json member or a .txt member"), "{missing}");
    assert_eq!(error("a:1,b:1", r#"{"a": "", "b": 1}"#).kind, Kind::EmptyCaption);
    for (key, words) in [
        ("a:0.5,b", "either all"),
        ("a:0,b:1", "above 0"),
        ("a:x,b:1", "above 0"),
        ("a,,b", "no name"),
        ("a,b, a", "twice"),
    ] {
        let problem = keys(Some(key)).check().unwrap_err().to_string();
        assert!(problem.contains(words) && problem.contains(&format!("caption_key = {key}")), "{problem}");
    }
    assert!(keys(Some("caption")).check().is_ok() && keys(Some("a:0.5,b:2")).check().is_ok());
}

#[test]
fn one_of_several_captions_is_chosen_at_random() {
    let texts = ["one", "two", "three"].map(str::to_owned).to_vec();
    let caption = Caption { texts, ..Caption::default() };
    let visit = |epoch| caption.vary(&CaptionVariation::default(), &mut Random::new(5, Purpose::Caption, epoch, 9));
    let mut seen = BTreeMap::new();
    for epoch in 0..3000 {
        *seen.entry(visit(epoch)).or_insert(0.0) += 1.0;
    }
    // Five standard deviations of a binomial count.
    let deviation = (3000.0_f64 * (1.0 / 3.0) * (2.0 / 3.0)).sqrt();
    assert!(seen.len() == 3 && seen.values().all(|count| (count - 1000.0_f64).abs() < 5.0 * deviation), "{seen:?}");
    assert_eq!(visit(3), visit(3));
}

#[test]
fn a_text_alone_is_drawn_from_as_all_captions_are() {
    let texts: [&[u8]; 7] = [
        b"one",
        b"one\ntwo\r\n \nthree\n",
        "\u{FEFF} e\u{301} \nx".as_bytes(),
        b"",
        b" \n",
        b"\xE9t\xE9",
        b"\xFF\xFEa\0",
    ];
    for (caption_key, caption_lines) in [None, Some("txt"), Some("caption"), Some("txt,caption")]
        .into_iter()
        .flat_map(|key| [(key, CaptionLines::Each), (key, CaptionLines::Join)])
    {
        let caption_key = caption_key.map(str::to_owned);
        let keys = CaptionKeys { caption_key, caption_lines, ..CaptionKeys::default() };
        for (txt, naming) in texts.iter().flat_map(|txt| [(txt, Naming::Members), (txt, Naming::Columns)]) {
            let caption = keys.read_all(&[txt], None, naming).ok().filter(|_| keys.takes_txt());
            for epoch in 0..8 {
                let random = || Random::new(5, Purpose::Caption, epoch, 9);
                let mut out = "before".to_owned();
                let drawn = keys.draw(txt, naming, &mut random(), &mut out).then_some(out);
                let expected = caption.as_ref().map(|all| all.vary(&CaptionVariation::default(), &mut random()));
                assert_eq!(drawn, expected, "{caption_lines:?} {naming:?} {txt:?}");
            }
        }
    }
}
