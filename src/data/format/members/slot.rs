//! The parts of a sample.

use crate::data::store::IMAGES;

/// The parts of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Slot {
    Image,
    Txt,
    Json,
    Cls,
}

pub(crate) const SLOTS: usize = 4;

impl Slot {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Txt => ".txt",
            Self::Json => ".json",
            Self::Cls => ".cls",
        }
    }

    /// The slot for an extension in lower case, and the rank of the extension in that slot.
    pub(crate) fn of(extension: &[u8]) -> Option<(Self, u8)> {
        match extension {
            b"txt" => Some((Self::Txt, 0)),
            b"json" => Some((Self::Json, 0)),
            b"cls" => Some((Self::Cls, 0)),
            _ => {
                let place = IMAGES.iter().position(|image| image.as_bytes() == extension)?;
                Some((Self::Image, place as u8))
            }
        }
    }
}
