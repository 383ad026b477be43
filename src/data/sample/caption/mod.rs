//! A sample's captions and tags: where they are read from, and how they vary from visit to visit.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::filter::Filter;
use super::json::{Record, Value};
use super::label::ClassNumbers;
use crate::data::broken::{Broken, Kind};
use crate::data::error::{DataError, TextError};
use crate::data::format::Naming;
use crate::data::store::Access;
use crate::data::text;
use crate::random::Random;

/// Where a sample's captions, tags and image are read from, and which samples are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptionKeys {
    /// `None`: the `.txt` member, or else the field `caption` of the `.json` member. `Some("txt")`: only the
    /// `.txt` member. Any other: only that field of the `.json` member, which is a text or a list of texts. With
    /// commas, several of these, each with a probability (`caption:0.7,alt:0.3`) or all with the same (`caption,alt`).
    pub caption_key: Option<String>,
    /// Whether evaluation reads class numbers instead (see [`Dataset::label`](crate::data::Dataset::label)).
    pub class_numbers: ClassNumbers,
    /// What the lines of a `.txt` member are.
    pub caption_lines: CaptionLines,
    /// Field of the `.json` member with a list of tags; a sample without the field has no tags.
    pub tags_key: String,
    /// Column of a table (CSV, TSV, Parquet) with images or their paths; `None`: `filepath`, as OpenCLIP, or another
    /// usual name; in Parquet, first `image`.
    pub image_key: Option<String>,
    /// Only samples that pass are used.
    pub filter: Option<Filter>,
    /// How shards that are not on disk are fetched.
    #[serde(skip)]
    pub access: Access,
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
            access: Access::default(),
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
    /// Maximum number of tags that are appended.
    pub max_tags: usize,
}

impl Default for CaptionVariation {
    fn default() -> Self {
        Self { tag_chance: 0.5, max_tags: 3 }
    }
}

impl CaptionVariation {
    /// Whether tags are appended at a visit, if there are any.
    pub(crate) fn has_tags(&self, random: &mut Random) -> bool {
        random.uniform() < self.tag_chance
    }
}

/// The captions and tags of one sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Caption {
    /// All captions of the sample, in the order of the file; at least one.
    pub texts: Vec<String>,
    /// If they come from several fields: how many come from each, and its share of the visits. Empty: all come from
    /// one.
    pub fields: Vec<(usize, f32)>,
    /// In the order of the file.
    pub tags: Vec<String>,
    /// Why the tags could not be read, if so. The captions can still be used.
    pub tags_lost: Option<String>,
}

impl Caption {
    /// The captions of one field, drawn by the shares if there are several.
    fn draw_field(&self, random: &mut Random) -> &[String] {
        let Some(&(last, _)) = self.fields.last() else { return &self.texts };
        let mut left = random.uniform() * self.fields.iter().map(|(_, share)| share).sum::<f32>();
        let mut first = 0;
        for &(count, share) in &self.fields {
            if left < share {
                return &self.texts[first..first + count];
            }
            left -= share;
            first += count;
        }
        // Where the sum was rounded up.
        &self.texts[self.texts.len() - last..]
    }

    /// The first caption.
    pub fn first(&self) -> &str {
        self.texts.first().map_or("", String::as_str)
    }

    /// One of the captions, with equal probability (of several fields, first one of the fields by their shares), alone
    /// or as `caption, tag, tag`: a uniform number of distinct tags in random order. A single caption is taken without
    /// drawing a random number.
    pub fn vary(&self, variation: &CaptionVariation, random: &mut Random) -> String {
        let texts = self.draw_field(random);
        let text = match texts.len() {
            0 | 1 => texts.first().map_or("", String::as_str),
            several => &texts[random.below(several as u32) as usize],
        };
        let max = self.tags.len().min(variation.max_tags);
        if !variation.has_tags(random) || max == 0 {
            return text.to_owned();
        }
        let count = 1 + random.below(max as u32) as usize;
        let chosen = random.permutation(self.tags.len()).into_iter().take(count);
        chosen.fold(text.to_owned(), |caption, tag| caption + ", " + &self.tags[tag as usize])
    }
}

