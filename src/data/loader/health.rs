//! Counts broken samples, and decides when there are too many.

use std::collections::{BTreeMap, BTreeSet};

use super::order::News;
use crate::data::broken::{Broken, Kind};
use crate::data::dataset::{TrainingData, View};
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
/// Warnings about damaged shards that are shown in the order of shards; the other order shows a few before training.
const MAX_DAMAGE_NAMED: usize = 10;
/// Visits in random order after which the share of bad samples is representative of the data set.
const MIN_VISITS: u64 = 100;

/// The order of visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visited {
    Shuffled,
    ByShard,
    InOrder,
}

/// Counts visits in the order of the batches, so that the outcome does not depend on threads.
///
/// There are too many broken samples as soon as, in one epoch,
/// - the bad samples are more than `max_bad` of **all** samples of the data set, visited or not, if their number is
///   known; or
/// - after at least 100 visits in random order, more are bad than chance explains at `max_bad`: the expected number,
///   plus five standard deviations, plus ten. So training on a large broken data set stops early. In the order of
///   shards the samples of a shard are taken to be all good or all bad, which makes the standard deviation larger.
///
/// A shard whose share of bad samples is above `max_bad` gives a warning. Samples lost to damage count as bad; in the
/// order of shards, each time that their shard is opened.
#[derive(Debug)]
pub(super) struct Health {
    data: TrainingData,
    max_bad: f32,
    order: Visited,
    epoch: u64,
    /// In the data set, including those lost to damage, or visits of an epoch of other weights.
    samples: Option<u64>,
    /// Whether an epoch visits each sample once.
    is_plain: bool,
    lost: u64,
    visited: u64,
    bad: Skipped,
    shards: Shards,
    damage_named: usize,
    /// Since the last good sample.
    bad_in_a_row: Skipped,
    skipped: Skipped,
    /// Samples that were named in warnings, by kind.
    named: BTreeMap<Kind, BTreeSet<u64>>,
    warnings: Vec<String>,
}

/// What is known about shards.
#[derive(Debug, Default)]
struct Shards {
    /// Samples of each, once they are known.
    lengths: Vec<Option<u64>>,
    known: usize,
    sum: u64,
    /// Bad samples in this epoch of each that has any.
    bad: BTreeMap<u32, u64>,
    named: BTreeSet<u32>,
    /// Opened in this epoch, in the order of shards.
    opened: u64,
}

impl Shards {
    fn learn(&mut self, shard: u32, samples: u64) {
        if let length @ None = &mut self.lengths[shard as usize] {
            *length = Some(samples);
            self.known += 1;
            self.sum += samples;
        }
    }

    fn samples(&self, shard: u32) -> u64 {
        self.lengths[shard as usize].unwrap_or_default()
    }
}

