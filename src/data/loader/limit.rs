//! When there are too many broken samples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

/// Bad samples of each shard that has any.
pub(super) type BadShards = BTreeMap<u32, u64>;

/// What was found in one epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) visited: u64,
    pub(super) bad: Skipped,
    /// The sum of the lengths of the shards that were opened, in the order of shards, and that of the squares.
    pub(super) opened: u64,
    pub(super) opened_squares: u64,
    /// Whether a run was resumed in this epoch: the bad samples of each shard are not in its checkpoint.
    #[serde(skip)]
    pub(super) is_resumed: bool,
}

impl Counts {
    fn all_bad(&self) -> u64 {
        self.bad.values().sum()
    }

    /// From when on the bad samples of each shard are counted.
    pub(super) fn since(&self) -> &'static str {
        if self.is_resumed { " since the resume" } else { "" }
    }

    fn lost(&self) -> u64 {
        self.bad.get(&Kind::LostSample).copied().unwrap_or_default()
    }

    /// The share of what was opened that was visited.
    fn seen(&self) -> f64 {
        (self.visited as f64 / self.opened.max(1) as f64).min(1.0)
    }
}

/// How many broken samples there may be.
///
/// There are too many as soon as, in one epoch,
/// - the bad samples are more than `max_bad` of **all** samples of the data set, visited or not, if their number is
///   known; or
/// - after at least 100 visits in random order, more are bad than chance explains at `max_bad`: the expected number,
///   plus five standard deviations, plus ten. So training on a large broken data set stops early. In the order of
///   shards the samples of a shard are taken to be all good or all bad: the standard deviation is that of shards, and
///   at least three of them are added.
///
/// Epochs that do not visit each sample once are random themselves. They are counted together, and only the second rule
/// applies to them.
///
/// Samples lost to damage count as bad. In the order of shards they are known when shards are opened, several at a
/// time, and the rule of chance counts them in proportion to the visits.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    data: TrainingData,
    max_bad: f32,
    order: Visited,
    /// Whether an epoch visits each sample once.
    is_plain: bool,
    /// In the data set, by files beside it or by a look at all shards; without those lost to damage, or with them.
    samples: Option<u64>,
    /// What is lost to damage, as far as it is known at the beginning: nothing in the order of shards.
    lost: u64,
    /// Samples of each shard, once they are known.
    lengths: Vec<Option<u64>>,
    known: usize,
    sum: u64,
}