/// A field that captions are drawn from, and its share. `txt` is the `.txt` member.
type Choice<'a> = (&'a str, f32);

fn is_txt(key: &str) -> bool {
    matches!(key, "txt" | ".txt")
}

impl CaptionKeys {
    /// The fields that captions are drawn from, if they are several. A share that is not a number is NaN.
    fn choices(&self) -> Option<Vec<Choice<'_>>> {
        let list = self.caption_key.as_deref().filter(|key| key.contains(','))?;
        let choice = |part: &'_ str| -> (usize, f32) {
            part.rsplit_once(':')
                .map_or((part.len(), 1.0), |(key, share)| (key.len(), share.trim().parse().unwrap_or(f32::NAN)))
        };
        Some(list.split(',').map(|part| (part[..choice(part).0].trim(), choice(part).1)).collect())
    }

    /// Checks the list of fields, if there are several.
    ///
    /// # Errors
    /// A field without a name, or twice; a probability that is not a number above 0; one that only some fields have.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let (Some(value), Some(choices)) = (&self.caption_key, self.choices()) else { return Ok(()) };
        let with_share = value.split(',').filter(|part| part.contains(':')).count();
        let repeated = |(at, (key, _)): (usize, &Choice)| choices[..at].iter().any(|(other, _)| other == key);
        let problem = if choices.iter().any(|(key, _)| key.is_empty()) {
            "a field has no name"
        } else if choices.iter().any(|(_, share)| !(*share > 0.0 && share.is_finite())) {
            "a probability must be a number above 0, as in caption:0.7,alt:0.3"
        } else if with_share != 0 && with_share != choices.len() {
            "either all fields have a probability, or none"
        } else if choices.iter().enumerate().any(repeated) {
            "a field is there twice"
        } else {
            return Ok(());
        };
        Err(DataError::Config { field: "caption_key", value: value.clone(), problem: problem.to_owned() })
    }

    /// Whether captions are those of `.txt`, if a sample has it.
    pub(crate) fn takes_txt(&self) -> bool {
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
    pub(crate) fn looked_for(&self, naming: Naming) -> String {
        match self.class_numbers {
            ClassNumbers::Require => naming.cls().to_owned(),
            ClassNumbers::Ignore | ClassNumbers::Unused => self.places(naming),
            ClassNumbers::Prefer | ClassNumbers::Accept => format!("{}, or {}", naming.cls(), self.places(naming)),
        }
    }

    fn places(&self, naming: Naming) -> String {
        let place = |key: &str| if is_txt(key) { naming.txt().to_owned() } else { naming.field(key) };
        match (self.choices(), self.caption_key.as_deref()) {
            (Some(choices), _) => choices.iter().map(|(key, _)| place(key)).collect::<Vec<_>>().join(" or "),
            (None, Some(key)) => place(key),
            // It is one of those columns.
            (None, None) if naming == Naming::Columns => naming.txt().to_owned(),
            (None, None) => format!("{} or {}", naming.txt(), naming.field("caption")),
        }
    }

    /// Draws one of the captions in a `.txt` member into `out`, as [`Caption::vary`] does before it appends tags.
    /// Returns false if captions are not read from there alone, or there is none that can be used;
    /// [`Self::read_all`] says why.
    pub(crate) fn draw(&self, txt: &[u8], naming: Naming, random: &mut Random, out: &mut String) -> bool {
        let Ok(txt) = text::decode(txt) else { return false };
        if !self.takes_txt() {
            return false;
        }
        let captions = || self.captions(txt, naming);
        let drawn = match captions().count() {
            0 => return false,
            1 => captions().next(),
            several => captions().nth(random.below(several as u32) as usize),
        };
        out.clear();
        out.push_str(&drawn.unwrap_or_default());
        true
    }

    /// Reads a sample's captions and tags from its `.txt` and `.json` members.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn read(&self, txt: Option<&[u8]>, json: Option<&[u8]>) -> Result<Caption, Broken> {
        self.read_all(txt.as_slice(), json, Naming::Members)
    }

    /// Reads a sample's captions and tags from its `.txt` member, or several such texts, and its `.json` member;
    /// `naming` is for messages.
    pub(crate) fn read_all(
        &self,
        txts: &[impl AsRef<[u8]>],
        json: Option<&[u8]>,
        naming: Naming,
    ) -> Result<Caption, Broken> {
        if let Some(choices) = self.choices() {
            return self.read_several(&choices, txts, json, naming);
        }
        let txts = if self.takes_txt() { txts } else { &[] };
        let mut texts = self.captions_in(txts, json, naming)?;
        let field = self.json_field().filter(|_| texts.is_empty());
        let wanted = [Some(&*self.tags_key), field];
        let record = json.map(|json| Record::read(json, &wanted.into_iter().flatten().collect::<Vec<_>>()));
        if texts.is_empty() {
            let found = field.zip(record.as_ref()).map(|(field, record)| caption_in(record, field, naming));
            texts = match (found, txts) {
                (Some(Ok(texts)), _) => texts,
                // What is wrong with a caption is more useful than that others are missing.
                (Some(Err(why)), []) if why.kind == Kind::MissingCaption && self.takes_txt() && naming.has_txt() => {
                    return Err(Broken { detail: format!("it lacks {}, and {}", naming.txt(), why.detail), ..why });
                }
                (Some(Err(why)), []) => return Err(why),
                (Some(Err(why)), _) if why.kind != Kind::MissingCaption => return Err(why),
                (None, []) => {
                    return Err(broken(Kind::MissingCaption, format!("looked for {}", self.looked_for(naming))));
                }
                _ => return Err(broken(Kind::EmptyCaption, format!("{} is blank", naming.caption()))),
            };
        }
        let (tags, tags_lost) = record.as_ref().map(|record| self.tags(record)).unwrap_or_default();
        Ok(Caption { texts, fields: Vec::new(), tags, tags_lost })
    }

    /// As [`Self::read_all`], for captions from several fields. Those that are missing or cannot be used leave their
    /// share to the others.
    fn read_several(
        &self,
        choices: &[Choice],
        txts: &[impl AsRef<[u8]>],
        json: Option<&[u8]>,
        naming: Naming,
    ) -> Result<Caption, Broken> {
        let wanted: Vec<&str> = choices.iter().map(|(key, _)| *key).chain([&*self.tags_key]).collect();
        let record = json.map(|json| Record::read(json, &wanted));
        let mut caption = Caption::default();
        let mut refused: Option<Broken> = None;
        for &(key, share) in choices {
            let found = match (is_txt(key), &record) {
                (true, _) if !txts.is_empty() => self.captions_in(txts, json, naming),
                (false, Some(record)) => caption_in(record, key, naming),
                _ => continue,
            };
            match found {
                Ok(texts) if texts.is_empty() => {
                    let blank = || broken(Kind::EmptyCaption, format!("{} is blank", naming.caption()));
                    refused.get_or_insert_with(blank);
                }
                Ok(texts) => {
                    caption.fields.push((texts.len(), share));
                    caption.texts.extend(texts);
                }
                Err(why) if why.kind != Kind::MissingCaption => drop(refused.get_or_insert(why)),
                Err(_) => {}
            }
        }
        if caption.texts.is_empty() {
            let missing = || broken(Kind::MissingCaption, format!("looked for {}", self.looked_for(naming)));
            return Err(refused.unwrap_or_else(missing));
        }
        (caption.tags, caption.tags_lost) = record.as_ref().map(|record| self.tags(record)).unwrap_or_default();
        Ok(caption)
    }

    /// The captions in one or several texts; `json` is for messages.
    fn captions_in(
        &self,
        txts: &[impl AsRef<[u8]>],
        json: Option<&[u8]>,
        naming: Naming,
    ) -> Result<Vec<String>, Broken> {
        let mut texts = Vec::new();
        for txt in txts {
            let wrong = |problem| {
                let detail = match problem {
                    // The line of a file, which a value of a table is not.
                    TextError::NotUtf8 { byte, .. } if naming == Naming::Columns => {
                        let columns = json.map_or_else(String::new, not_utf8);
                        format!("the caption is not UTF-8 (byte 0x{byte:02X}{columns}); {SAVE}")
                    }
                    problem => format!("{}: {problem}", naming.caption()),
                };
                broken(Kind::NonUtf8Caption, detail)
            };
            texts.extend(self.captions(text::decode(txt.as_ref()).map_err(wrong)?, naming).map(Cow::into_owned));
        }
        Ok(texts)
    }

    /// The captions in a text: its lines, or only one if it is a value of a table, as a text in JSON is.
    fn captions<'a>(&self, txt: &'a str, naming: Naming) -> impl Iterator<Item = Cow<'a, str>> {
        let (lines, whole) = match self.caption_lines {
            CaptionLines::Each if naming != Naming::Columns => (txt, ""),
            CaptionLines::Each | CaptionLines::Join => ("", txt),
        };
        text::lines(lines).filter_map(words).chain(words(whole))
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

