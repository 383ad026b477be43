//! How bytes are laid out: from the bytes of a shard to an index of its samples, and what is wrong with it.
//!
//! | file | what it does |
//! |---|---|
//! | `sniff` | what a file is, by its first bytes |
//! | `packed` | compressed files |
//! | `tar` | which bytes belong to which member of an archive |
//! | `members` | which members make which sample |
//! | `front` | the index in front of a packed shard |
//! | `tfrecord`, `table`, `folder` | other formats: TFRecord; CSV and TSV; images in a folder |
//! | `parquet` | Parquet, which is unpacked |
//! | `shard` | one shard: its bytes and its samples |
//! | `damage`, `notes` | what is wrong with a shard, and the messages about it |
//! | `naming` | what the parts of a sample are called in messages |
//!
//! What an image or a caption is belongs in `sample`. Every format makes the same index: an [`Entry`] for each sample,
//! with the byte ranges of its parts.

mod damage;
mod folder;
pub(crate) mod front;
mod members;
mod naming;
mod notes;
mod packed;
#[cfg(feature = "parquet")]
mod parquet;
mod shard;
mod sniff;
mod table;
pub(crate) mod tar;
mod tfrecord;

pub(crate) use self::members::{Entry, MAX_TOKENS, printable};
pub(crate) use self::naming::Naming;
pub(crate) use self::notes::{is_damage, lines as note_lines};
#[cfg(feature = "parquet")]
pub(crate) use self::parquet::{Vectors as ParquetVectors, rows as parquet_rows};
pub(crate) use self::shard::{Common, Report, Shard};
pub(crate) use self::sniff::sniff;
pub(crate) use self::tfrecord::masked_crc;

/// The samples of a shard and what is wrong with it, in any format.
#[derive(Debug, Default)]
struct Indexed {
    entries: Vec<Entry>,
    naming: Naming,
    /// A JSON object with the texts and numbers of each sample, if they are asked for and the format has them outside
    /// of JSON.
    fields: Vec<Option<String>>,
    /// Extensions of members, or names of columns or features, for error messages.
    extensions: Vec<String>,
    /// An estimate of the samples that were lost to damage, in addition to those in `entries`.
    lost: u64,
    notes: Vec<(notes::NoteKind, String)>,
    /// What was found instead of samples, if the extensions do not say it.
    found: Option<String>,
}

/// The shortest decimal that is this f32, so that 0.3 is the same as in a record or a filter.
fn as_written(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}
