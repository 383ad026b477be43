//! What streams found, in a form that ranks can exchange.

use std::collections::BTreeMap;

use bytemuck::{Pod, Zeroable};

use super::limit::Counts;
use crate::data::broken::Kind;

/// What a stream found, and how often, in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct Tally {
    epoch: u64,
    stream: u32,
    what: u32,
    shard: u32,
    /// Tells apart openings of one shard.
    time: u32,
    count: u64,
}

/// What can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Samples, good and bad.
    Visited,
    /// The samples of a shard that was opened.
    Opened { shard: u32 },
    /// The samples of a shard that another stream counts, or was counted before the run was resumed.
    Known { shard: u32 },
    /// Bad samples; those that are lost have no shard.
    Bad { kind: Kind, shard: u32 },
}

const VISITED: u32 = 0;
const OPENED: u32 = 1;
const KNOWN: u32 = 2;
/// And up, a number for each kind.
const BAD: u32 = 3;

impl Tally {
    pub(super) fn new(stream: u32, epoch: u64, what: What, count: u64) -> Self {
        let (what, shard) = match what {
            What::Visited => (VISITED, 0),
            What::Opened { shard } => (OPENED, shard),
            What::Known { shard } => (KNOWN, shard),
            What::Bad { kind, shard } => (BAD + kind as u32, shard),
        };
        Self { epoch, stream, what, shard, time: 0, count }
    }

    /// Samples that the first stream lost.
    #[cfg(test)]
    pub(crate) fn lost(count: u64) -> Self {
        Self::new(0, 0, What::Bad { kind: Kind::LostSample, shard: 0 }, count)
    }

    /// `None` for what this version cannot have sent.
    pub(super) fn what(&self) -> Option<What> {
        let shard = self.shard;
        match self.what {
            VISITED => Some(What::Visited),
            OPENED => Some(What::Opened { shard }),
            KNOWN => Some(What::Known { shard }),
            number => Some(What::Bad { kind: *Kind::ALL.get((number - BAD) as usize)?, shard }),
        }
    }

    pub(super) fn stream(&self) -> usize {
        self.stream as usize
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether it is more than a number of visits, and may mean that there are too many broken samples.
    pub fn is_news(&self) -> bool {
        self.what != VISITED
    }
}

/// What was found since the last exchange.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies {
    /// The visits of one stream in one epoch, for which most batches need no memory.
    visits: Option<Tally>,
    others: BTreeMap<Tally, u64>,
}

impl Tallies {
    pub(super) fn add(&mut self, tally: Tally) {
        if tally.what == VISITED {
            let visits = self.visits.get_or_insert(Tally { count: 0, ..tally });
            if (visits.stream, visits.epoch) == (tally.stream, tally.epoch) {
                visits.count += tally.count;
                return;
            }
        }
        let mut key = Tally { count: 0, ..tally };
        if matches!(tally.what, OPENED | KNOWN) {
            while self.others.contains_key(&key) {
                key.time += 1;
            }
        }
        *self.others.entry(key).or_default() += tally.count;
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Tally> + Clone {
        self.visits.into_iter().chain(self.others.iter().map(|(tally, &count)| Tally { count, ..*tally }))
    }
}

impl Counts {
    /// Adds what was found.
    pub(super) fn add(&mut self, what: What, count: u64) {
        match what {
            What::Visited => self.visited += count,
            What::Opened { .. } => {
                self.opened += count;
                self.opened_squares += count * count;
            }
            What::Known { .. } => {}
            What::Bad { kind, .. } => *self.bad.entry(kind).or_default() += count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_what_is_counted() {
        let kinds = Kind::ALL.map(|kind| What::Bad { kind, shard: u32::MAX });
        for what in [What::Visited, What::Opened { shard: 7 }, What::Known { shard: 7 }].into_iter().chain(kinds) {
            let tally = Tally::new(3, 1 << 40, what, 5);
            assert_eq!((tally.what(), tally.stream(), tally.epoch(), tally.count()), (Some(what), 3, 1 << 40, 5));
            assert_eq!(tally.is_news(), what != What::Visited);
        }
        assert_eq!(Tally { what: BAD + Kind::ALL.len() as u32, ..Tally::zeroed() }.what(), None);
    }

    #[test]
    fn what_is_alike_is_added_up() {
        let mut tallies = Tallies::default();
        let bad = |shard| What::Bad { kind: Kind::BadImage, shard };
        for visit in 0..300 {
            tallies.add(Tally::new(visit % 3, 0, What::Visited, 1));
            tallies.add(Tally::new(0, 1, bad(visit % 2), 1));
        }
        let counts: Vec<_> = tallies.all().map(|tally| (tally.stream, tally.what().unwrap(), tally.count)).collect();
        let visits = [0, 1, 2].map(|stream| (stream, What::Visited, 100));
        assert_eq!(counts, [&visits[..], &[0, 1].map(|shard| (0, bad(shard), 150))].concat());
        // Openings are not.
        (0..3).for_each(|_| tallies.add(Tally::new(1, 0, What::Opened { shard: 7 }, 20)));
        let mut of_all = Counts::default();
        tallies.all().for_each(|tally| of_all.add(tally.what().unwrap(), tally.count()));
        assert_eq!((of_all.visited, of_all.opened, of_all.opened_squares), (300, 60, 1200));
    }
}
