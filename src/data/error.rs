//! What can go wrong between a list of shards and a batch.

use std::io;
use std::path::PathBuf;

/// An error that ends loading; a single broken sample is a [`Broken`](super::Broken) instead and is skipped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no shards were given; name .tar or .tar.gz files, patterns such as `data/{{000..127}}.tar`, or {embedded}"
    )]
    NoSources { embedded: String },
    #[error("cannot use `{spec}`: {problem}")]
    Spec { spec: String, problem: String },
    #[error("{missing} of the {total} shards of `{spec}` do not exist: {first}; {there}")]
    MissingShards { spec: String, missing: usize, total: usize, first: String, there: String },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {problem}", path.display())]
    Text { path: PathBuf, problem: String },
    #[error("{shard} is not a tar archive: {problem}")]
    NotTar { shard: String, problem: String },
    #[error("{shard} holds no samples: looked for {looked_for}; found {found}")]
    EmptyShard { shard: String, looked_for: String, found: String },
    #[error("{failed} of the {total} shards cannot be used; fetch them again or leave them out of the list: {list}")]
    Shards { failed: usize, total: usize, list: String },
    #[error("cannot unpack {} to a temporary file in {} (let TMPDIR name another folder, or unpack the shards yourself with gunzip): {source}", shard.display(), folder.display())]
    Spool { shard: PathBuf, folder: PathBuf, source: io::Error },
    #[error("cannot read {shard}: {problem}")]
    Unreadable { shard: String, problem: String },
    #[error("no images in {source_of} ({samples} samples looked at): looked for {looked_for}; found {found}")]
    NoImages { source_of: String, samples: u64, looked_for: String, found: String },
    #[error("no captions in {source_of} ({samples} samples looked at): looked for {looked_for}; found {found}")]
    NoCaptions { source_of: String, samples: u64, looked_for: String, found: String },
    #[error(
        "no sample of {source_of} has both an image and a caption ({samples} looked at): {reasons}; the files of a \
         sample have the same path in the archive up to the first dot of the name"
    )]
    NoPairs { source_of: String, samples: u64, reasons: String },
    #[error("no samples are left of the {of} in the data set")]
    NoSamples { of: usize },
    #[error("cannot use the tokenizer {name}: {problem}")]
    Tokenizer { name: String, problem: String },
    #[error("{field} = {value} is not possible: {problem}")]
    Config { field: &'static str, value: String, problem: String },
    #[error(
        "too many broken samples in {place}: {bad} bad of {visited} visited ({samples} in all), more than \
         --max-bad {max_bad} allows: {reasons}. To continue all the same, give a larger --max-bad (1 never stops; a run \
         that has a checkpoint continues with --resume), or leave out {worst}"
    )]
    TooManyBroken { place: String, bad: u64, visited: u64, samples: u64, max_bad: f32, reasons: String, worst: String },
    #[error("not one usable sample among the last {visited} visited, which is the whole data set: {reasons}")]
    NoGoodSample { visited: u64, reasons: String },
    #[error("cannot start a loader thread: {0}")]
    Threads(io::Error),
    #[error("the loader has ended; its first error was given before")]
    Ended,
}

pub type Result<T> = std::result::Result<T, Error>;
