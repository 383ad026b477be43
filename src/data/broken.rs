//! Broken samples: why a sample cannot be used.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;

/// Why a sample cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    TruncatedMember,
    /// Damaged bytes of an archive that belong to no member, counted as the number of samples that they may have held.
    LostSample,
    /// A link that points outside the archive, or a sparse file.
    UnreadMember,
    MissingImage,
    BadImage,
    MissingCaption,
    /// The caption is there, and is blank or null.
    EmptyCaption,
    /// The JSON record is damaged, or its caption is not text.
    BadRecord,
    NonUtf8Caption,
    /// The file cannot be read, or has changed. This is no fault of the sample, and ends the run.
    Unreadable,
    /// Code that reads the sample panicked: a bug in a decoder.
    Panic,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::TruncatedMember => "truncated member",
            Self::LostSample => "lost sample",
            Self::UnreadMember => "unread member",
            Self::MissingImage => "missing image",
            Self::BadImage => "bad image",
            Self::MissingCaption => "missing caption",
            Self::EmptyCaption => "empty caption",
            Self::BadRecord => "bad record",
            Self::NonUtf8Caption => "non-UTF-8 caption",
            Self::Unreadable => "unreadable shard",
            Self::Panic => "decoder panic",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.words())
    }
}

/// One sample that is skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.words())]
pub struct Broken {
    pub kind: Kind,
    pub detail: String,
}

/// Calls `read`; a panic in it is a broken sample of [`Kind::Panic`].
pub(crate) fn confined<T>(read: impl FnOnce() -> std::result::Result<T, Broken>) -> std::result::Result<T, Broken> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(Broken { kind: Kind::Panic, detail: text.unwrap_or("no message").to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_broken_sample() {
        let zero = std::hint::black_box(0);
        let broken = confined(|| Ok(1 / zero)).unwrap_err();
        assert!(broken.kind == Kind::Panic && broken.detail.contains("divide by zero"), "{broken}");
        let broken = confined::<()>(|| panic!("row {zero}")).unwrap_err();
        assert_eq!(broken.to_string(), "decoder panic: row 0");
        assert_eq!(confined(|| Ok(7)), Ok(7));
    }
}
