//! When there are too many broken samples.

use std::collections::BTreeMap;

use crate::data::broken::{Broken, Kind};
use crate::data::dataset::{TrainingData, View};
use crate::data::error::{DataError, Result};

/// Skipped samples by kind, counted at each visit.
pub type Skipped = BTreeMap<Kind, u64>;

pub(super) fn summary(skipped: &Skipped) -> String {
    skipped.iter().map(|(kind, count)| format!("{count} x {}", { kind })).collect::<Vec<_>>().join(", ")
}

/// Visits in random order after which the share of bad samples is representative of the data set.
const MIN_VISITS: u64 = 100;

/// The order of visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visited {
    Shuffled,
    ByShard,
    InOrder,
}

/// What was found in one epoch.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) visited: u64,
    pub(super) bad: Skipped,
    /// Bad samples of each shard that has any.
    pub(super) shards: BTreeMap<u32, u64>,
    /// Shards opened, in the order of shards.
    pub(super) opened: u64,
}

impl Counts {
    fn all_bad(&self) -> u64 {
        self.bad.values().sum()
    }
}

/// How many broken samples there may be.
///
/// There are too many as soon as, in one epoch,
/// - the bad samples are more than `max_bad` of **all** samples of the data set, visited or not, if their number is
///   known; or
/// - after at least 100 visits in random order, more are bad than chance explains at `max_bad`: the expected number,
///   plus five standard deviations, plus ten. So training on a large broken data set stops early. In the order of
///   shards the samples of a shard are taken to be all good or all bad, which makes the standard deviation larger.
///
/// Samples lost to damage count as bad; in the order of shards, each time that their shard is opened.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    data: TrainingData,
    max_bad: f32,
    order: Visited,
    /// Whether an epoch visits each sample once.
    is_plain: bool,
    /// In the data set, including those lost to damage, or visits of an epoch of other weights.
    samples: Option<u64>,
    lost: u64,
    /// Samples of each shard, once they are known.
    lengths: Vec<Option<u64>>,
    known: usize,
    sum: u64,
}

impl Limit {
    pub(super) fn new(data: TrainingData, max_bad: f32, order: Visited) -> Self {
        let lost = data.lost();
        let mut limit = Self {
            max_bad,
            order,
            is_plain: true,
            samples: data.samples().map(|samples| samples + lost),
            lost,
            lengths: vec![None; data.shards()],
            known: 0,
            sum: 0,
            data: data.clone(),
        };
        if let TrainingData::Indexed(dataset) = &data {
            dataset.shard_lengths().enumerate().for_each(|(shard, samples)| limit.learn(shard as u32, samples));
        }
        limit
    }

    /// For epochs of `visits`, if that is known, which do not visit each sample once.
    pub(super) fn with_mix(self, visits: Option<u64>) -> Self {
        Self { samples: visits.map(|visits| visits + self.lost), is_plain: false, ..self }
    }

    /// Remembers how many samples a shard has.
    pub(super) fn learn(&mut self, shard: u32, samples: u64) {
        if let Some(length @ None) = self.lengths.get_mut(shard as usize) {
            *length = Some(samples);
            self.known += 1;
            self.sum += samples;
        }
        if self.is_plain && self.samples.is_none() && self.known == self.lengths.len() {
            self.samples = Some(self.sum);
        }
    }

    /// The samples of a shard; 0 if that is not known.
    fn samples_of(&self, shard: u32) -> u64 {
        self.lengths.get(shard as usize).copied().flatten().unwrap_or_default()
    }

    /// The shard of a sample.
    pub(super) fn shard_of(&self, sample: u64) -> u32 {
        self.data.shard_number(sample)
    }

    /// A warning if the share of `bad` samples in one of several shards is above the limit.
    pub(super) fn warning(&self, shard: u32, bad: u64) -> Option<String> {
        let samples = self.samples_of(shard);
        let is_dirty = bad > 2 && bad as f32 / samples as f32 > self.max_bad;
        (is_dirty && self.is_plain && self.lengths.len() > 1).then(|| {
            let shard = self.data.shard_location(shard);
            format!("warning: many samples of {shard} are broken, {bad} of {samples} so far")
        })
    }

