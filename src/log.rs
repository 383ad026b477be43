//! Log lines, emitted as [`tracing`] events.
//!
//! The library decides nothing about where they go. The program prints them on standard error; see `cli/logging.rs`.

/// What a line starts with if it is a warning.
pub(crate) const WARNING: &str = "warning: ";

/// Emits a line of text: a warning if it starts with `warning: `, else information.
pub(crate) fn line(text: &str) {
    match text.strip_prefix(WARNING) {
        Some(text) => tracing::warn!("{text}"),
        None => tracing::info!("{text}"),
    }
}

/// Emits each line; see [`line`].
pub(crate) fn lines(texts: impl IntoIterator<Item: AsRef<str>>) {
    texts.into_iter().for_each(|text| line(text.as_ref()));
}
