//! Errors that end loading.

use std::io;
use std::path::PathBuf;

/// An error that ends loading. A single broken sample is a [`Broken`](super::Broken) instead, and is skipped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages explain the fields")]
pub enum DataError {
    /// The list of sources is empty.
    #[error(
        "no data was given; name archives, patterns such as `data/{{000..127}}.tar`, tables, folders, or {embedded}"
    )]
    NoSources { embedded: String },
    /// A source that stands for nothing.
    #[error("cannot use `{spec}`: {problem}")]
    Spec { spec: String, problem: String },
    /// A pattern that is not a glob.
    #[error("cannot use `{spec}`: {source}")]
    Pattern { spec: String, source: glob::PatternError },
    /// Shards that do not exist.
    #[error("{}: {first}; {there}", missing_shards(spec, *missing, *total))]
    MissingShards { spec: String, missing: usize, total: usize, first: String, there: String },
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file that is not the text that was expected.
    #[error("{}: {source}", path.display())]
    Text { path: PathBuf, source: TextError },
    /// A shard that is not a tar archive.
    #[error("{shard} is not a tar archive: {problem}")]
    NotTar { shard: String, problem: String },
    /// A Parquet file that is damaged, or none.
    #[error("cannot read {shard} as Parquet: {problem}")]
    NotParquet { shard: String, problem: String },
    /// A table that cannot be used.
    #[error("cannot use the table {}: {problem}", path.display())]
    Table { path: PathBuf, problem: String },
    /// A compressed shard of which nothing can be unpacked.
    #[error("nothing of {shard} can be unpacked ({problem}): it was cut, or is damaged; fetch it again")]
    NotUnpacked { shard: String, problem: String },
    /// A shard without samples.
    #[error("{shard} holds no samples: {problem}")]
    EmptyShard { shard: String, problem: String },
    /// A folder for fetched shards that cannot be used.
    #[error("cannot use the cache folder {} (--cache): {source}", folder.display())]
    Cache { folder: PathBuf, source: io::Error },
    /// Several shards that cannot be used, with the errors of the first few.
    #[error("{failed} of the {total} shards cannot be used; fetch them again or leave them out of the list: {list}")]
    Shards { failed: usize, total: usize, list: String, may_pass: bool },
    /// No room, or no permission, for unpacked shards.
    #[error("cannot unpack {} to a temporary file in {} (set TMPDIR to another folder, or unpack the shards yourself): {source}", shard.display(), folder.display())]
    Spool { shard: PathBuf, folder: PathBuf, source: io::Error },
    /// A shard that could be read before, and no longer can.
    #[error("cannot read {shard}: {problem}")]
    Unreadable { shard: String, problem: String },
    /// A source without images.
    #[error("no images in {source_of} ({samples} samples looked at): looked for {looked_for}; found {found}")]
    NoImages { source_of: String, samples: u64, looked_for: String, found: String },
    /// A source without captions.
    #[error("no captions in {source_of} ({samples} samples looked at): looked for {looked_for}; found {found}")]
    NoCaptions { source_of: String, samples: u64, looked_for: String, found: String },
    /// A source in which no sample has both.
    #[error("no sample of {source_of} has both an image and a caption ({samples} looked at): {reasons}")]
    NoPairs { source_of: String, samples: u64, reasons: String },
    /// A filter of samples that no sample can pass.
    #[error("--where {filter}: {problem}")]
    Where { filter: String, problem: String },
    /// A filter that keeps nothing.
    #[error("no samples are left of the {of} in the data set")]
    NoSamples { of: usize },
    /// A tokenizer that cannot be used.
    #[error("cannot use the tokenizer {name}: {problem}")]
    Tokenizer { name: String, problem: String },
    /// A text that the tokenizer refuses.
    #[error("cannot use the tokenizer on {text:?}: {source}")]
    Encode { text: String, source: tokenizers::Error },
    /// A tokenizer that has no JSON form.
    #[error("cannot write the tokenizer as JSON: {0}")]
    TokenizerJson(#[source] tokenizers::Error),
    /// A setting that is out of range.
    #[error("{field} = {value} is invalid: {problem}")]
    Config { field: &'static str, value: String, problem: String },
    /// More broken samples than `max_bad` allows.
    #[error(
        "too many broken samples in {place}: {bad} bad of {visited} visited ({samples} in all), more than \
         --max-bad {max_bad} allows: {reasons}. To continue all the same, give a larger --max-bad (1 never stops; a run \
         that has a checkpoint continues with --resume), or leave out {worst}"
    )]
    TooManyBroken {
        place: String,
        bad: u64,
        visited: u64,
        samples: String,
        max_bad: f32,
        reasons: String,
        worst: String,
    },
    /// A data set in which every sample is broken.
    #[error(
        "not one usable sample among the last {visited} visited, so the data set seems to have none: {reasons}; flipk data \
         check lists what is wrong with each"
    )]
    NoGoodSample { visited: u64, reasons: String },
    /// A loader thread that does not start.
    #[error("cannot start a loader thread: {0}")]
    Threads(#[source] io::Error),
    /// The loader returned an error before.
    #[error("the loader has ended; its first error was given before")]
    Ended,
}

fn missing_shards(spec: &str, missing: usize, total: usize) -> String {
    match (missing, total) {
        (_, 1) => "there is no such file".to_owned(),
        (1, _) => format!("one of the {total} shards of `{spec}` does not exist"),
        _ => format!("{missing} of the {total} shards of `{spec}` do not exist"),
    }
}

impl DataError {
    /// Whether another start may succeed: a disk or a server failed, and not the data or the options.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Cache { source, .. } | Self::Spool { source, .. } => io_may_pass(source),
            Self::Shards { may_pass, .. } => *may_pass,
            Self::Unreadable { .. } | Self::Threads(_) => true,
            _ => false,
        }
    }

    /// Whether it is a shard that is wrong, and would be at every attempt: it can be left out.
    pub(crate) fn is_of_shard(&self) -> bool {
        matches!(
            self,
            Self::NotTar { .. } | Self::NotParquet { .. } | Self::NotUnpacked { .. } | Self::EmptyShard { .. }
        )
    }
}

/// Whether an attempt to open, read or write may succeed later. A wrong path stays wrong.
pub(crate) fn io_may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    let wrong = [AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied];
    !wrong.contains(&error.kind())
}

/// A result whose error, unless it is named, ends loading.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// Why bytes are not the text that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// UTF-16 or UTF-32, by name.
    #[error("it is {0}; save it as UTF-8")]
    Encoding(&'static str),
    /// Bytes that are not UTF-8.
    #[error("line {line} is not UTF-8 (byte 0x{byte:02X}); save it as UTF-8")]
    NotUtf8 {
        /// The line, from 1.
        line: usize,
        /// The first byte of it that cannot be read.
        byte: u8,
    },
    /// As many zero bytes, and nothing else.
    #[error("it holds {0} zero bytes and nothing else")]
    Zeros(usize),
    /// A list without entries.
    #[error("it has no lines")]
    NoLines,
    /// The number of a blank line, from 1.
    #[error("line {0} is blank; remove it, or write what belongs there")]
    BlankLine(usize),
}
