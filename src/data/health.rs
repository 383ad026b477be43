//! Broken samples: what they are, how they are counted, and when there are too many.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::Serialize;

use super::{Dataset, Error, Result};

/// Why a sample cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    TruncatedMember,
    /// Damaged bytes of an archive that belong to no member, counted as the number of samples that they may have held.
    LostSample,
    /// A link that points outside the archive, or a sparse file.
    UnreadMember,
    MissingImage,
    BadImage,
    MissingCaption,
    /// The caption is there, and is blank or null.
    EmptyCaption,
    /// The JSON record is damaged, or its caption is not text.
    BadRecord,
    NonUtf8Caption,
    /// The file cannot be read, or has changed. This is no fault of the sample, and ends the run.
    Unreadable,
    /// Code that reads the sample panicked: a bug in a decoder.
    Panic,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::TruncatedMember => "truncated member",
            Self::LostSample => "lost sample",
            Self::UnreadMember => "unread member",
            Self::MissingImage => "missing image",
            Self::BadImage => "bad image",
            Self::MissingCaption => "missing caption",
            Self::EmptyCaption => "empty caption",
            Self::BadRecord => "bad record",
            Self::NonUtf8Caption => "non-UTF-8 caption",
            Self::Unreadable => "unreadable shard",
            Self::Panic => "decoder panic",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.words())
    }
}

/// One sample that is skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.words())]
pub struct Broken {
    pub kind: Kind,
    pub detail: String,
}

/// Calls `read`; a panic in it is a broken sample of [`Kind::Panic`].
pub(super) fn confined<T>(read: impl FnOnce() -> std::result::Result<T, Broken>) -> std::result::Result<T, Broken> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(Broken { kind: Kind::Panic, detail: text.unwrap_or("no message").to_owned() })
    })
}

/// What was skipped so far, by kind, counted by visit.
pub type Skipped = BTreeMap<Kind, u64>;

fn summary(skipped: &Skipped) -> String {
    skipped.iter().map(|(kind, count)| format!("{count} x {}", kind.words())).collect::<Vec<_>>().join(", ")
}

/// Samples of each kind that are named in warnings; the rest is only counted.
const NAMED: usize = 5;
/// Shards with many broken samples that are named.
const SHARDS_NAMED: usize = 5;
/// Visits in random order after which the share of bad ones says something about the whole data set.
const JUDGED_AFTER: u64 = 100;

/// In which order samples are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visited {
    Shuffled,
    InOrder,
}

/// Counts visits in the order of the batches, so that its verdicts do not depend on threads.
///
/// There are too many broken samples as soon as, in one epoch,
/// - the bad ones are more than `max_bad` of **all** samples of the data set, which is certain however few were visited
///   (one bad sample of three visited says nothing about 10,000); or
/// - of at least 100 visited in random order, more are bad than chance explains in a data set within `max_bad`: more than
///   the expected number, plus five of its standard deviations, plus ten. So a large data set that is broken stops early.
///
/// A shard with a share of bad samples above `max_bad` is a warning. Samples that were lost to damage count as bad.
#[derive(Debug)]
pub(super) struct Health {
    max_bad: f32,
    order: Visited,
    epoch: u64,
    /// In the data set, including the lost ones.
    samples: u64,
    lost: u64,
    visited: u64,
    bad: Skipped,
    shards: Vec<Tally>,
    shards_named: usize,
    /// Visits since the last good sample.
    bad_in_a_row: Skipped,
    skipped: Skipped,
    /// Samples that were named, by kind.
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
    pub fn new(dataset: &Dataset, max_bad: f32, order: Visited) -> Self {
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

    pub fn skipped(&self) -> Skipped {
        self.skipped.clone()
    }

    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Counts one visit of `sample`.
    ///
    /// # Errors
    /// [`Error::TooManyBroken`] by the rule above; [`Error::NoGoodSample`] after as many bad visits in a row as the
    /// data set has samples; [`Error::Unreadable`] if the shard could not be read.
    pub fn visit(&mut self, dataset: &Dataset, epoch: u64, sample: u64, broken: Option<&Broken>) -> Result<()> {
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
            return Err(Error::NoGoodSample { visited: in_a_row, reasons: summary(&self.bad_in_a_row) });
        }
        Ok(())
    }

    fn count(&mut self, dataset: &Dataset, sample: u64, broken: &Broken) -> Result<()> {
        if broken.kind == Kind::Unreadable {
            return Err(Error::Unreadable { shard: dataset.shard(sample), problem: broken.detail.clone() });
        }
        for counts in [&mut self.bad, &mut self.skipped, &mut self.bad_in_a_row] {
            *counts.entry(broken.kind).or_default() += 1;
        }
        let named = self.named.entry(broken.kind).or_default();
        if named.len() <= NAMED && named.insert(sample) {
            self.warnings.push(match named.len() {
                ..=NAMED => format!("skipped {}: {broken}", dataset.name(sample)),
                _ => format!("further samples are counted, not named ({})", broken.kind),
            });
        }
        let number = dataset.shard_number(sample);
        let shards = self.shards.len();
        let shard = &mut self.shards[number];
        shard.bad += 1;
        let is_dirty = shard.bad > 2 && shard.bad as f32 / shard.samples as f32 > self.max_bad;
        if is_dirty && shards > 1 && !shard.named && self.shards_named < SHARDS_NAMED {
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
            && self.visited >= JUDGED_AFTER
            && bad as f64 > expected + 5.0 * expected.sqrt() + 10.0
    }

    fn too_many(&self, dataset: &Dataset, bad: u64, sample: u64, broken: Option<&Broken>) -> Error {
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
        Error::TooManyBroken { place, bad, visited, samples, max_bad, reasons, worst }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_broken_sample() {
        let zero = std::hint::black_box(0);
        let broken = confined(|| Ok(1 / zero)).unwrap_err();
        assert!(broken.kind == Kind::Panic && broken.detail.contains("divide by zero"), "{broken}");
        let broken = confined::<()>(|| panic!("row {zero}")).unwrap_err();
        assert_eq!(broken.to_string(), "decoder panic: row 0");
        assert_eq!(confined(|| Ok(7)), Ok(7));
    }
}
