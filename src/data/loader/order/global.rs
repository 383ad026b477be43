//! One shuffle of all samples, or of the slots in which they are visited.

use std::sync::Arc;

use super::mix::Mix;
use super::{Share, StreamPosition, Visit};
use crate::data::dataset::Dataset;
use crate::random::{Purpose, Random};

/// The visits of a stream from a position onwards.
pub(crate) struct GlobalVisits {
    dataset: Arc<Dataset>,
    seed: u64,
    share: Share,
    mix: Mix,
    next: StreamPosition,
    /// The order of the slots of epoch `next.epoch`; empty if not yet drawn.
    permutation: Vec<u32>,
}

impl GlobalVisits {
    /// `dataset` is not empty and what `mix` is made for; `start.index` is below the slots of an epoch.
    pub(crate) fn new(dataset: Arc<Dataset>, seed: u64, share: Share, mix: Mix, start: StreamPosition) -> Self {
        Self { dataset, seed, share, mix, next: start, permutation: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Visit {
        let len = self.mix.slots();
        let count = |epoch| self.share.count(epoch, len);
        let mut at = self.next;
        // A stream's part of an epoch may be empty if there are more streams than samples.
        while at.index >= count(at.epoch) {
            at = StreamPosition { epoch: at.epoch + 1, ..StreamPosition::default() };
            self.permutation.clear();
        }
        let mut key = self.share.item(at.epoch, len, at.index);
        if !self.mix.resamples() {
            if self.permutation.is_empty() {
                self.permutation = Random::new(self.seed, Purpose::Shuffle, at.epoch, 0).permutation(len as usize);
            }
            key = u64::from(self.permutation[key as usize]);
        }
        let sample = self.mix.item(self.seed, at.epoch, key);
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
        Visit { sample, held: self.dataset.held(sample), epoch: at.epoch, key, next: self.next, passes, news: None }
    }
}
