//! One shuffle of all samples.

use std::sync::Arc;

use super::{Share, StreamPosition, Visit};
use crate::data::dataset::Dataset;
use crate::random::{Purpose, Random};

/// The visits of a stream from a position onwards.
pub(crate) struct GlobalVisits {
    dataset: Arc<Dataset>,
    seed: u64,
    share: Share,
    next: StreamPosition,
    /// The order of epoch `next.epoch`; empty if not yet drawn.
    permutation: Vec<u32>,
}

impl GlobalVisits {
    /// `dataset` is not empty; `start.index` is below its length.
    pub(crate) fn new(dataset: Arc<Dataset>, seed: u64, share: Share, start: StreamPosition) -> Self {
        Self { dataset, seed, share, next: start, permutation: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Visit {
        let len = self.dataset.len();
        let count = |epoch| self.share.count(epoch, len as u64);
        let mut at = self.next;
        // A stream's part of an epoch may be empty if there are more streams than samples.
        while at.index >= count(at.epoch) {
            at = StreamPosition { epoch: at.epoch + 1, ..StreamPosition::default() };
            self.permutation.clear();
        }
        if self.permutation.is_empty() {
            self.permutation = Random::new(self.seed, Purpose::Shuffle, at.epoch, 0).permutation(len);
        }
        let item = self.share.item(at.epoch, len as u64, at.index);
        let sample = u64::from(self.permutation[item as usize]);
        self.next = match at.index + 1 < count(at.epoch) {
            true => StreamPosition { index: at.index + 1, ..at },
            false => StreamPosition { epoch: at.epoch + 1, ..StreamPosition::default() },
        };
        if self.next.epoch != at.epoch {
            self.permutation.clear();
        }
        let passes = match self.next.index {
            0 => self.next.epoch as f64,
            index => at.epoch as f64 + index as f64 / count(at.epoch) as f64,
        };
        Visit { sample, held: self.dataset.held(sample), epoch: at.epoch, next: self.next, passes, news: None }
    }
}
