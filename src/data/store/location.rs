//! Where a shard is.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::data::error::DataError;

/// Where one shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// On disk.
    File(PathBuf),
    /// A folder of images, on disk.
    Folder(PathBuf),
    /// Some of the images in a folder, by name.
    Images(PathBuf, Arc<[OsString]>),
    /// At an address such as `s3://bucket/a.tar`, from which it is fetched when it is opened.
    Remote(String),
    /// The output of a command.
    Pipe(String),
    /// In the program, by the name after `embedded:`.
    Embedded(&'static str),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images(path, _) if path.as_os_str().is_empty() => f.write_str("."),
            Self::File(path) | Self::Folder(path) | Self::Images(path, _) => path.display().fmt(f),
            Self::Remote(address) => f.write_str(address),
            Self::Pipe(command) => write!(f, "pipe:{command}"),
            Self::Embedded(name) => write!(f, "embedded:{name}"),
        }
    }
}

impl Location {
    /// Whether it is fetched when it is opened.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Remote(_) | Self::Pipe(_))
    }
}

/// The error of a source that is written wrongly.
pub(super) fn problem(spec: &str, problem: impl Into<String>) -> DataError {
    DataError::Spec { spec: spec.to_owned(), problem: problem.into() }
}
