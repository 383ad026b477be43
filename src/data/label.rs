//! What an image is compared with in evaluation: captions, or the number of a class.

use super::{Broken, Dataset, Kind, text};

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

impl Dataset {
    /// The label of a sample; [`super::CaptionKeys::class_numbers`] decides between class number and captions.
    ///
    /// # Errors
    /// A sample without a label, or whose member cannot be read.
    pub fn label(&self, sample: u64) -> Result<Label, Broken> {
        let captions = || self.caption(sample).map(|caption| Label::Captions(caption.texts));
        let number = || self.cls(sample)?.map(|bytes| class(&bytes)).transpose();
        match self.class_numbers() {
            ClassNumbers::Ignore => captions(),
            ClassNumbers::Prefer => number()?.map_or_else(captions, Ok),
            ClassNumbers::Accept => captions().or_else(|why| number()?.ok_or(why)),
            ClassNumbers::Require => number()?
                .ok_or_else(|| Broken { kind: Kind::MissingCaption, detail: "looked for a .cls member".to_owned() }),
        }
    }
}

/// A `.cls` member is a number; if it is not, it counts as a caption.
pub(super) fn class(bytes: &[u8]) -> Result<Label, Broken> {
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
    use crate::data::{
        CaptionKeys,
        testing::{Archive, png},
    };

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
    fn equal_files_have_equal_content() {
        let (a, b) = (png(8, 8, 1), png(8, 8, 2));
        assert_eq!(Content::of(&a), Content::of(&a.clone()));
        assert_ne!(Content::of(&a), Content::of(&b));
    }
}
