//! The order in which samples are visited: each once per epoch, in an order that is shuffled for each epoch.

use serde::{Deserialize, Serialize};

use crate::random::{Purpose, Random};

/// A place in the endless stream of visits: all that must be saved to resume from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// From 0.
    pub epoch: u64,
    /// Visits made in this epoch, good and broken samples alike; below the data set's length.
    pub index: u64,
}

/// One step of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) at: Position,
    pub(super) sample: u64,
}

/// The stream of visits from a position onwards.
pub(super) struct Visits {
    seed: u64,
    len: usize,
    next: Position,
    /// The order of epoch `next.epoch`; empty if not yet drawn.
    permutation: Vec<u32>,
}

impl Visits {
    /// `len` is the number of samples and not 0; `start.index` is below it.
    pub(super) fn new(seed: u64, len: usize, start: Position) -> Self {
        Self { seed, len, next: start, permutation: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Visit {
        if self.permutation.is_empty() {
            self.permutation = Random::new(self.seed, Purpose::Shuffle, self.next.epoch, 0).permutation(self.len);
        }
        let at = self.next;
        let sample = u64::from(self.permutation[at.index as usize]);
        self.next = at.after(self.len);
        if self.next.epoch != at.epoch {
            self.permutation.clear();
        }
        Visit { at, sample }
    }
}

impl Position {
    /// The next position in a data set of `len` samples.
    pub(super) fn after(self, len: usize) -> Self {
        match self.index + 1 {
            index if index < len as u64 => Self { index, ..self },
            _ => Self { epoch: self.epoch + 1, index: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_holds_every_sample_once_in_its_own_order() {
        let mut visits = Visits::new(3, 50, Position::default());
        let mut orders = Vec::new();
        for epoch in 0..3 {
            let mut order = Vec::new();
            for index in 0..50 {
                let visit = visits.next();
                assert_eq!(visit.at, Position { epoch, index });
                order.push(visit.sample);
            }
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..50).collect::<Vec<u64>>());
            orders.push(order);
        }
        assert!(orders[0] != orders[1] && orders[1] != orders[2] && orders[0] != orders[2]);
    }

    #[test]
    fn the_stream_resumes_from_any_position() {
        let mut whole = Visits::new(4, 7, Position::default());
        let all: Vec<Visit> = (0..30).map(|_| whole.next()).collect();
        for start in 0..20 {
            let mut resumed = Visits::new(4, 7, all[start].at);
            assert_eq!((start..30).map(|_| resumed.next()).collect::<Vec<_>>(), all[start..]);
        }
    }
}
