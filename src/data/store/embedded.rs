//! The data set inside the program, for a first run without own data: emoji in three styles, with their names and tags.
//! `embedded/README.md` says where they come from.

/// The name after `embedded:`, and the gzipped tar.
pub(crate) const SHARDS: &[(&str, &[u8])] = &[
    ("noto", include_bytes!("embedded/emoji-noto.tar.gz")),
    ("twemoji", include_bytes!("embedded/emoji-twemoji.tar.gz")),
    ("fluent", include_bytes!("embedded/emoji-fluent.tar.gz")),
];

/// A WordPiece `tokenizer.json`, trained on the captions of [`SHARDS`].
pub(crate) const TOKENIZER: &[u8] = include_bytes!("embedded/tokenizer.json");

/// The merges of CLIP's tokenizer, gzipped: two tokens per line.
pub(crate) const CLIP_MERGES: &[u8] = include_bytes!("embedded/clip-merges.txt.gz");

/// Tables and patterns of ftfy, in JSON.
pub(crate) const FTFY: &[u8] = include_bytes!("embedded/ftfy.json");
