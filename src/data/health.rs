//! Broken samples: what they are, how they are counted, and when there are too many.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Dataset, Error, Result};

/// Why a sample cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    TruncatedMember,
    MissingImage,
    BadImage,
    MissingCaption,
    /// The caption is there and holds no words.
    EmptyCaption,
    NonUtf8Caption,
    /// Code that reads the sample panicked: a fault in a decoder, here confined to the sample.
    Panic,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::TruncatedMember => "truncated member",
            Self::MissingImage => "missing image",
            Self::BadImage => "bad image",
            Self::MissingCaption => "missing caption",
            Self::EmptyCaption => "empty caption",
            Self::NonUtf8Caption => "non-UTF-8 caption",
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

/// What was skipped so far, by kind, counted by visit.
pub type Skipped = BTreeMap<Kind, u64>;

fn summary(skipped: &Skipped) -> String {
    skipped.iter().map(|(kind, count)| format!("{count} x {}", kind.words())).collect::<Vec<_>>().join(", ")
}

/// Broken samples named one by one in warnings; the rest is only counted.
const NAMED: u64 = 5;
/// Visits to a shard before it is judged by its rate.
const JUDGED_AFTER: u64 = 100;

/// Counts visits in the order of the batches, so that its verdicts do not depend on threads.
///
/// A shard has too many broken samples as soon as, in one epoch,
/// - the bad ones are more than `max_bad` of **all** the shard's samples, which is certain however few were visited
///   (one bad sample of three visited says nothing about a shard of 10,000); or
/// - of 100 visited or more, the bad share is past the middle between `max_bad` and 1, which a shard that is within
///   `max_bad` does not reach by chance, so that a large shard that is wholly broken stops early.
#[derive(Debug)]
pub(super) struct Health {
    max_bad: f32,
    epoch: u64,
    shards: Vec<Tally>,
    /// Visits since the last good sample.
    bad_in_a_row: Skipped,
    skipped: Skipped,
    warnings: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    samples: u64,
    visited: u64,
    bad: Skipped,
}

impl Health {
    pub fn new(dataset: &Dataset, max_bad: f32) -> Self {
        let shards = dataset.shard_lengths().map(|samples| Tally { samples, ..Tally::default() }).collect();
        let [bad_in_a_row, skipped] = [Skipped::new(), Skipped::new()];
        Self { max_bad, epoch: 0, shards, bad_in_a_row, skipped, warnings: Vec::new() }
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
    /// data set has samples.
    pub fn visit(&mut self, dataset: &Dataset, epoch: u64, sample: u64, broken: Option<&Broken>) -> Result<()> {
        if epoch != self.epoch {
            self.epoch = epoch;
            for shard in &mut self.shards {
                (shard.visited, shard.bad) = (0, Skipped::new());
            }
        }
        let shard = &mut self.shards[dataset.shard_number(sample)];
        shard.visited += 1;
        let Some(broken) = broken else {
            self.bad_in_a_row.clear();
            return Ok(());
        };
        for counts in [&mut shard.bad, &mut self.skipped, &mut self.bad_in_a_row] {
            *counts.entry(broken.kind).or_default() += 1;
        }
        match self.skipped.values().sum::<u64>() {
            n if n <= NAMED => self.warnings.push(format!("skipped {}: {broken}", dataset.name(sample))),
            n if n == NAMED + 1 => self.warnings.push("further broken samples are counted, not named".to_owned()),
            _ => {}
        }
        let bad: u64 = shard.bad.values().sum();
        // In f32, in which `max_bad` was rounded: 7 of 10 is not more than 0.7.
        let (of_all, of_visited) = (bad as f32 / shard.samples as f32, bad as f32 / shard.visited as f32);
        if of_all > self.max_bad || (shard.visited >= JUDGED_AFTER && of_visited > (1.0 + self.max_bad) / 2.0) {
            return Err(Error::TooManyBroken {
                shard: dataset.shard(sample).to_owned(),
                bad,
                visited: shard.visited,
                samples: shard.samples,
                max_bad: self.max_bad,
                reasons: format!("{}; the last one is {}: {broken}", summary(&shard.bad), dataset.key(sample)),
            });
        }
        let visited = self.bad_in_a_row.values().sum();
        if visited >= dataset.len() as u64 {
            return Err(Error::NoGoodSample { visited, reasons: summary(&self.bad_in_a_row) });
        }
        Ok(())
    }
}