impl Limit {
    /// `is_plain`: whether an epoch visits each sample once.
    pub(super) fn new(data: TrainingData, max_bad: f32, order: Visited, is_plain: bool) -> Self {
        let mut limit = Self {
            max_bad,
            order,
            is_plain,
            samples: data.samples(),
            lost: data.lost(),
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

    /// What `epoch` is counted as.
    pub(super) fn counted_as(&self, epoch: u64) -> u64 {
        if self.is_plain { epoch } else { u64::MAX }
    }

    /// Remembers how many samples a shard has.
    pub(super) fn learn(&mut self, shard: u32, samples: u64) {
        if let Some(length @ None) = self.lengths.get_mut(shard as usize) {
            *length = Some(samples);
            self.known += 1;
            self.sum += samples;
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

    /// Checks the counts of an epoch, of all streams or of one.
    ///
    /// # Errors
    /// [`DataError::TooManyBroken`] by the rule above; it names the worst of `shards`, and the `last` sample that was
    /// broken.
    pub(super) fn check(&self, counts: &Counts, shards: &BadShards, last: Option<(View, &Broken)>) -> Result<()> {
        // Where samples are visited more or less often, what is lost is known at least.
        let bad = self.lost + if self.is_plain { counts.all_bad() } else { 0 };
        // In f32, in which `max_bad` was rounded: 7 of 10 is not more than 0.7.
        let certain = self.samples_with_lost(counts).is_some_and(|all| bad as f32 / all as f32 > self.max_bad);
        if certain || self.is_beyond_chance(counts) { Err(self.too_many(counts, shards, last)) } else { Ok(()) }
    }

    fn samples(&self) -> Option<u64> {
        self.samples.or_else(|| (self.known == self.lengths.len()).then_some(self.sum))
    }

    /// The samples of an epoch, and those that it lost. As long as not all shards are known, it is rather too large.
    fn samples_with_lost(&self, counts: &Counts) -> Option<u64> {
        match self.known == self.lengths.len() {
            true => Some(self.sum + self.lost + counts.lost()),
            false => {
                let at_least = if self.is_plain { counts.visited } else { 0 };
                self.samples.map(|samples| samples.max(at_least) + counts.lost())
            }
        }
    }

    fn is_beyond_chance(&self, counts: &Counts) -> bool {
        let lost = counts.lost() as f64 * counts.seen();
        let bad = (counts.all_bad() - counts.lost()) as f64 + lost;
        let visited = counts.visited as f64 + lost;
        // Samples that are good or bad together: in the order of shards, the length of the shard that a sample is in on
        // average, or the part of it that was visited.
        let together = (counts.opened_squares as f64 / counts.opened.max(1) as f64 * counts.seen()).max(1.0);
        // After a resume from an older checkpoint, which has no counts, nothing is known of the shards that are open.
        let is_known = self.order != Visited::ByShard || counts.opened > 0;
        let expected = f64::from(self.max_bad) * visited;
        let by_chance = expected + 5.0 * (expected * together).sqrt() + f64::max(10.0, 3.0 * together);
        self.order != Visited::InOrder && is_known && counts.visited >= MIN_VISITS && bad > by_chance
    }

    /// How many bad visits in a row of one of `streams` streams mean that no sample is good. In random order, a good
    /// one may come first in one epoch and last in the next. With several streams, or draws with replacement, it may
    /// stay away for many epochs, but for 20 times the data set only with a chance of about `exp(-20)`. If the number
    /// of samples is not known, that of the shards opened so far must do.
    pub(super) fn max_bad_in_a_row(&self, streams: usize) -> u64 {
        let enough = match (self.order, self.samples()) {
            (Visited::InOrder, Some(samples)) => samples,
            (_, Some(samples)) if streams == 1 && self.is_plain => (2 * samples).saturating_sub(1),
            (_, samples) => 20 * samples.unwrap_or(self.sum),
        };
        enough.max(1)
    }

    fn too_many(&self, counts: &Counts, bad_shards: &BadShards, last: Option<(View, &Broken)>) -> DataError {
        let mut all_bad = counts.bad.clone();
        self.lost().into_iter().for_each(|(kind, lost)| *all_bad.entry(kind).or_default() += lost);
        let mut reasons = summary(&all_bad);
        let shards = self.lengths.len();
        let place = if shards > 1 { format!("{shards} shards") } else { self.data.shard_location(0).to_string() };
        if let Some((view, broken)) = last {
            reasons += &format!("; the last one is {}: {broken}", view.name());
        }
        let share = |shard: u32, bad: u64| bad as f64 / self.samples_of(shard).max(1) as f64;
        // The first of several alike.
        let worst = bad_shards.iter().rev().max_by(|(a, bad_a), (b, bad_b)| {
            bad_a.cmp(bad_b).then(share(**a, **bad_a).total_cmp(&share(**b, **bad_b)))
        });
        let worst = match worst.filter(|_| shards > 1) {
            Some((&worst, bad)) => {
                let (shard, samples) = (self.data.shard_location(worst), self.samples_of(worst));
                format!("the worst shard, {shard} ({bad} of its {samples}{})", counts.since())
            }
            None => "what is broken".to_owned(),
        };
        let (bad, visited, max_bad) = (all_bad.values().sum(), counts.visited, self.max_bad);
        let samples =
            self.samples_with_lost(counts).map_or("an unknown number".to_owned(), |samples| samples.to_string());
        DataError::TooManyBroken { place, bad, visited, samples, max_bad, reasons, worst }
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_shard::Shards;
    use super::*;

    /// Counts after `visited` visits of a group of 16 shards of 1,000 samples, whose samples are mixed.
    fn group(visited: u64, bad_shards: u64, unusable_shards: u64) -> Counts {
        let usable = 16 - unusable_shards;
        let bad = visited * bad_shards / usable;
        Counts {
            visited,
            bad: Skipped::from([(Kind::BadImage, bad), (Kind::LostSample, 1000 * unusable_shards)]),
            opened: 1000 * usable,
            opened_squares: 1_000_000 * usable,
            ..Counts::default()
        }
    }

    #[test]
    fn a_shard_among_many_does_not_stop_and_nothing_but_broken_shards_does() {
        let limit = |max_bad| Limit::new(Shards::new(&[1; 20], 0).open(), max_bad, Visited::ByShard, true);
        for visited in (1..=14).map(|visited| visited * 1000).chain([1, 99, 100, 101]) {
            let check =
                |max_bad, bad, unusable| limit(max_bad).check(&group(visited, bad, unusable), &BadShards::new(), None);
            for max_bad in [0.01, 0.1] {
                for (bad, unusable) in [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2)] {
                    check(max_bad, bad, unusable).unwrap_or_else(|error| panic!("{visited} visits: {error}"));
                }
            }
            assert_eq!(check(0.1, 16, 0).is_err(), visited >= 100, "{visited}");
            assert_eq!(check(0.1, 4, 12).is_err(), visited >= 100, "{visited}");
        }
        // A stream that has a single shard.
        let one = Counts { opened: 1000, opened_squares: 1_000_000, ..group(500, 16, 0) };
        assert!(limit(0.01).check(&one, &BadShards::new(), None).is_ok());
    }

    /// 140 shards of 10 samples, and one of 150 that are broken, which is less than a tenth of all.
    #[test]
    fn a_shard_that_is_larger_than_others_is_no_proof() {
        let limit = Limit::new(Shards::new(&[1; 20], 0).open(), 0.1, Visited::ByShard, true);
        for visited in (0..30).map(|more| 150 + 10 * more) {
            let opened = visited.max(300);
            let bad = Skipped::from([(Kind::BadImage, 150)]);
            let opened_squares = 150 * 150 + (opened - 150) * 10;
            let counts = Counts { visited, bad, opened, opened_squares, ..Counts::default() };
            limit.check(&counts, &BadShards::new(), None).unwrap_or_else(|error| panic!("{visited} visits: {error}"));
        }
    }

    #[test]
    fn what_is_lost_is_part_of_all() {
        let mut limit = Limit::new(Shards::new(&[1; 20], 0).open(), 0.1, Visited::ByShard, true);
        (0..19).for_each(|shard| limit.learn(shard, 100));
        let lost = |lost| Counts { bad: Skipped::from([(Kind::LostSample, lost)]), ..Counts::default() };
        assert!(limit.check(&lost(1000), &BadShards::new(), None).is_ok(), "the number of samples is not known");
        limit.learn(19, 0);
        assert!(
            limit.check(&lost(211), &BadShards::new(), None).is_ok()
                && limit.check(&lost(212), &BadShards::new(), None).is_err()
        );
    }
}
