//! Warnings about shards, collected when they are opened.

use std::collections::BTreeMap;

/// The kinds of notes. The first few of each kind are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NoteKind {
    Lost,
    Packed,
    NoEnd,
    /// An index in front that is damaged.
    Index,
    /// An index in front of another version, or of a shorter or longer file.
    OtherIndex,
    Trailing,
    Repeated,
    Compound,
    NotPreferred,
    NoSample,
    Quotes,
}

/// Whether a note says that a shard is damaged, and not only that a part of it is not used.
pub(crate) fn is_damage(kind: NoteKind) -> bool {
    matches!(kind, NoteKind::Lost | NoteKind::Packed | NoteKind::NoEnd | NoteKind::Index)
}

/// Notes of each kind that are shown.
const MAX_SHOWN: usize = 3;

/// Lines for the user, from the notes of all shards in order.
pub(crate) fn lines(notes: impl Iterator<Item = (NoteKind, String)>) -> Vec<String> {
    let mut by_kind: BTreeMap<NoteKind, (Vec<String>, usize)> = BTreeMap::new();
    for (kind, text) in notes {
        let (shown, more) = by_kind.entry(kind).or_default();
        match shown.len() {
            MAX_SHOWN => *more += 1,
            _ => shown.push(format!("warning: {text}")),
        }
    }
    let lines = by_kind.into_values().flat_map(|(mut shown, more)| {
        if let (Some(last), 1..) = (shown.last_mut(), more) {
            *last += &format!(" (and {more} more like this)");
        }
        shown
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_of_each_kind_are_shown() {
        let notes =
            (0..5).map(|shard| (NoteKind::NoEnd, format!("{shard}.tar"))).chain([(NoteKind::Lost, "x".to_owned())]);
        let expected = ["warning: x", "warning: 0.tar", "warning: 1.tar", "warning: 2.tar (and 2 more like this)"];
        assert_eq!(lines(notes), expected);
    }
}
