//! Counts broken samples as they are visited.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::limit::{BadShards, Counts, Limit, Skipped, summary};
use super::order::News;
use super::tally::{Tallies, Tally, What};
use crate::data::broken::{Broken, Kind};
use crate::data::dataset::View;
use crate::data::error::{DataError, Result};

/// Samples of each kind that are named in warnings by all ranks together; the rest are only counted.
const MAX_NAMED: usize = 5;
/// Warnings about damaged shards that are shown in the order of shards; the other order shows a few before training.
const MAX_DAMAGE_NAMED: usize = 10;

/// Counts the visits of each stream in the order of the batches, so that the outcome does not depend on threads.
///
/// A stream that alone has found more than the limit allows ends loading at once: it might never fill its rows.
/// `Totals` checks all streams together, after each batch.
#[derive(Debug)]
pub(super) struct Health {
    limit: Limit,
    streams: Vec<Stream>,
    /// With those of other ranks.
    all_streams: usize,
    /// Since they were taken.
    tallies: Tallies,
    damage_named: BTreeSet<String>,
    /// How many samples of each kind and damaged shards these streams may name.
    to_name: [usize; 2],
    /// Samples that were named in warnings, by kind.
    named: BTreeMap<Kind, BTreeSet<u64>>,
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
struct Stream {
    number: u32,
    epoch: u64,
    counts: Counts,
    shards: BadShards,
    /// Since the last good sample.
    bad_in_a_row: Skipped,
}

impl Health {
    /// Of the streams `own` of `all_streams`.
    pub(super) fn new(limit: Limit, own: Range<usize>, all_streams: usize) -> Self {
        let stream = |number| Stream {
            number: number as u32,
            epoch: 0,
            counts: Counts::default(),
            shards: BadShards::new(),
            bad_in_a_row: Skipped::new(),
        };
        // Shared out among ranks.
        let part = |of: usize| (0..of).filter(|at| own.contains(&(at * all_streams / of))).count();
        Self {
            to_name: [MAX_NAMED, MAX_DAMAGE_NAMED].map(part),
            streams: own.clone().map(stream).collect(),
            all_streams,
            tallies: Tallies::default(),
            damage_named: BTreeSet::new(),
            named: BTreeMap::new(),
            warnings: Vec::new(),
            limit,
        }
    }

    /// Bad samples of the epochs that the streams are in.
    pub(super) fn skipped(&self) -> Skipped {
        let mut skipped = self.limit.lost();
        let counts = self.streams.iter().flat_map(|stream| &stream.counts.bad);
        counts.for_each(|(&kind, count)| *skipped.entry(kind).or_default() += count);
        skipped
    }

    pub(super) fn take_tallies(&mut self) -> Tallies {
        std::mem::take(&mut self.tallies)
    }

    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Counts what a stream found out about shards.
    pub(super) fn learn(&mut self, stream: usize, news: &News) {
        let epoch = news.epoch;
        for &(shard, samples) in &news.shards {
            self.limit.learn(shard, samples);
            let what = if news.is_counted { What::Known { shard } } else { What::Opened { shard } };
            self.count(stream, epoch, what, samples);
        }
        if news.lost > 0 {
            self.count(stream, epoch, What::Bad { kind: Kind::LostSample, shard: 0 }, news.lost);
        }
        for warning in &news.warnings {
            let is_new = self.damage_named.len() < self.to_name[1] && self.damage_named.insert(warning.clone());
            if is_new {
                let is_last = self.damage_named.len() == self.to_name[1];
                let end = if is_last { " (further shards like this are counted, not named)" } else { "" };
                self.warnings.push(format!("{warning}{end}"));
            }
        }
    }

    fn count(&mut self, stream: usize, epoch: u64, what: What, count: u64) {
        let stream = &mut self.streams[stream];
        let epoch = self.limit.counted_as(epoch);
        if epoch > stream.epoch {
            (stream.epoch, stream.counts, stream.shards) = (epoch, Counts::default(), BadShards::new());
        }
        match what {
            // For the stream alone, they count in any case.
            What::Known { shard } => stream.counts.add(What::Opened { shard }, count),
            what => stream.counts.add(what, count),
        }
        self.tallies.add(Tally::new(stream.number, epoch, what, count));
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
            *self.streams[stream].shards.entry(shard).or_default() += 1;
            *self.streams[stream].bad_in_a_row.entry(broken.kind).or_default() += 1;
            self.name(sample, view, broken);
        } else {
            self.streams[stream].bad_in_a_row.clear();
        }
        let Stream { counts, shards, bad_in_a_row, .. } = &self.streams[stream];
        self.limit.check(counts, shards, broken.map(|broken| (view, broken))).map_err(|error| match error {
            DataError::TooManyBroken { place, bad, visited, samples, max_bad, reasons, worst }
                if self.all_streams > 1 =>
            {
                let place = format!("{place} (counted in one of {} streams)", self.all_streams);
                DataError::TooManyBroken { place, bad, visited, samples, max_bad, reasons, worst }
            }
            other => other,
        })?;
        let in_a_row = bad_in_a_row.values().sum();
        if in_a_row >= self.limit.max_bad_in_a_row(self.all_streams) {
            return Err(DataError::NoGoodSample { visited: in_a_row, reasons: summary(bad_in_a_row) });
        }
        Ok(())
    }

    fn name(&mut self, sample: u64, view: View, broken: &Broken) {
        let to_name = self.to_name[0];
        let named = self.named.entry(broken.kind).or_default();
        if to_name > 0 && named.len() <= to_name && named.insert(sample) {
            self.warnings.push(match named.len() <= to_name {
                true => format!("skipped {}: {broken}", view.name()),
                false => format!("further samples are counted, not named ({})", broken.kind),
            });
        }
    }
}
