//! What streams found, in a form that ranks can exchange.

use bytemuck::{Pod, Zeroable};

use super::limit::Counts;
use crate::data::broken::Kind;

/// What a stream found, and how often, in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Tally {
    epoch: u64,
    count: u64,
    stream: u32,
    shard: u32,
    what: u32,
    unused: u32,
}

/// What can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Samples, good and bad.
    Visited,
    /// The samples of a shard that was opened.
    Opened { shard: u32 },
    /// Bad samples; those that are lost have no shard.
    Bad { kind: Kind, shard: u32 },
}

const VISITED: u32 = 0;
const OPENED: u32 = 1;
/// And up, a number for each kind.
const BAD: u32 = 2;

impl Tally {
    pub(super) fn new(stream: u32, epoch: u64, what: What, count: u64) -> Self {
        let (what, shard) = match what {
            What::Visited => (VISITED, 0),
            What::Opened { shard } => (OPENED, shard),
            What::Bad { kind, shard } => (BAD + kind as u32, shard),
        };
        Self { epoch, count, stream, shard, what, unused: 0 }
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

    /// Whether it counts bad samples.
    pub fn is_bad(&self) -> bool {
        self.what >= BAD
    }
}

/// Adds to one of the last tallies if it counts the same, which keeps the list short.
pub(super) fn add(tallies: &mut Vec<Tally>, tally: Tally) {
    let same = tallies.iter_mut().rev().take(8).find(|other| Tally { count: other.count, ..tally } == **other);
    match same {
        // Each opening of a shard counts.
        Some(other) if tally.what != OPENED => other.count += tally.count,
        _ => tallies.push(tally),
    }
}

impl Counts {
    /// Adds what was found.
    pub(super) fn add(&mut self, what: What, count: u64) {
        match what {
            What::Visited => self.visited += count,
            What::Opened { .. } => self.opened += 1,
            What::Bad { kind, shard } => {
                *self.bad.entry(kind).or_default() += count;
                if kind != Kind::LostSample {
                    *self.shards.entry(shard).or_default() += count;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_what_is_counted() {
        let kinds = Kind::ALL.map(|kind| What::Bad { kind, shard: u32::MAX });
        for what in [What::Visited, What::Opened { shard: 7 }].into_iter().chain(kinds) {
            let tally = Tally::new(3, 1 << 40, what, 5);
            assert_eq!((tally.what(), tally.stream(), tally.epoch(), tally.count()), (Some(what), 3, 1 << 40, 5));
            assert_eq!(tally.is_bad(), matches!(what, What::Bad { .. }));
        }
        assert_eq!(Tally { what: BAD + Kind::ALL.len() as u32, ..Tally::zeroed() }.what(), None);
    }

    #[test]
    fn visits_of_several_streams_share_a_tally_each() {
        let mut tallies = Vec::new();
        for visit in 0..300 {
            add(&mut tallies, Tally::new(visit % 3, 0, What::Visited, 1));
        }
        add(&mut tallies, Tally::new(0, 1, What::Visited, 1));
        let counts: Vec<_> = tallies.iter().map(|tally| (tally.stream, tally.epoch, tally.count)).collect();
        assert_eq!(counts, [(0, 0, 100), (1, 0, 100), (2, 0, 100), (0, 1, 1)]);
    }
}
