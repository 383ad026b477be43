//! Counts what all streams found, on all ranks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::limit::{BadShards, Counts, Limit, Skipped};
use super::order::Position;
use super::tally::{Tally, What};
use crate::data::broken::Kind;
use crate::data::error::Result;

/// Shards with many broken samples that are named.
const MAX_SHARDS_NAMED: usize = 5;

/// What a run found in its data, for its checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Broken samples so far.
    pub skipped: Skipped,
    /// Each epoch that is not over.
    epochs: BTreeMap<u64, Counts>,
}

impl Found {
    /// Whether nothing was found yet.
    pub fn is_empty(&self) -> bool {
        self.skipped.is_empty() && self.epochs.is_empty()
    }

    /// Adds what streams found.
    pub(crate) fn add(&mut self, tallies: impl IntoIterator<Item = Tally>) {
        for tally in tallies {
            let (epoch, Some(what)) = (tally.epoch(), tally.what()) else { continue };
            self.epochs.entry(epoch).or_default().add(what, tally.count());
            if let What::Bad { kind, .. } = what {
                *self.skipped.entry(kind).or_default() += tally.count();
            }
        }
    }

    /// Forgets epochs that all streams have left.
    pub(crate) fn forget_before(&mut self, epoch: u64) {
        self.epochs.retain(|&other, _| other >= epoch);
    }
}

/// What all streams found in each epoch that is not over. A stream with many broken samples, or with small shards, may
/// be some epochs ahead of others.
#[derive(Debug)]
pub(super) struct Totals {
    limit: Limit,
    found: Found,
    /// Bad samples by shard in each of these epochs, since the process began.
    shards: BTreeMap<u64, BadShards>,
    /// The epoch of each stream.
    streams: Vec<u64>,
    named: BTreeSet<u32>,
    warnings: Vec<String>,
}

impl Totals {
    pub(super) fn new(limit: Limit, start: &Position) -> Self {
        Self {
            found: Found { skipped: limit.lost(), ..Found::default() },
            shards: BTreeMap::new(),
            streams: start.streams.iter().map(|stream| stream.epoch).collect(),
            named: BTreeSet::new(),
            warnings: Vec::new(),
            limit,
        }
    }

    pub(super) fn found(&self) -> &Found {
        &self.found
    }

    /// Goes on from what was found before the run was resumed.
    pub(super) fn resume(&mut self, found: Found) {
        if !found.is_empty() {
            self.found = found;
            self.found.epochs.values_mut().for_each(|counts| counts.is_resumed = true);
        }
    }

    /// A warning for the first few shards whose share of bad samples is above the limit.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Adds what streams found in a batch. Checks it only if there is news, as several ranks exchange it only then.
    ///
    /// # Errors
    /// [`crate::data::DataError::TooManyBroken`] if more were broken in an epoch than the limit allows.
    pub(super) fn add(&mut self, tallies: impl Iterator<Item = Tally> + Clone) -> Result<()> {
        self.found.add(tallies.clone());
        for tally in tallies.clone() {
            if let Some(at) = self.streams.get_mut(tally.stream()) {
                *at = tally.epoch().max(*at);
            }
            match tally.what() {
                Some(What::Opened { shard } | What::Known { shard }) => self.limit.learn(shard, tally.count()),
                Some(What::Bad { kind, shard }) if kind != Kind::LostSample => {
                    *self.shards.entry(tally.epoch()).or_default().entry(shard).or_default() += tally.count();
                    self.warn_of(tally.epoch(), shard);
                }
                _ => {}
            }
        }
        let is_news = tallies.clone().any(|tally| tally.is_news());
        let (mut epochs, none) = (self.found.epochs.iter().filter(|_| is_news), BadShards::new());
        let shards = |epoch| self.shards.get(epoch).unwrap_or(&none);
        let checked = epochs.try_for_each(|(epoch, counts)| self.limit.check(counts, shards(epoch), None));
        let over = self.streams.iter().min().copied().unwrap_or_default();
        self.found.forget_before(over);
        self.shards.retain(|&epoch, _| epoch >= over);
        checked
    }

