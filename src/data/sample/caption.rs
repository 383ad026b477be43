//! A sample's captions and tags: where they are read from, and how they vary from visit to visit.

use serde::{Deserialize, Serialize};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::filter::Filter;
use super::json::{Record, Value};
use super::label::ClassNumbers;
use crate::data::broken::{Broken, Kind};
use crate::data::text;
use crate::random::Random;

/// Where a sample's captions, tags and image are read from, and which samples are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptionKeys {
    /// `None`: the `.txt` member, or else the field `caption` of the `.json` member. `Some("txt")`: only the
    /// `.txt` member. Any other: only that field of the `.json` member, which is a text or a list of texts.
    pub caption_key: Option<String>,
    /// Whether evaluation reads class numbers instead (see [`Dataset::label`](crate::data::Dataset::label)).
    pub class_numbers: ClassNumbers,
    /// What the lines of a `.txt` member are.
    pub caption_lines: CaptionLines,
    /// Field of the `.json` member with a list of tags; a sample without the field has no tags.
    pub tags_key: String,
    /// Column of a table (CSV, TSV) with the paths of images; `None`: `filepath`, as OpenCLIP, or another usual name.
    pub image_key: Option<String>,
    /// Only samples that pass are used.
    pub filter: Option<Filter>,
}

impl Default for CaptionKeys {
    fn default() -> Self {
        let (class_numbers, caption_lines) = (ClassNumbers::default(), CaptionLines::default());
        Self {
            caption_key: None,
            class_numbers,
            caption_lines,
            tags_key: "tags".to_owned(),
            image_key: None,
            filter: None,
        }
    }
}

/// What the lines of a `.txt` member are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum CaptionLines {
    /// Each line that is not blank is a caption of its own.
    #[default]
    Each,
    /// All lines together are one caption.
    Join,
}

/// How a caption varies: with probability `tag_chance`, it is followed by `1..=max_tags` of the sample's tags.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptionVariation {
    /// Probability of appending tags, in `[0, 1]`.
    pub tag_chance: f32,
    /// At most so many.
    pub max_tags: usize,
}

impl Default for CaptionVariation {
    fn default() -> Self {
        Self { tag_chance: 0.5, max_tags: 3 }
    }
}

/// The captions and tags of one sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caption {
    /// All captions of the sample, in the order of the file; at least one.
    pub texts: Vec<String>,
    /// In the order of the file.
    pub tags: Vec<String>,
    /// Why the tags could not be read, if so. The captions can still be used.
    pub tags_lost: Option<String>,
}

impl Caption {
    /// The first caption.
    pub fn first(&self) -> &str {
        self.texts.first().map_or("", String::as_str)
    }

    /// One of the captions, with equal probability, alone or as `caption, tag, tag`: a uniform number of distinct tags
    /// in random order. A single caption is taken without drawing a random number.
    pub fn vary(&self, variation: &CaptionVariation, random: &mut Random) -> String {
        let text = match self.texts.len() {
            0 | 1 => self.first(),
            several => &self.texts[random.below(several as u32) as usize],
        };
        let max = self.tags.len().min(variation.max_tags);
        if random.uniform() >= variation.tag_chance || max == 0 {
            return text.to_owned();
        }
        let count = 1 + random.below(max as u32) as usize;
        let chosen = random.permutation(self.tags.len()).into_iter().take(count);
        chosen.fold(text.to_owned(), |caption, tag| caption + ", " + &self.tags[tag as usize])
    }
}

impl CaptionKeys {
    fn takes_txt(&self) -> bool {
        matches!(self.caption_key.as_deref(), None | Some("txt" | ".txt"))
    }

    fn json_field(&self) -> Option<&str> {
        match self.caption_key.as_deref() {
            None => Some("caption"),
            Some("txt" | ".txt") => None,
            field => field,
        }
    }

    /// Where captions are looked for, for an error message.
    pub(crate) fn looked_for(&self) -> String {
        match self.class_numbers {
            ClassNumbers::Require => "a .cls member".to_owned(),
            ClassNumbers::Ignore => self.places(),
            ClassNumbers::Prefer | ClassNumbers::Accept => format!("a .cls member, or {}", self.places()),
        }
    }

    fn places(&self) -> String {
        match (self.takes_txt(), self.json_field()) {
            (true, None) => "a .txt member".to_owned(),
            (false, Some(field)) => format!("the field `{field}` of a .json member"),
            (_, field) => format!("a .txt member or the field `{}` of a .json member", field.unwrap_or_default()),
        }
    }

