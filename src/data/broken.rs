//! Broken samples.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use serde::{Deserialize, Serialize};

/// Why a sample is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The end of one of its files is missing.
    TruncatedMember,
    /// Lost to damage in an archive; the number of such samples is an estimate.
    LostSample,
    /// One of its files is a link that points outside the archive, a sparse file, or too large.
    UnreadMember,
    /// It has no image.
    MissingImage,
    /// Its image cannot be decoded.
    BadImage,
    /// It has no caption, or none that the tokenizer accepts.
    MissingCaption,
    /// Its caption is blank or null.
    EmptyCaption,
    /// Its JSON record is damaged, or the caption in it is not text; or its row of a table has too many fields.
    BadRecord,
    /// Its caption is not UTF-8.
    NonUtf8Caption,
    /// The shard cannot be read, or has changed: an error that ends the run.
    Unreadable,
    /// The code that reads it panicked: a bug in a decoder.
    Panic,
}

impl Kind {
    /// All of them, in their order.
    pub(crate) const ALL: [Self; 11] = [
        Self::TruncatedMember,
        Self::LostSample,
        Self::UnreadMember,
        Self::MissingImage,
        Self::BadImage,
        Self::MissingCaption,
        Self::EmptyCaption,
        Self::BadRecord,
        Self::NonUtf8Caption,
        Self::Unreadable,
        Self::Panic,
    ];

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

// `Panic` is the last one.
const _: () = assert!(Kind::ALL.len() == Kind::Panic as usize + 1, "a kind is missing in `ALL`");

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.words())
    }
}

/// Why one sample is skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.words())]
pub struct Broken {
    /// What is wrong.
    pub kind: Kind,
    /// For a message.
    pub detail: String,
}

thread_local! {
    /// Whether this thread is in [`confined`].
    static CONFINED: Cell<bool> = const { Cell::new(false) };
}

/// Calls `read`, and returns a panic in it as [`Kind::Panic`]. Since the caller reports it, nothing is printed; its
/// place is logged for debugging.
pub(crate) fn confined<T>(read: impl FnOnce() -> std::result::Result<T, Broken>) -> std::result::Result<T, Broken> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| match CONFINED.get() {
            true => tracing::debug!(place = panic.location().map(tracing::field::display), "a decoder panicked"),
            false => print(panic),
        }));
    });
    let outer = CONFINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    CONFINED.set(outer);
    result.unwrap_or_else(|panic| {
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

    /// In a process of its own, since the hook is that of the process.
    #[test]
    fn only_panics_that_are_not_caught_are_printed() {
        const ROLE: &str = "FLIPK_TEST_PANICS";
        if std::env::var_os(ROLE).is_some() {
            confined::<()>(|| confined::<()>(|| panic!("inside")).map(|()| panic!("never"))).unwrap_err();
            drop(catch_unwind(|| panic!("outside")));
            confined::<()>(|| panic!("inside again")).unwrap_err();
            return;
        }
        let name = "data::broken::tests::only_panics_that_are_not_caught_are_printed";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let ran = command.args(["--exact", name, "--nocapture"]).env(ROLE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && said.contains("outside") && !said.contains("inside"), "{said}");
    }
}
