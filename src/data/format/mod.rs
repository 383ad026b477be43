//! How bytes are laid out: from the bytes of a shard to an index of its samples, and what is wrong with it.
//!
//! | file | what it does |
//! |---|---|
//! | `sniff` | what a file is, by its first bytes |
//! | `tar` | which bytes belong to which member |
//! | `members` | which members make which sample |
//! | `shard` | one shard: its bytes and its samples |
//! | `damage`, `notes` | what is wrong with a shard, and the messages about it |
//!
//! What an image or a caption is belongs in `sample`. Another format (TFRecord, CSV, packed) makes the same index: an
//! [`Entry`] for each sample, with the byte ranges of its parts. So every format works with every store.

mod damage;
mod members;
mod notes;
mod shard;
mod sniff;
pub(crate) mod tar;

pub(crate) use self::members::{Entry, image_members, printable};
pub(crate) use self::notes::lines as note_lines;
pub(crate) use self::shard::{Common, Report, Shard};
pub(crate) use self::sniff::sniff;
