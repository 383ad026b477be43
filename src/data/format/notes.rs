//! Warnings about a data set's archives, before they are used.

use std::collections::BTreeMap;

/// Kinds of notes. The first few of each kind are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Matter {
    Lost,
    Packing,
    NoEnd,
    Trailing,
    Repeated,
    Dots,
    Second,
    Strangers,
}

/// Shards named for each matter.
const NAMED: usize = 3;

/// Lines for the user, from the notes of all shards in order.
pub(crate) fn lines(notes: impl Iterator<Item = (Matter, String)>) -> Vec<String> {
    let mut by_matter: BTreeMap<Matter, (Vec<String>, usize)> = BTreeMap::new();
    for (matter, text) in notes {
        let (shown, more) = by_matter.entry(matter).or_default();
        match shown.len() {
            NAMED => *more += 1,
            _ => shown.push(format!("warning: {text}")),
        }
    }
    let lines = by_matter.into_values().flat_map(|(mut shown, more)| {
        if let (Some(last), 1..) = (shown.last_mut(), more) {
            *last += &format!(" ({more} more shards are like this)");
        }
        shown
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_of_each_matter_are_shown() {
        let notes = (0..5).map(|shard| (Matter::NoEnd, format!("{shard}.tar"))).chain([(Matter::Lost, "x".to_owned())]);
        let expected =
            ["warning: x", "warning: 0.tar", "warning: 1.tar", "warning: 2.tar (2 more shards are like this)"];
        assert_eq!(lines(notes), expected);
    }
}
