//! Counts broken samples as they are visited.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::limit::{Counts, Limit, Skipped, summary};
use super::order::News;
use super::tally::{Tally, What, add};
use crate::data::broken::{Broken, Kind};
use crate::data::dataset::View;
use crate::data::error::{DataError, Result};

/// Samples of each kind that are named in warnings; the rest are only counted.
const MAX_NAMED: usize = 5;
/// Warnings about damaged shards that are shown in the order of shards; the other order shows a few before training.
const MAX_DAMAGE_NAMED: usize = 10;

/// Counts the visits of each stream in the order of the batches, so that the outcome does not depend on threads.
///
/// Ends loading as soon as one stream alone has found more than the limit allows, so that a batch need not be full
/// before that. What all streams found is compared with it after each batch; see `Totals`.
#[derive(Debug)]
pub(super) struct Health {
    limit: Limit,
    streams: Vec<Stream>,
    /// With those of other ranks.
    all_streams: usize,
    /// Since they were taken.
    tallies: Vec<Tally>,
    damage_named: usize,
    skipped: Skipped,
    /// Samples that were named in warnings, by kind.
    named: BTreeMap<Kind, BTreeSet<u64>>,
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
struct Stream {
    number: u32,
    epoch: u64,
    counts: Counts,
    /// Since the last good sample.
    bad_in_a_row: Skipped,
}

impl Health {
    /// Of the streams `own` of `all_streams`.
    pub(super) fn new(limit: Limit, own: Range<usize>, all_streams: usize) -> Self {
        let stream =
            |number| Stream { number: number as u32, epoch: 0, counts: limit.counts(), bad_in_a_row: Skipped::new() };
        Self {
            streams: own.map(stream).collect(),
            all_streams,
            tallies: Vec::new(),
            damage_named: 0,
            skipped: limit.lost(),
            named: BTreeMap::new(),
            warnings: Vec::new(),
            limit,
        }
    }

    pub(super) fn skipped(&self) -> Skipped {
        self.skipped.clone()
    }

    pub(super) fn take_tallies(&mut self) -> Vec<Tally> {
        std::mem::take(&mut self.tallies)
    }

    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Counts what a stream found out about shards in `epoch`.
    pub(super) fn learn(&mut self, stream: usize, epoch: u64, news: &News) {
        for &(shard, samples) in &news.shards {
            self.limit.learn(shard, samples);
            self.count(stream, epoch, What::Opened { shard }, samples);
        }
        if news.lost > 0 {
            self.count(stream, epoch, What::Bad { kind: Kind::LostSample, shard: 0 }, news.lost);
        }
        for warning in &news.warnings {
            self.damage_named += 1;
            match self.damage_named.cmp(&MAX_DAMAGE_NAMED) {
                Ordering::Less => self.warnings.push(warning.clone()),
                Ordering::Equal => {
                    self.warnings.push(format!("{warning} (further shards like this are counted, not named)"));
                }
                Ordering::Greater => {}
            }
        }
    }

    fn count(&mut self, stream: usize, epoch: u64, what: What, count: u64) {
        let stream = &mut self.streams[stream];
        if epoch > stream.epoch {
            (stream.epoch, stream.counts) = (epoch, self.limit.counts());
        }
        stream.counts.add(what, count);
        if let What::Bad { kind, .. } = what {
            *self.skipped.entry(kind).or_default() += count;
        }
        add(&mut self.tallies, Tally::new(stream.number, epoch, what, count));
    }

    /// Counts one visit of `sample` by a stream.
    ///
    /// # Errors
    /// [`DataError::TooManyBroken`] by the limit; [`DataError::NoGoodSample`] after as many bad visits in a row as
    /// there can only be if no sample is good; [`DataError::Unreadable`] if the shard could not be read.
    pub(super) fn visit(
        &mut self,
        stream: usize,
        epoch: u64,
        sample: u64,
        view: View,
        broken: Option<&Broken>,
    ) -> Result<()> {
        self.count(stream, epoch, What::Visited, 1);
        if let Some(broken) = broken {
            if broken.kind == Kind::Unreadable {
                return Err(DataError::Unreadable { shard: view.shard(), problem: broken.detail.clone() });
            }
            let shard = self.limit.shard_of(sample);
            self.count(stream, epoch, What::Bad { kind: broken.kind, shard }, 1);
            *self.streams[stream].bad_in_a_row.entry(broken.kind).or_default() += 1;
            self.name(sample, view, broken);
        } else {
            self.streams[stream].bad_in_a_row.clear();
        }
        let Stream { counts, bad_in_a_row, .. } = &self.streams[stream];
        self.limit.check(counts, broken.map(|broken| (view, broken)))?;
        let in_a_row = bad_in_a_row.values().sum();
        if self.limit.enough(self.all_streams).is_some_and(|enough| in_a_row >= enough) {
            return Err(DataError::NoGoodSample { visited: in_a_row, reasons: summary(bad_in_a_row) });
        }
        Ok(())
    }

    fn name(&mut self, sample: u64, view: View, broken: &Broken) {
        let named = self.named.entry(broken.kind).or_default();
        if named.len() <= MAX_NAMED && named.insert(sample) {
            self.warnings.push(match named.len() {
                ..=MAX_NAMED => format!("skipped {}: {broken}", view.name()),
                _ => format!("further samples are counted, not named ({})", broken.kind),
            });
        }
    }
}