    /// Reads a sample's captions and tags from its `.txt` and `.json` members.
    pub(crate) fn read(&self, txt: Option<&[u8]>, json: Option<&[u8]>) -> Result<Caption, Broken> {
        let txt = txt.filter(|_| self.takes_txt());
        let mut texts = match txt.map(text::decode) {
            Some(Ok(txt)) => self.captions(txt),
            Some(Err(problem)) => return Err(broken(Kind::NonUtf8Caption, format!(".txt: {problem}"))),
            None => Vec::new(),
        };
        let field = self.json_field().filter(|_| texts.is_empty());
        let wanted = [Some(&*self.tags_key), field];
        let record = json.map(|json| Record::read(json, &wanted.into_iter().flatten().collect::<Vec<_>>()));
        if texts.is_empty() {
            let found = field.zip(record.as_ref()).map(|(field, record)| caption_in(record, field));
            texts = match (found, txt) {
                (Some(Ok(texts)), _) => texts,
                // What is wrong with a caption is more useful than that others are missing.
                (Some(Err(why)), None) => return Err(why),
                (Some(Err(why)), Some(_)) if why.kind != Kind::MissingCaption => return Err(why),
                (_, Some(_)) => return Err(broken(Kind::EmptyCaption, "the .txt member is blank".to_owned())),
                (None, None) => {
                    return Err(broken(Kind::MissingCaption, format!("looked for {}", self.looked_for())));
                }
            };
        }
        let (tags, tags_lost) = record.as_ref().map(|record| self.tags(record)).unwrap_or_default();
        Ok(Caption { texts, tags, tags_lost })
    }

    /// The captions in the text of a `.txt` member.
    fn captions(&self, txt: &str) -> Vec<String> {
        match self.caption_lines {
            CaptionLines::Each => text::lines(txt).filter_map(words).collect(),
            CaptionLines::Join => words(txt).into_iter().collect(),
        }
    }

    /// The tags in a record, and why they could not be read, if so.
    fn tags(&self, record: &Record) -> (Vec<String>, Option<String>) {
        match (record.get(&self.tags_key), &record.problem) {
            (Some(Value::List(tags)), _) => (tags.iter().filter_map(text_of).collect(), None),
            (None, Some(problem)) => (Vec::new(), Some(format!(".json does not parse: {problem}"))),
            (None | Some(Value::Null), _) => (Vec::new(), None),
            (Some(other), _) => {
                (Vec::new(), Some(format!("the field `{}` is {}, not a list", self.tags_key, other.kind())))
            }
        }
    }
}

/// The captions in a field of a record.
fn caption_in(record: &Record, field: &str) -> Result<Vec<String>, Broken> {
    let empty =
        |what: &str| Err(broken(Kind::EmptyCaption, format!("the field `{field}` of the .json member is {what}")));
    let texts = match record.get(field) {
        Some(Value::Text(text)) => match words(text) {
            Some(text) => vec![text],
            None => return empty("blank"),
        },
        Some(Value::List(list)) if list.is_empty() => return empty("an empty list"),
        Some(Value::List(list)) => match list.iter().filter_map(text_of).collect::<Vec<_>>() {
            texts if texts.is_empty() => {
                return empty(&format!("a list without text (its first element is {})", list[0].kind()));
            }
            texts => texts,
        },
        Some(Value::Null) => return empty("null"),
        Some(Value::NotUtf8) => {
            return Err(broken(Kind::NonUtf8Caption, format!("the field `{field}` of the .json member is not UTF-8")));
        }
        Some(other) => {
            let problem = format!("the field `{field}` of the .json member is {}, not text", other.kind());
            return Err(broken(Kind::BadRecord, problem));
        }
        None => {
            let why = match &record.problem {
                Some(problem) => broken(Kind::BadRecord, format!(".json does not parse: {problem}")),
                None => broken(Kind::MissingCaption, format!("the .json member has no field `{field}`")),
            };
            return Err(why);
        }
    };
    Ok(texts)
}

fn broken(kind: Kind, detail: String) -> Broken {
    Broken { kind, detail }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => words(text),
        _ => None,
    }
}

/// Trimmed and in composed form, or `None` if nothing is left.
fn words(text: &str) -> Option<String> {
    let text = text::strip_bom(text).trim();
    text.chars().any(is_visible).then(|| text::compose(text).into_owned())
}

/// Whether a character can be seen: not space, control, direction or joiner.
fn is_visible(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && c.general_category() != GeneralCategory::Format
}

#[cfg(test)]
mod tests {
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
            (None, None, Some("{}"), Kind::MissingCaption, "no field `caption`"),
            (None, None, Some(r#"{"caption": null}"#), Kind::EmptyCaption, "is null"),
            (None, None, Some(r#"{"caption": " "}"#), Kind::EmptyCaption, "is blank"),
            (None, None, Some(r#"{"caption": []}"#), Kind::EmptyCaption, "an empty list"),
            (None, None, Some(r#"{"caption": [null, 3]}"#), Kind::EmptyCaption, "a list without text"),
            (None, None, Some(r#"{"caption": 7}"#), Kind::BadRecord, "is a number, not text"),
            (None, None, Some(r#"{"caption": true}"#), Kind::BadRecord, "is true or false, not text"),
            (None, None, Some(r#"{"caption": {"en": "x"}}"#), Kind::BadRecord, "is an object, not text"),
            (None, None, Some("[1]"), Kind::BadRecord, "this is a list"),
            (None, None, Some("{broken"), Kind::BadRecord, "does not parse: line 1, byte 2"),
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
        let caption = Caption { texts: vec!["cat".to_owned()], tags, tags_lost: None };
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
}
