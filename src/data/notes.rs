//! What is to be told about a data set's archives before they are used.

use std::collections::BTreeMap;

/// Kinds of notes; of each, the first few are told in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matter {
    Lost,
    NoEnd,
    Behind,
    Repeated,
    Dots,
    Second,
    Strangers,
}

/// Shards named for each matter.
const NAMED: usize = 3;

/// Lines for the user, from the notes of all shards in order.
pub(super) fn lines(notes: impl Iterator<Item = (Matter, String)>) -> Vec<String> {
    let mut by_matter: BTreeMap<Matter, (Vec<String>, usize)> = BTreeMap::new();
    for (matter, text) in notes {
        let (told, more) = by_matter.entry(matter).or_default();
        match told.len() {
            NAMED => *more += 1,
            _ => told.push(format!("warning: {text}")),
        }
    }
    let told = by_matter.into_values().flat_map(|(mut told, more)| {
        if let (Some(last), 1..) = (told.last_mut(), more) {
            *last += &format!(" ({more} more shards are like this)");
        }
        told
    });
    told.collect()
}

/// The first few of a list, for a message.
pub(crate) fn some(items: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 8;
    let all: Vec<String> = items.collect();
    match all.len() {
        0 => "nothing".to_owned(),
        n if n <= SHOWN => all.join(", "),
        n => format!("{} and {} more", all[..SHOWN].join(", "), n - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_of_each_matter_are_told() {
        let notes = (0..5).map(|shard| (Matter::NoEnd, format!("{shard}.tar"))).chain([(Matter::Lost, "x".to_owned())]);
        let expected =
            ["warning: x", "warning: 0.tar", "warning: 1.tar", "warning: 2.tar (2 more shards are like this)"];
        assert_eq!(lines(notes), expected);
    }
}