    /// What is lost to damage, as far as it is known at the beginning.
    pub(super) fn lost(&self) -> Skipped {
        (self.lost > 0).then_some((Kind::LostSample, self.lost)).into_iter().collect()
    }

    /// The counts at the beginning of an epoch. In the order of shards, nothing is known to be lost before the shards
    /// are opened.
    pub(super) fn counts(&self) -> Counts {
        let bad = if self.order == Visited::ByShard { Skipped::new() } else { self.lost() };
        Counts { bad, ..Counts::default() }
    }

    /// Checks the counts of an epoch, of all streams or of one.
    ///
    /// # Errors
    /// [`DataError::TooManyBroken`] by the rule above; it names the `last` sample that was broken.
    pub(super) fn check(&self, counts: &Counts, last: Option<(View, &Broken)>) -> Result<()> {
        // In f32, in which `max_bad` was rounded: 7 of 10 is not more than 0.7.
        let bad = counts.all_bad() as f32;
        let certain = self.samples.is_some_and(|samples| bad / samples as f32 > self.max_bad);
        if certain || self.is_beyond_chance(counts) { Err(self.too_many(counts, last)) } else { Ok(()) }
    }

    fn is_beyond_chance(&self, counts: &Counts) -> bool {
        // What is lost in all shards together says nothing about the visits so far.
        let (bad, visited) = match self.order {
            Visited::ByShard => {
                (counts.all_bad(), counts.visited + counts.bad.get(&Kind::LostSample).copied().unwrap_or_default())
            }
            _ => (counts.all_bad() - self.lost, counts.visited),
        };
        let expected = f64::from(self.max_bad) * visited as f64;
        // Samples that are good or bad together.
        let together = match self.order {
            Visited::ByShard => (visited as f64 / counts.opened.max(1) as f64).max(1.0),
            _ => 1.0,
        };
        self.order != Visited::InOrder
            && visited >= MIN_VISITS
            && bad as f64 > expected + 5.0 * (expected * together).sqrt() + 10.0
    }

    /// How many bad visits in a row of one of `streams` streams mean that no sample is good, if that is known. In
    /// random order, a good one may come first in one epoch and last in the next; and it may be in the parts of other
    /// streams for many epochs, but for 20 times the data set only with a chance of `exp(-20)`.
    pub(super) fn enough(&self, streams: usize) -> Option<u64> {
        let samples = self.samples? - self.lost;
        let enough = match self.order {
            Visited::InOrder => samples,
            Visited::Shuffled | Visited::ByShard if streams == 1 => (2 * samples).saturating_sub(1),
            Visited::Shuffled | Visited::ByShard => 20 * samples,
        };
        Some(enough.max(1))
    }

    fn too_many(&self, counts: &Counts, last: Option<(View, &Broken)>) -> DataError {
        let mut reasons = summary(&counts.bad);
        let shards = self.lengths.len();
        let place = if shards > 1 { format!("{shards} shards") } else { self.data.shard_location(0).to_string() };
        if let Some((view, broken)) = last {
            reasons += &format!("; the last one is {}: {broken}", view.name());
        }
        let share = |shard: u32, bad: u64| bad as f64 / self.samples_of(shard).max(1) as f64;
        // The first of several alike.
        let worst = counts.shards.iter().rev().max_by(|(a, bad_a), (b, bad_b)| {
            bad_a.cmp(bad_b).then(share(**a, **bad_a).total_cmp(&share(**b, **bad_b)))
        });
        let worst = match worst.filter(|_| shards > 1) {
            Some((&worst, bad)) => {
                let (shard, samples) = (self.data.shard_location(worst), self.samples_of(worst));
                format!("the worst shard, {shard} ({bad} of its {samples})")
            }
            None => "what is broken".to_owned(),
        };
        let (bad, visited, max_bad) = (counts.all_bad(), counts.visited, self.max_bad);
        let samples = self.samples.map_or("an unknown number".to_owned(), |samples| samples.to_string());
        DataError::TooManyBroken { place, bad, visited, samples, max_bad, reasons, worst }
    }
}
