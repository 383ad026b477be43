//! Counts broken samples, and decides when there are too many.

use std::collections::{BTreeMap, BTreeSet};

use crate::data::broken::{Broken, Kind};
use crate::data::dataset::Dataset;
use crate::data::error::{DataError, Result};

/// Skipped samples by kind, counted at each visit.
pub type Skipped = BTreeMap<Kind, u64>;

fn summary(skipped: &Skipped) -> String {
    skipped.iter().map(|(kind, count)| format!("{count} x {}", { kind })).collect::<Vec<_>>().join(", ")
}

/// Samples of each kind that are named in warnings; the rest are only counted.
const MAX_NAMED: usize = 5;
/// Shards with many broken samples that are named.
const MAX_SHARDS_NAMED: usize = 5;
/// Visits in random order after which the share of bad samples is representative of the data set.
const MIN_VISITS: u64 = 100;

/// The order of visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visited {
    Shuffled,
    InOrder,
}

/// Counts visits in the order of the batches, so that the outcome does not depend on threads.
///
/// There are too many broken samples as soon as, in one epoch,
/// - the bad samples are more than `max_bad` of **all** samples of the data set, visited or not; or
/// - after at least 100 visits in random order, more are bad than chance explains at `max_bad`: the expected number, plus
///   five standard deviations, plus ten. So training on a large broken data set stops early.
///
/// A shard whose share of bad samples is above `max_bad` gives a warning. Samples lost to damage count as bad.
#[derive(Debug)]
pub(super) struct Health {
    max_bad: f32,
    order: Visited,
    epoch: u64,
    /// In the data set, including those lost to damage.
    samples: u64,
    lost: u64,
    visited: u64,
    bad: Skipped,
    shards: Vec<Tally>,
    shards_named: usize,
    /// Since the last good sample.
    bad_in_a_row: Skipped,
    skipped: Skipped,
    /// Samples that were named in warnings, by kind.
    named: BTreeMap<Kind, BTreeSet<u64>>,
    warnings: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    samples: u64,
    /// In this epoch.
    bad: u64,
    named: bool,
}

impl Health {
    pub(super) fn new(dataset: &Dataset, max_bad: f32, order: Visited) -> Self {
        let shards: Vec<Tally> = dataset.shard_lengths().map(|samples| Tally { samples, ..Tally::default() }).collect();
        let lost = dataset.lost();
        let lost_samples = (lost > 0).then_some((Kind::LostSample, lost));
        Self {
            max_bad,
            order,
            epoch: 0,
            samples: dataset.len() as u64 + lost,
            lost,
            visited: 0,
            bad: lost_samples.into_iter().collect(),
            shards,
            shards_named: 0,
            bad_in_a_row: Skipped::new(),
            skipped: lost_samples.into_iter().collect(),
            named: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn skipped(&self) -> Skipped {
        self.skipped.clone()
    }

    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Counts one visit of `sample`.
    ///
    /// # Errors
    /// [`DataError::TooManyBroken`] by the rule above; [`DataError::NoGoodSample`] after as many bad visits in a row as the
    /// data set has samples; [`DataError::Unreadable`] if the shard could not be read.
    pub(super) fn visit(&mut self, dataset: &Dataset, epoch: u64, sample: u64, broken: Option<&Broken>) -> Result<()> {
        if epoch != self.epoch {
            (self.epoch, self.visited) = (epoch, 0);
            self.bad.retain(|kind, _| *kind == Kind::LostSample);
            self.shards.iter_mut().for_each(|shard| shard.bad = 0);
        }
        self.visited += 1;
        if let Some(broken) = broken {
            self.count(dataset, sample, broken)?;
        } else {
            self.bad_in_a_row.clear();
        }
        let bad = self.bad.values().sum::<u64>();
        // In f32, in which `max_bad` was rounded: 7 of 10 is not more than 0.7.
        let certain = bad as f32 / self.samples as f32 > self.max_bad;
        if certain || self.is_beyond_chance(bad - self.lost) {
            return Err(self.too_many(dataset, bad, sample, broken));
        }
        let in_a_row = self.bad_in_a_row.values().sum();
        if in_a_row >= dataset.len() as u64 {
            return Err(DataError::NoGoodSample { visited: in_a_row, reasons: summary(&self.bad_in_a_row) });
        }
        Ok(())
    }

    fn count(&mut self, dataset: &Dataset, sample: u64, broken: &Broken) -> Result<()> {
        if broken.kind == Kind::Unreadable {
            return Err(DataError::Unreadable { shard: dataset.shard(sample), problem: broken.detail.clone() });
        }
        for counts in [&mut self.bad, &mut self.skipped, &mut self.bad_in_a_row] {
            *counts.entry(broken.kind).or_default() += 1;
        }
        let named = self.named.entry(broken.kind).or_default();
        if named.len() <= MAX_NAMED && named.insert(sample) {
            self.warnings.push(match named.len() {
                ..=MAX_NAMED => format!("skipped {}: {broken}", dataset.name(sample)),
                _ => format!("further samples are counted, not named ({})", broken.kind),
            });
        }
        let number = dataset.shard_number(sample);
        let shards = self.shards.len();
        let shard = &mut self.shards[number];
        shard.bad += 1;
        let is_dirty = shard.bad > 2 && shard.bad as f32 / shard.samples as f32 > self.max_bad;
        if is_dirty && shards > 1 && !shard.named && self.shards_named < MAX_SHARDS_NAMED {
            shard.named = true;
            self.shards_named += 1;
            self.warnings.push(format!(
                "warning: many samples of {} are broken, {} of {} so far",
                dataset.shard_location(number),
                shard.bad,
                shard.samples
            ));
        }
        Ok(())
    }

    fn is_beyond_chance(&self, bad: u64) -> bool {
        let expected = f64::from(self.max_bad) * self.visited as f64;
        self.order == Visited::Shuffled
            && self.visited >= MIN_VISITS
            && bad as f64 > expected + 5.0 * expected.sqrt() + 10.0
    }

    fn too_many(&self, dataset: &Dataset, bad: u64, sample: u64, broken: Option<&Broken>) -> DataError {
        let mut reasons = summary(&self.bad);
        if let Some(broken) = broken {
            reasons += &format!("; the last one is {}: {broken}", dataset.name(sample));
        }
        let share = |shard: &Tally| shard.bad as f64 / shard.samples.max(1) as f64;
        let worst = (0..self.shards.len()).rev().max_by(|&a, &b| {
            (self.shards[a].bad, share(&self.shards[a]))
                .partial_cmp(&(self.shards[b].bad, share(&self.shards[b])))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        let (place, worst) = match worst.filter(|_| self.shards.len() > 1) {
            Some(worst) => {
                let (shard, Tally { samples, bad, .. }) = (dataset.shard_location(worst), &self.shards[worst]);
                (format!("{} shards", self.shards.len()), format!("the worst shard, {shard} ({bad} of its {samples})"))
            }
            None => (dataset.shard(sample), "what is broken".to_owned()),
        };
        let (visited, samples, max_bad) = (self.visited, self.samples, self.max_bad);
        DataError::TooManyBroken { place, bad, visited, samples, max_bad, reasons, worst }
    }
}
