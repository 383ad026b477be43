//! A sample's words: where they are found, and how they vary from visit to visit.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Broken, Kind};
use crate::random::Random;

/// Where captions and tags are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptionKeys {
    /// `None`: the `.txt` member, or else the field `caption` of the `.json` member. `Some("txt")`: only the
    /// `.txt` member. Any other: only that field of the `.json` member.
    pub caption_key: Option<String>,
    /// Field of the `.json` member with a list of tags; a sample without it has none.
    pub tags_key: String,
}

impl Default for CaptionKeys {
    fn default() -> Self {
        Self { caption_key: None, tags_key: "tags".to_owned() }
    }
}

/// How a caption varies: with probability `tag_chance`, `1..=max_tags` of the sample's tags follow the name.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptionVariation {
    pub tag_chance: f32,
    pub max_tags: usize,
}

impl Default for CaptionVariation {
    fn default() -> Self {
        Self { tag_chance: 0.5, max_tags: 3 }
    }
}

/// The words of one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    pub name: String,
    pub tags: Vec<String>,
}

impl Caption {
    /// The name, or `name, tag, tag`: a uniform number of distinct tags in random order.
    pub fn vary(&self, variation: &CaptionVariation, random: &mut Random) -> String {
        let most = self.tags.len().min(variation.max_tags);
        if random.uniform() >= variation.tag_chance || most == 0 {
            return self.name.clone();
        }
        let count = 1 + random.below(most as u32) as usize;
        let chosen = random.permutation(self.tags.len()).into_iter().take(count);
        chosen.fold(self.name.clone(), |caption, tag| caption + ", " + &self.tags[tag as usize])
    }
}

impl CaptionKeys {
    fn takes_txt(&self) -> bool {
        matches!(self.caption_key.as_deref(), None | Some("txt"))
    }

    fn json_field(&self) -> Option<&str> {
        match self.caption_key.as_deref() {
            None => Some("caption"),
            Some("txt") => None,
            field => field,
        }
    }

    /// What a caption is looked for in, for an error message.
    pub(super) fn looked_for(&self) -> String {
        match (self.takes_txt(), self.json_field()) {
            (true, None) => "a .txt member".to_owned(),
            (false, Some(field)) => format!("the field `{field}` of a .json member"),
            (_, field) => format!("a .txt member or the field `{}` of a .json member", field.unwrap_or_default()),
        }
    }

    /// Reads a sample's words from its `.txt` and `.json` members.
    pub(super) fn read(&self, txt: Option<&[u8]>, json: Option<&[u8]>) -> Result<Caption, Broken> {
        let broken = |kind, detail: String| Broken { kind, detail };
        let utf8 = |bytes, what: &str| {
            std::str::from_utf8(bytes).map_err(|error| broken(Kind::NonUtf8Caption, format!("{what}: {error}")))
        };
        let mut name = None;
        if let Some(txt) = txt.filter(|_| self.takes_txt()) {
            name = words(utf8(txt, ".txt")?);
        }
        let json = match json {
            Some(json) => match serde_json::from_str::<Value>(utf8(json, ".json")?) {
                Ok(value) => value,
                // A caption from the .txt member needs no .json.
                Err(_) if name.is_some() => Value::Null,
                Err(error) => return Err(broken(Kind::MissingCaption, format!(".json does not parse: {error}"))),
            },
            None => Value::Null,
        };
        if name.is_none() {
            name = self.json_field().and_then(|field| json.get(field)?.as_str()).and_then(words);
        }
        let name = name.ok_or_else(|| broken(Kind::MissingCaption, format!("looked for {}", self.looked_for())))?;
        let tags = json.get(&self.tags_key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let tags = tags.iter().filter_map(|tag| words(tag.as_str()?)).collect();
        Ok(Caption { name, tags })
    }
}

/// Trimmed, or nothing if that leaves nothing.
fn words(text: &str) -> Option<String> {
    let text = text.trim_start_matches('\u{FEFF}').trim();
    (!text.is_empty()).then(|| text.to_owned())
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

    #[test]
    fn the_key_decides_where_the_caption_comes_from() {
        let name = |key, txt, json| keys(key).read(txt, json).map(|caption| caption.name).map_err(|broken| broken.kind);
        assert_eq!(name(None, Some(b"from txt\n"), JSON).unwrap(), "from txt");
        assert_eq!(name(None, Some(b" \n"), JSON).unwrap(), "from json");
        assert_eq!(name(None, None, JSON).unwrap(), "from json");
        assert_eq!(name(Some("alt"), Some(b"from txt"), JSON).unwrap(), "an alt");
        assert_eq!(name(Some("txt"), None, JSON), Err(Kind::MissingCaption));
        assert_eq!(name(Some("other"), None, JSON), Err(Kind::MissingCaption));
        assert_eq!(name(None, None, Some(b"[1]")), Err(Kind::MissingCaption));
        assert_eq!(name(None, None, Some(b"{broken")), Err(Kind::MissingCaption));
        assert_eq!(name(None, Some(b"fine"), Some(b"{broken")).unwrap(), "fine");
        assert_eq!(name(None, Some(b"caf\xE9"), None), Err(Kind::NonUtf8Caption));
        assert_eq!(name(None, None, Some(b"{\"caption\": \"caf\xE9\"}")), Err(Kind::NonUtf8Caption));
        assert_eq!(keys(None).read(None, JSON).unwrap().tags, ["one", "three"]);
    }

    #[test]
    fn captions_vary_with_the_visit_and_only_with_it() {
        let caption = Caption { name: "cat".into(), tags: ["a", "b", "c"].map(str::to_owned).to_vec() };
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
}