    fn warn_of(&mut self, epoch: u64, shard: u32) {
        let bad = self.shards.get(&epoch).and_then(|shards| shards.get(&shard).copied());
        let may_be_named = self.named.len() < MAX_SHARDS_NAMED && !self.named.contains(&shard);
        if let Some(warning) = self.limit.warning(shard, bad.unwrap_or_default()).filter(|_| may_be_named) {
            self.named.insert(shard);
            self.warnings.push(warning);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use super::super::by_shard::Shards;
    use super::super::tests::{add, config, tokenizer};
    use super::super::{Loader, LoaderConfig};
    use super::*;
    use crate::data::testing::Archive;
    use crate::data::{CaptionKeys, DataError, Dataset, TrainingData};

    /// `samples` samples in two shards, of which every `every`-th is broken.
    fn dataset(samples: u64, every: u64) -> TrainingData {
        let shard = |numbers: Range<u64>| {
            let mut archive = Archive::default();
            for number in numbers {
                if number % every > 0 {
                    add(&mut archive, number);
                } else {
                    archive.add(&format!("{number}.png"), b"no image").add(&format!("{number}.txt"), b"name");
                }
            }
            archive
        };
        let shards = [shard(0..samples / 2), shard(samples / 2..samples)];
        Arc::new(Dataset::open(&shards.each_ref().map(Archive::file), CaptionKeys::default()).unwrap()).into()
    }

    /// The batches of `ranks` loaders that share the streams, and how they end.
    fn batches_of(data: &TrainingData, config: &LoaderConfig, ranks: usize) -> (usize, Skipped, Option<String>, usize) {
        let start = Position::start(config.streams);
        let each = config.streams / ranks;
        let loader = |rank: usize| {
            let own = rank * each..(rank + 1) * each;
            Loader::of_streams(data.clone(), tokenizer(), config.clone(), start.clone(), own).unwrap()
        };
        let mut loaders: Vec<Loader> = (0..ranks).map(loader).collect();
        let mut warnings = 0;
        for batch in 0..60 {
            let made = loaders.iter_mut().map(|loader| loader.next_batch().err());
            let mut error: Vec<_> = made.collect::<Vec<_>>().into_iter().flatten().collect();
            if ranks > 1 {
                let tallies: Vec<Tally> = loaders.iter().flat_map(|loader| loader.pending()).collect();
                if tallies.iter().any(Tally::is_news) {
                    error.extend(loaders.iter_mut().filter_map(|loader| loader.count(&tallies).err()));
                }
            }
            let skipped = loaders[0].skipped();
            assert!(loaders.iter().all(|loader| loader.skipped() == skipped), "all have counted the same");
            let of_shards = |loader: &mut Loader| {
                loader.take_warnings().iter().filter(|warning| warning.contains("many samples of")).count()
            };
            warnings += loaders.iter_mut().map(of_shards).sum::<usize>();
            if let Some(error) = error.first() {
                assert!(matches!(error, DataError::TooManyBroken { .. } | DataError::NoGoodSample { .. }), "{error}");
                return (batch, skipped, Some(error.to_string()), warnings);
            }
        }
        (60, loaders[0].skipped(), None, warnings)
    }

    /// Streams come to different epochs, since each skips its own broken samples.
    #[test]
    fn a_good_run_is_not_stopped_however_many_streams_it_has() {
        let data = dataset(40, 14);
        for (streams, max_bad) in [(1, 0.075), (2, 0.075), (8, 0.075), (2, 1.0), (8, 1.0)] {
            let config = LoaderConfig { streams, max_bad, ..config(32, 2) };
            for ranks in [1, 2, 8].into_iter().filter(|ranks| streams % ranks == 0) {
                let (batches, skipped, error, _) = batches_of(&data, &config, ranks);
                assert_eq!((batches, error), (60, None), "{streams} streams, {ranks} ranks");
                // 60 batches of 32 are 52 epochs of the 37 good ones.
                let skipped: u64 = skipped.values().sum();
                assert!((3 * 51..=3 * 53).contains(&skipped), "{skipped}");
            }
        }
    }

    #[test]
    fn too_many_broken_samples_stop_at_the_same_batch_on_any_number_of_ranks() {
        for (samples, every, max_bad) in [(40, 13, 0.08), (100, 4, 0.2), (2000, 3, 0.1), (600, 5, 0.14)] {
            let data = dataset(samples, every);
            for streams in [1, 4] {
                let config = LoaderConfig { streams, max_bad, ..config(8, 2) };
                let (batch, skipped, error, warnings) = batches_of(&data, &config, 1);
                let error = error.unwrap_or_else(|| panic!("{samples} samples, {streams} streams"));
                assert!(batch > 0 && error.contains("the worst shard"), "{batch}: {error}");
                for ranks in [2, 4].into_iter().filter(|_| streams == 4) {
                    let found = batches_of(&data, &config, ranks);
                    assert_eq!(found, (batch, skipped.clone(), Some(error.clone()), warnings), "{samples}");
                }
            }
        }
    }

    /// The numbers of samples are not known before the shards are opened.
    #[test]
    fn shards_stop_at_the_same_batch_on_any_number_of_ranks() {
        for (bad, unusable, max_bad) in
            [(0..8, 0..0, 0.3), (0..4, 10..16, 0.2), (0..30, 0..0, 0.4), (0..2, 20..22, 0.06)]
        {
            let shards = Shards::new(&[6; 60], 0);
            for shard in bad.clone() {
                let mut archive = Archive::default();
                for number in 0..12 {
                    archive.add(&format!("{number}.png"), b"no image").add(&format!("{number}.txt"), b"name");
                }
                std::fs::copy(archive.file(), shards.path(shard)).unwrap();
            }
            unusable.clone().for_each(|shard| std::fs::write(shards.path(shard), b"<html>404</html>").unwrap());
            let data = shards.open();
            for streams in [1, 4] {
                let config = LoaderConfig { streams, max_bad, ..config(8, 2) };
                let expected = batches_of(&data, &config, 1);
                assert_eq!(expected.2.is_some(), bad.len() != 8, "{bad:?} {unusable:?}: {expected:?}");
                for ranks in [2, 4].into_iter().filter(|_| streams == 4) {
                    assert_eq!(batches_of(&data, &config, ranks), expected, "{bad:?}, {unusable:?}");
                }
            }
        }
    }

    /// A stream whose only shard of an epoch is lost comes to the next epoch before it visits a sample.
    #[test]
    fn what_is_lost_belongs_to_its_epoch() {
        let shards = Shards::new(&[6; 8], 0);
        [1, 5].into_iter().for_each(|shard| std::fs::write(shards.path(shard), b"<html>404</html>").unwrap());
        let data = shards.open();
        for streams in [1, 2, 4, 8] {
            let config = LoaderConfig { streams, max_bad: 0.26, ..config(8, 2) };
            for ranks in [1, 2].into_iter().filter(|&ranks| ranks <= streams) {
                let (batches, skipped, error, _) = batches_of(&data, &config, ranks);
                assert_eq!((batches, error), (60, None), "{streams} streams");
                // 480 samples are 13.3 epochs.
                assert!((12 * 12..=15 * 12).contains(&skipped[&Kind::LostSample]), "{streams}: {skipped:?}");
            }
            let stops = batches_of(&data, &LoaderConfig { max_bad: 0.24, ..config }, 1);
            assert!(stops.2.is_some() && stops.0 < 6, "{streams}: {stops:?}");
        }
    }

    /// A checkpoint has the counts of an epoch, and not those of each shard.
    #[test]
    fn the_worst_shard_is_counted_since_the_resume() {
        let data = dataset(100, 4);
        let config = LoaderConfig { streams: 4, max_bad: 0.2, ..config(8, 2) };
        let loader = |start| Loader::new(data.clone(), tokenizer(), config.clone(), start).unwrap();
        let end = |mut loader: Loader| loop {
            if let Err(error) = loader.next_batch() {
                return error.to_string();
            }
        };
        assert!(!end(loader(Position::start(4))).contains("since the resume"));
        let mut first = loader(Position::start(4));
        let batch = first.next_batch().unwrap();
        let mut resumed = loader(batch.next);
        resumed.resume(first.found().clone());
        let error = end(resumed);
        assert!(error.contains(" of its 50 since the resume)"), "{error}");
    }

    #[test]
    fn only_what_is_not_over_is_kept() {
        let data = dataset(40, 14);
        let config = LoaderConfig { streams: 4, max_bad: 1.0, ..config(4, 2) };
        let mut loader = Loader::new(data, tokenizer(), config, Position::start(4)).unwrap();
        for _ in 0..400 {
            loader.next_batch().unwrap();
            assert!(loader.totals.found.epochs.len() < 8);
        }
        assert!(loader.passes() > 30.0);
    }
}
