//! What the parts of a sample are called in messages: they are members of an archive, files, features or columns.

use crate::data::store::IMAGES;
use crate::data::text::{list_some, shorten};

/// What the parts of a sample are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Naming {
    #[default]
    Members,
    Files,
    Features,
    Columns,
}

impl Naming {
    /// Where images are looked for.
    pub(crate) fn images(self) -> String {
        let names = || IMAGES.join(", .");
        match self {
            Self::Members => format!("members ending in .{}", names()),
            Self::Files => format!("files ending in .{}", names()),
            Self::Features => "a feature image/encoded, image, image_bytes, image_raw, jpg, png, ...".to_owned(),
            Self::Columns => "an image in each row".to_owned(),
        }
    }

    /// What samples are made of.
    pub(super) fn samples(self) -> String {
        match self {
            Self::Members | Self::Files => format!("{}, .txt, .json or .cls", self.images()),
            Self::Features => "records".to_owned(),
            Self::Columns => "rows".to_owned(),
        }
    }

    /// Where captions are looked for, apart from fields.
    pub(crate) fn txt(self) -> &'static str {
        match self {
            Self::Members => "a .txt member",
            Self::Files => "a .txt file",
            Self::Features => "a feature txt, caption, text or image/caption",
            Self::Columns => "a column title, caption, text, txt or captions",
        }
    }

    /// Whether captions may be in files of their own.
    pub(crate) fn has_txt(self) -> bool {
        matches!(self, Self::Members | Self::Files)
    }

    /// What was found there.
    pub(crate) fn caption(self) -> &'static str {
        match self {
            Self::Members => "the .txt member",
            Self::Files => "the .txt file",
            Self::Features | Self::Columns => "the caption",
        }
    }

    /// Where class numbers are looked for.
    pub(crate) fn cls(self) -> &'static str {
        match self {
            Self::Members => "a .cls member",
            Self::Files => "a .cls file",
            Self::Features => "a feature cls",
            Self::Columns => "a column label, cls or class of integers",
        }
    }

    /// A field of a record.
    pub(crate) fn field(self, name: &str) -> String {
        match self {
            Self::Members => format!("the field `{name}` of the .json member"),
            Self::Files => format!("the field `{name}` of the .json file"),
            Self::Features => format!("the field `{name}` of the feature json"),
            Self::Columns => format!("the column `{name}`"),
        }
    }

    /// The names that there are: extensions, features or columns.
    pub(crate) fn found<'a>(self, names: impl Iterator<Item = &'a String>) -> String {
        let quoted = |name: &'a String| format!("`{}`", shorten(name));
        match self {
            Self::Members | Self::Files => list_some(names.map(|name| format!(".{name}"))),
            Self::Features => format!("the features {}", list_some(names.map(quoted))),
            Self::Columns => format!("the columns {}", list_some(names.map(quoted))),
        }
    }

    /// Which parts make a sample, if a user can get that wrong.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::Members => {
                "; the files of a sample have the same path in the archive up to the first dot of the name"
            }
            Self::Files => "; the files of a sample have the same path up to the first dot of the name",
            Self::Features | Self::Columns => "",
        }
    }
}
