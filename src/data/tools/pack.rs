//! The options, result and errors of a pack.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use super::shrink::Filter;
use crate::data::error::DataError;
use crate::data::loader::Skipped;
use crate::data::sample::Tokenizer;

/// How images are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As `.jpg`, 4:2:0, of this quality in `1..=100`.
    Jpeg(u8),
    /// As `.rgb`: a header and the pixels, which only flipk reads.
    Raw,
}

/// When a shard is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardLimit {
    /// This many samples.
    Samples(u64),
    /// No more bytes than this, unless a single sample has more.
    Bytes(u64),
}

/// How a data set is packed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pack {
    /// The short side of images, in pixels, unless it is smaller already.
    pub size: u32,
    /// How images are stored.
    pub form: Form,
    /// How they are made smaller.
    pub filter: Filter,
    /// Whether JPEGs are scaled down while they are decoded, as long as they keep twice the size.
    #[serde(default)]
    pub jpeg_scaling: bool,
    /// When a shard is full.
    pub limit: ShardLimit,
    /// The seed of a shuffle; `None` keeps the order.
    pub shuffle: Option<u64>,
    /// Share of broken samples above which packing stops.
    pub max_bad: f32,
    /// The tokenizer whose tokens are stored beside captions, if any are.
    #[serde(default)]
    pub tokens: Option<Tokens>,
}

/// A tokenizer whose tokens are stored. Two are equal if they give all texts the same tokens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tokens {
    /// Over all that decides on the tokens of a text, as 16 hexadecimal digits.
    pub(super) fingerprint: String,
    /// What the tokenizer is, in one line.
    pub(super) description: String,
    #[serde(skip)]
    pub(super) tokenizer: Option<Tokenizer>,
}

impl Tokens {
    /// Those of `tokenizer`; `None` if they cannot be stored: it draws random tokens, or cannot be written as JSON.
    pub fn from_tokenizer(tokenizer: Tokenizer) -> Option<Self> {
        let (fingerprint, description) = (tokenizer.fingerprint(), tokenizer.describe());
        let is_stable = fingerprint != 0;
        is_stable.then(|| Self { fingerprint: format!("{fingerprint:016x}"), description, tokenizer: Some(tokenizer) })
    }
}

impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// A pack as far as it got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Packed {
    /// Shards, all of them whole.
    pub shards: u64,
    /// Samples in them.
    pub samples: u64,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Broken samples that were left out, by kind.
    pub skipped: Skipped,
    /// Shards that could not be used and were left out.
    pub unusable_shards: u64,
    /// An estimate of the samples that damage has erased from the other shards.
    pub lost: u64,
    /// Shards of an earlier call that was stopped.
    pub resumed_shards: u64,
    /// Whether everything is packed.
    pub complete: bool,
}

/// Why a data set cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The folder cannot take the pack.
    #[error("cannot pack into {}: {problem}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}; run the same command again to continue after the last whole shard", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// More broken samples than allowed.
    #[error(
        "{bad} of the {visited} samples read so far are broken, more than --max-bad {max_bad} allows: {reasons}; \
         `flipk data check` names them, and the same command with a larger --max-bad continues"
    )]
    TooManyBroken {
        /// Broken ones.
        bad: u64,
        /// All.
        visited: u64,
        /// What was allowed.
        max_bad: f32,
        /// How many of each kind.
        reasons: String,
    },
    /// No sample could be used.
    #[error("there is not one usable sample among the {visited} that were read")]
    Nothing {
        /// All.
        visited: u64,
    },
}
