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

#[cfg(test)]
mod tests {
    use super::members::group;
    use super::tar::{Content, Member};

    /// In time that is proportional to their number.
    #[test]
    fn a_name_may_be_repeated_any_number_of_times() {
        let member = Member { name: b"1.txt".to_vec(), content: Content::DanglingLink(Box::default()) };
        assert_eq!(group(&vec![member; 200_000]).entries.len(), 200_000);
    }
}