impl Health {
    pub(super) fn new(data: TrainingData, max_bad: f32, order: Visited) -> Self {
        let lost = data.lost();
        let lost_samples = (lost > 0).then_some((Kind::LostSample, lost));
        let mut shards = Shards { lengths: vec![None; data.shards()], ..Shards::default() };
        if let TrainingData::Indexed(dataset) = &data {
            dataset.shard_lengths().enumerate().for_each(|(shard, samples)| shards.learn(shard as u32, samples));
        }
        Self {
            max_bad,
            order,
            epoch: 0,
            samples: data.samples().map(|samples| samples + lost),
            is_plain: true,
            data,
            lost,
            visited: 0,
            bad: lost_samples.into_iter().collect(),
            shards,
            damage_named: 0,
            bad_in_a_row: Skipped::new(),
            skipped: lost_samples.into_iter().collect(),
            named: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// For epochs of `visits`, if that is known, which do not visit each sample once.
    pub(super) fn with_mix(self, visits: Option<u64>) -> Self {
        Self { samples: visits.map(|visits| visits + self.lost), is_plain: false, ..self }
    }

    pub(super) fn skipped(&self) -> Skipped {
        self.skipped.clone()
    }

    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Counts what was found out about shards in `epoch`.
    pub(super) fn learn(&mut self, epoch: u64, news: &News) {
        self.begin(epoch);
        for &(shard, samples) in &news.shards {
            self.shards.learn(shard, samples);
            self.shards.opened += 1;
        }
        if self.is_plain && self.samples.is_none() && self.shards.known == self.shards.lengths.len() {
            self.samples = Some(self.shards.sum);
        }
        if news.lost > 0 {
            for counts in [&mut self.bad, &mut self.skipped] {
                *counts.entry(Kind::LostSample).or_default() += news.lost;
            }
        }
        for warning in &news.warnings {
            self.damage_named += 1;
            match self.damage_named.cmp(&MAX_DAMAGE_NAMED) {
                std::cmp::Ordering::Less => self.warnings.push(warning.clone()),
                std::cmp::Ordering::Equal => {
                    self.warnings.push(format!("{warning} (further shards like this are counted, not named)"));
                }
                std::cmp::Ordering::Greater => {}
            }
        }
    }

    fn begin(&mut self, epoch: u64) {
        if epoch > self.epoch {
            (self.epoch, self.visited) = (epoch, 0);
            // In the order of shards, nothing is known to be lost before the shards are opened again.
            self.bad.retain(|kind, _| *kind == Kind::LostSample && self.order != Visited::ByShard);
            self.shards.bad.clear();
            self.shards.opened = 0;
        }
    }

    /// Counts one visit of `sample`.
    ///
    /// # Errors
    /// [`DataError::TooManyBroken`] by the rule above; [`DataError::NoGoodSample`] after as many bad visits in a row as
    /// there can only be if no sample is good; [`DataError::Unreadable`] if the shard could not be read.
    pub(super) fn visit(&mut self, epoch: u64, sample: u64, view: View, broken: Option<&Broken>) -> Result<()> {
        self.begin(epoch);
        self.visited += 1;
        if let Some(broken) = broken {
            self.count(sample, view, broken)?;
        } else {
            self.bad_in_a_row.clear();
        }
        let bad = self.bad.values().sum::<u64>();
        // In f32, in which `max_bad` was rounded: 7 of 10 is not more than 0.7.
        let certain = self.samples.is_some_and(|samples| bad as f32 / samples as f32 > self.max_bad);
        if certain || self.is_beyond_chance(bad) {
            return Err(self.too_many(bad, view, broken));
        }
        let in_a_row = self.bad_in_a_row.values().sum();
        if self.samples.is_some_and(|samples| in_a_row >= self.enough(samples - self.lost)) {
            return Err(DataError::NoGoodSample { visited: in_a_row, reasons: summary(&self.bad_in_a_row) });
        }
        Ok(())
    }

    fn count(&mut self, sample: u64, view: View, broken: &Broken) -> Result<()> {
        if broken.kind == Kind::Unreadable {
            return Err(DataError::Unreadable { shard: view.shard(), problem: broken.detail.clone() });
        }
        for counts in [&mut self.bad, &mut self.skipped, &mut self.bad_in_a_row] {
            *counts.entry(broken.kind).or_default() += 1;
        }
        let named = self.named.entry(broken.kind).or_default();
        if named.len() <= MAX_NAMED && named.insert(sample) {
            self.warnings.push(match named.len() {
                ..=MAX_NAMED => format!("skipped {}: {broken}", view.name()),
                _ => format!("further samples are counted, not named ({})", broken.kind),
            });
        }
        let number = self.data.shard_number(sample);
        let bad = self.shards.bad.entry(number).or_default();
        *bad += 1;
        let (bad, samples) = (*bad, self.shards.samples(number));
        let is_dirty = bad > 2 && bad as f32 / samples as f32 > self.max_bad;
        let may_be_named = self.is_plain && self.shards.lengths.len() > 1 && self.shards.named.len() < MAX_SHARDS_NAMED;
        if is_dirty && may_be_named && self.shards.named.insert(number) {
            self.warnings.push(format!(
                "warning: many samples of {} are broken, {bad} of {samples} so far",
                self.data.shard_location(number),
            ));
        }
        Ok(())
    }

    /// How many bad visits in a row mean that none of `samples` is good. In random order, a good one may come first in
    /// one epoch and last in the next.
    fn enough(&self, samples: u64) -> u64 {
        match self.order {
            Visited::InOrder => samples.max(1),
            Visited::Shuffled | Visited::ByShard => (2 * samples).saturating_sub(1).max(1),
        }
    }

    fn is_beyond_chance(&self, bad: u64) -> bool {
        // What is lost in all shards together says nothing about the visits so far.
        let (bad, visited) = match self.order {
            Visited::ByShard => (bad, self.visited + self.bad.get(&Kind::LostSample).copied().unwrap_or_default()),
            _ => (bad - self.lost, self.visited),
        };
        let expected = f64::from(self.max_bad) * visited as f64;
        // Samples that are good or bad together.
        let together = match self.order {
            Visited::ByShard => (visited as f64 / self.shards.opened.max(1) as f64).max(1.0),
            _ => 1.0,
        };
        self.order != Visited::InOrder
            && visited >= MIN_VISITS
            && bad as f64 > expected + 5.0 * (expected * together).sqrt() + 10.0
    }

    fn too_many(&self, bad: u64, view: View, broken: Option<&Broken>) -> DataError {
        let mut reasons = summary(&self.bad);
        if let Some(broken) = broken {
            reasons += &format!("; the last one is {}: {broken}", view.name());
        }
        let shards = self.shards.lengths.len();
        let share = |shard: u32, bad: u64| bad as f64 / self.shards.samples(shard).max(1) as f64;
        // The first of several alike.
        let worst = self.shards.bad.iter().rev().max_by(|(a, bad_a), (b, bad_b)| {
            bad_a.cmp(bad_b).then(share(**a, **bad_a).total_cmp(&share(**b, **bad_b)))
        });
        let worst = match worst.filter(|_| shards > 1) {
            Some((&worst, bad)) => {
                let (shard, samples) = (self.data.shard_location(worst), self.shards.samples(worst));
                format!("the worst shard, {shard} ({bad} of its {samples})")
            }
            None => "what is broken".to_owned(),
        };
        let place = if shards > 1 { format!("{shards} shards") } else { view.shard() };
        let (visited, max_bad) = (self.visited, self.max_bad);
        let samples = self.samples.map_or("an unknown number".to_owned(), |samples| samples.to_string());
        DataError::TooManyBroken { place, bad, visited, samples, max_bad, reasons, worst }
    }
}
