//! What an image is compared with in evaluation: captions, or the number of a class.

use crate::data::broken::{Broken, Kind};
use crate::data::text;

/// Whether a sample's `.cls` member, the number of a class in archives for evaluation, is used instead of its captions.
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
    /// The captions, if it has them.
    pub fn captions(&self) -> &[String] {
        match self {
            Self::Number(_) => &[],
            Self::Captions(captions) => captions,
        }
    }
}

/// Identifies equal image files: the length of a file and two checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content(usize, u32, u64);

impl Content {
    pub fn of(bytes: &[u8]) -> Self {
        use std::hash::Hasher;
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(bytes);
        Self(bytes.len(), crc32c::crc32c(bytes), hasher.finish())
    }
}

/// A `.cls` member is a number; if it is not, it counts as a caption.
pub(crate) fn class(bytes: &[u8]) -> Result<Label, Broken> {
    let broken = |kind, detail: String| Broken { kind, detail: format!(".cls: {detail}") };
    let text = text::decode(bytes).map_err(|problem| broken(Kind::NonUtf8Caption, problem))?.trim();
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
