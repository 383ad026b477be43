//! The data set inside the program, for a first run with nothing at hand.

/// Name after `embedded:` and the gzipped tar.
pub(super) const SHARDS: &[(&str, &[u8])] = &[];

/// `tokenizer.json`, trained on the captions of [`SHARDS`].
pub(super) const TOKENIZER: Option<&[u8]> = None;

/// The embedded shards as a user writes them.
pub fn names() -> String {
    super::source::some(SHARDS.iter().map(|(name, _)| format!("embedded:{name}")))
}