/// What to do with a table that is not UTF-8.
const SAVE: &str = "save the table as UTF-8";

/// The columns of a row that are not UTF-8, for a message.
fn not_utf8(json: &[u8]) -> String {
    let names = Record::read(json, &[]).names;
    let record = Record::read(json, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let wrong = names.iter().filter(|name| record.get(name) == Some(&Value::NotUtf8));
    let wrong: Vec<String> = wrong.map(|name| format!("`{name}`")).collect();
    match &*wrong {
        [] => String::new(),
        [one] => format!(" in the column {one}"),
        several => format!(" in the columns {}", several.join(", ")),
    }
}

/// The captions in a field of a record.
fn caption_in(record: &Record, field: &str, naming: Naming) -> Result<Vec<String>, Broken> {
    let name = || naming.field(field);
    let empty = |what: &str| Err(broken(Kind::EmptyCaption, format!("{} is {what}", name())));
    let texts = match record.get(field) {
        Some(Value::Text(text)) => match words(text) {
            Some(text) => vec![text.into_owned()],
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
            let advice = if naming == Naming::Columns { format!("; {SAVE}") } else { String::new() };
            return Err(broken(Kind::NonUtf8Caption, format!("{} is not UTF-8{advice}", name())));
        }
        Some(other) => {
            let problem = format!("{} is {}, not text", name(), other.kind());
            return Err(broken(Kind::BadRecord, problem));
        }
        None => {
            let why = match &record.problem {
                Some(problem) => broken(Kind::BadRecord, format!(".json does not parse: {problem}")),
                None => broken(Kind::MissingCaption, missing(record, field, naming)),
            };
            return Err(why);
        }
    };
    Ok(texts)
}

/// That there is no field of a name, and which one may be meant.
fn missing(record: &Record, field: &str, naming: Naming) -> String {
    let name = naming.field(field);
    // Columns of Parquet that are structs, maps or lists of lists are not in the record.
    let of = if naming == Naming::Columns { " of texts or lists of texts" } else { "" };
    let is_near = |other: &&String| {
        let start = other.get(..field.len()).filter(|start| start.eq_ignore_ascii_case(field));
        start.is_some() && matches!(other.as_bytes().get(field.len()), None | Some(b'.'))
    };
    let near = record.names.iter().find(is_near).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    format!("there is no {}{of}{near}", name.trim_start_matches("the "))
}

fn broken(kind: Kind, detail: String) -> Broken {
    Broken { kind, detail }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => words(text).map(Cow::into_owned),
        _ => None,
    }
}

/// Trimmed and in composed form, or `None` if nothing is left.
fn words(text: &str) -> Option<Cow<'_, str>> {
    let text = text::strip_bom(text).trim();
    text.chars().any(is_visible).then(|| text::compose(text))
}

/// Whether a character can be seen: not space, control, direction or joiner.
fn is_visible(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && c.general_category() != GeneralCategory::Format
}
