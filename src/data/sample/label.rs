//! What an image is compared with in evaluation: captions, or the number of a class.

use crate::data::broken::{Broken, Kind};
use crate::data::text;

/// When the class number of a sample (its `.cls` member) is used instead of its captions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassNumbers {
    /// Never.
    #[default]
    Ignore,
    /// If there is one.
    Prefer,
    /// If there are no captions.
    Accept,
    /// Always.
    Require,
    /// Neither is read: only images are used.
    Unused,
}

/// The label of one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// The number of its class, from 0, from a `.cls` member.
    Number(usize),
    /// All its captions; at least one.
    Captions(Vec<String>),
}

impl Label {
    /// The captions; none if it is a number.
    pub fn captions(&self) -> &[String] {
        match self {
            Self::Number(_) => &[],
            Self::Captions(captions) => captions,
        }
    }
}

/// Identifies equal image files, by length and two checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content(usize, u32, u64);

impl Content {
    /// Hashes the bytes of an image file.
    pub fn of(bytes: &[u8]) -> Self {
        use std::hash::Hasher;
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(bytes);
        Self(bytes.len(), crc32c::crc32c(bytes), hasher.finish())
    }
}

/// The label in a `.cls` member: a number, or else a caption.
pub(crate) fn class(bytes: &[u8]) -> Result<Label, Broken> {
    let broken = |kind, detail: String| Broken { kind, detail: format!(".cls: {detail}") };
    let text = text::decode(bytes).map_err(|why| broken(Kind::NonUtf8Caption, why.to_string()))?.trim();
    match text.parse() {
        _ if text.is_empty() => Err(broken(Kind::EmptyCaption, "it is blank".to_owned())),
        Ok(number) => Ok(Label::Number(number)),
        Err(_) => Ok(Label::Captions(vec![text::compose(text).into_owned()])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::png;

    #[test]
    fn equal_files_have_equal_content() {
        let (a, b) = (png(8, 8, 1), png(8, 8, 2));
        assert_eq!(Content::of(&a), Content::of(&a.clone()));
        assert_ne!(Content::of(&a), Content::of(&b));
    }
}
