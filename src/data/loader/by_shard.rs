//! What the loader promises in the order of shards, and with several streams.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::tests::{add, batches, config, tokenizer};
use super::*;
use crate::data::broken::Kind;
use crate::data::dataset::{Order, ShardList};
use crate::data::sample::CaptionKeys;
use crate::data::sample::image::Decoding;
use crate::data::testing::Archive;

/// Shards with these numbers of samples in a folder; `broken` ones are added to the first.
pub(super) struct Shards {
    folder: tempfile::TempDir,
    lengths: Vec<u64>,
}

impl Shards {
    pub(super) fn new(lengths: &[u64], broken: u64) -> Self {
        let shards = Self { folder: tempfile::tempdir().unwrap(), lengths: lengths.to_vec() };
        for (shard, &len) in lengths.iter().enumerate() {
            let mut archive = Archive::default();
            for number in 0..len {
                if shard == 0 && number < broken {
                    archive.add(&format!("bad{number}.png"), b"no image").add(&format!("bad{number}.txt"), b"name");
                } else {
                    add(&mut archive, shard as u64 * 100 + number);
                }
            }
            std::fs::copy(archive.file(), shards.path(shard)).unwrap();
        }
        shards
    }

    pub(super) fn path(&self, shard: usize) -> PathBuf {
        self.folder.path().join(format!("{shard:03}.tar"))
    }

    pub(super) fn open(&self) -> TrainingData {
        let specs = [self.folder.path().to_string_lossy()];
        TrainingData::open(&specs, CaptionKeys::default(), Decoding::default(), Order::Shards, None).unwrap()
    }

    /// Every sample, in order.
    fn ids(&self) -> Vec<u64> {
        let of = |(shard, &len): (usize, &u64)| (0..len as u32).map(move |number| ShardList::id(shard as u32, number));
        self.lengths.iter().enumerate().flat_map(of).collect()
    }
}

pub(super) fn with_streams(streams: usize, batch: usize, threads: usize) -> LoaderConfig {
    LoaderConfig { streams, max_bad: 1.0, ..config(batch, threads) }
}

pub(super) fn start(data: &TrainingData, config: &LoaderConfig) -> Loader {
    Loader::new(data.clone(), tokenizer(), config.clone(), Position::start(config.streams)).unwrap()
}

/// 42 shards fill several groups per stream; 3 are fewer than five streams.
#[test]
fn batches_depend_on_the_number_of_streams_alone() {
    for lengths in [&[3, 1, 4, 1, 5, 9, 2][..], &[13, 4, 6], &[2; 42]] {
        let shards = Shards::new(lengths, 1);
        let data = shards.open();
        let mut orders = Vec::new();
        for streams in [1, 2, 3, 5] {
            let batch = 2 * streams;
            let expected = batches(&mut start(&data, &with_streams(streams, batch, 1)), 12);
            for threads in [2, 7] {
                let config = LoaderConfig { prefetch: threads, ..with_streams(streams, batch, threads) };
                assert_eq!(batches(&mut start(&data, &config), 12), expected, "{lengths:?} {streams} {threads}");
            }
            orders.push(expected.iter().flat_map(|batch| batch.samples.clone()).take(10).collect::<Vec<_>>());
        }
        orders.dedup();
        assert_eq!(orders.len(), 4);
    }
}

/// Visits are counted through the broken samples too, which `passes` shows.
#[test]
fn every_stream_resumes_from_every_batch_to_the_bit() {
    for lengths in [&[3, 1, 4, 1, 5, 9, 2][..], &[13, 4, 6], &[1; 40]] {
        let shards = Shards::new(lengths, 1);
        let data = shards.open();
        for streams in [1, 2, 3, 5] {
            let config = with_streams(streams, streams, 2);
            let whole = batches(&mut start(&data, &config), 50);
            for done in 1..40 {
                let saved = serde_json::to_string(&whole[done - 1].next).unwrap();
                let from = serde_json::from_str(&saved).unwrap();
                let mut resumed = Loader::new(data.clone(), tokenizer(), config.clone(), from).unwrap();
                assert_eq!(batches(&mut resumed, 4), whole[done..done + 4], "{lengths:?} {streams} {done}");
            }
        }
    }
}

#[test]
fn every_epoch_visits_every_sample_once() {
    let shards = Shards::new(&[3, 1, 4, 1, 5, 9, 2, 5, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8], 0);
    let data = shards.open();
    for streams in [1, 2, 3, 5] {
        let mut loader = start(&data, &with_streams(streams, streams, 2));
        // The samples of each stream's first epoch.
        let (mut seen, mut ended) = (Vec::new(), vec![false; streams]);
        while !ended.iter().all(|&ended| ended) {
            let batch = loader.next_batch().unwrap();
            for (stream, (&sample, next)) in batch.samples.iter().zip(&batch.next.streams).enumerate() {
                if !ended[stream] {
                    seen.push(sample);
                }
                ended[stream] = next.epoch > 0;
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, shards.ids(), "{streams} streams");
        assert!((0.9..1.3).contains(&loader.passes()), "{}", loader.passes());
    }
}

/// 1,003 samples, two of them broken, in eight streams of as many ranks as divide them.
#[test]
fn any_number_of_ranks_visits_every_sample_once() {
    let shards = Shards::new(&[17; 59], 2);
    for ranks in [1, 2, 4, 8] {
        let mut seen = Vec::new();
        for rank in 0..ranks {
            let own = rank * 8 / ranks..(rank + 1) * 8 / ranks;
            let (data, config) = (shards.open(), with_streams(8, 8, 2));
            let mut loader = Loader::of_streams(data, tokenizer(), config, Position::start(8), own.clone()).unwrap();
            let mut ended = vec![false; own.len()];
            while !ended.iter().all(|&ended| ended) {
                let batch = loader.next_batch().unwrap();
                let streams = &batch.next.streams[own.clone()];
                for (ended, (&sample, next)) in ended.iter_mut().zip(batch.samples.iter().zip(streams)) {
                    if !*ended {
                        seen.push(sample);
                    }
                    *ended = next.epoch > 0;
                }
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, shards.ids()[2..], "{ranks} ranks");
    }
}

/// The rows of a stream do not depend on broken samples of the others.
#[test]
fn a_broken_sample_moves_only_its_own_stream() {
    let lengths = [12, 12, 12, 12];
    let [whole, broken] = [0, 3].map(|broken| Shards::new(&lengths, broken));
    let order = |shards: &Shards| {
        let mut streams = vec![Vec::new(), Vec::new()];
        for batch in batches(&mut start(&shards.open(), &with_streams(2, 4, 2)), 5) {
            streams[0].extend_from_slice(&batch.samples[..2]);
            streams[1].extend_from_slice(&batch.samples[2..]);
        }
        streams
    };
    let [whole, broken] = [&whole, &broken].map(order);
    let has_first = |samples: &[u64]| samples.iter().any(|&sample| sample < 3);
    for (whole, broken) in whole.iter().zip(&broken) {
        assert_eq!(whole == broken, !has_first(whole));
        let kept: Vec<u64> = whole.iter().copied().filter(|&sample| sample >= 3).collect();
        assert_eq!(kept, broken[..kept.len()]);
    }
    assert!(whole.iter().any(|samples| has_first(samples)) && whole.iter().any(|samples| !has_first(samples)));
}

/// What several processes would do: each has the rows of its streams, and opens only their shards.
#[test]
fn some_streams_can_be_taken_alone() {
    let shards = Shards::new(&[12; 60], 1);
    let cache = shards.folder.path().join("counts");
    let config = with_streams(4, 8, 2);
    let whole = batches(&mut start(&shards.open(), &config), 9);
    let mut opened = Vec::new();
    for own in [0..1, 1..4] {
        let data = shards.open();
        data.write_counts(cache.join(format!("{}.tsv", own.start)));
        let mut loader =
            Loader::of_streams(data.clone(), tokenizer(), config.clone(), Position::start(4), own.clone()).unwrap();
        for (batch, whole) in batches(&mut loader, 9).iter().zip(&whole) {
            let rows = 2 * own.start..2 * own.end;
            assert_eq!(batch.samples, whole.samples[rows.clone()]);
            let image = whole.images.len() / whole.samples.len();
            assert_eq!(batch.images, whole.images[rows.start * image..rows.end * image]);
            assert_eq!(batch.next.streams[own.clone()], whole.next.streams[own.clone()]);
        }
        opened.push(std::fs::read_to_string(cache.join(format!("{}.tsv", own.start))).unwrap().lines().count());
        let none = Loader::of_streams(data, tokenizer(), config.clone(), Position::start(4), 3..5).unwrap_err();
        assert!(none.to_string().contains("3..5"), "{none}");
    }
    assert!(opened[0] <= 30 && opened[1] >= 45, "of 60, two groups of 15 per stream: {opened:?}");
}

/// Crops, masks and captions of a sample do not depend on what is in other shards.
#[test]
fn a_sample_is_the_same_whatever_other_shards_hold() {
    let rows = |lengths: &[u64]| -> BTreeMap<u64, (Vec<u8>, Vec<u32>)> {
        let shards = Shards::new(lengths, 0);
        let samples = lengths.iter().sum::<u64>() as usize;
        let batch = batches(&mut start(&shards.open(), &with_streams(1, samples, 2)), 1).remove(0);
        let [image, kept] = [batch.images.len(), batch.ids_keep.len()].map(|len| len / samples);
        let row = |(at, &sample): (usize, &u64)| {
            let image = batch.images[at * image..][..image].to_vec();
            (sample, (image, batch.ids_keep[at * kept..][..kept].to_vec()))
        };
        batch.samples.iter().enumerate().map(row).collect()
    };
    let (few, many) = (rows(&[4, 3]), rows(&[9, 3]));
    assert!((few.len(), many.len()) == (7, 12) && few.iter().all(|(sample, row)| many[sample] == *row));
}

/// As in the global order, where a shard that is missing ends the run before it starts.
#[test]
fn a_missing_shard_ends_the_run_after_the_batches_before_it() {
    let shards = Shards::new(&[2; 60], 0);
    let data = shards.open();
    let config = with_streams(1, 4, 2);
    let whole: Vec<u64> = batches(&mut start(&data, &config), 15).into_iter().flat_map(|batch| batch.samples).collect();
    // One that is not in the first of four groups.
    let gone = ShardList::place(whole[50]).0 as usize;
    std::fs::remove_file(shards.path(gone)).unwrap();
    let mut loader = start(&data, &config);
    let mut found = Vec::new();
    let error = loop {
        match loader.next_batch() {
            Ok(batch) => found.extend(batch.samples),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("cannot read") && error.contains(&*shards.path(gone).to_string_lossy()), "{error}");
    assert!(found.len() >= 28 && found.len() < 52 && whole.starts_with(&found), "{}", found.len());
    assert!(loader.next_batch().unwrap_err().to_string().contains("ended"));
}

#[test]
fn a_shard_that_is_no_archive_counts_as_lost_samples() {
    let shards = Shards::new(&[4; 60], 0);
    let data = shards.open();
    let config = LoaderConfig { max_bad: 0.5, ..with_streams(1, 4, 2) };
    let mut loader = start(&data, &config);
    let whole: Vec<u64> = batches(&mut loader, 59).into_iter().flat_map(|batch| batch.samples).collect();
    assert!(loader.skipped().is_empty());
    for (at, bytes) in [(100, &b"%PDF-1.4"[..]), (200, b"")] {
        std::fs::write(shards.path(ShardList::place(whole[at]).0 as usize), bytes).unwrap();
    }
    let mut loader = start(&data, &config);
    batches(&mut loader, 58);
    assert_eq!(loader.skipped(), Skipped::from([(Kind::LostSample, 8)]), "about as many as the others have");
    let warnings = loader.take_warnings().join("\n");
    assert!(
        warnings.contains("skipped a shard") && warnings.contains("PDF") && warnings.contains("0 bytes"),
        "{warnings}"
    );
    // All of them.
    (0..60).for_each(|shard| std::fs::write(shards.path(shard), b"%PDF-1.4").unwrap());
    let error = start(&data, &config).next_batch().unwrap_err().to_string();
    assert!(error.contains("no shard has samples") && error.contains("PDF"), "{error}");
}

/// One broken shard does not stop a run on many, and nothing but broken shards does.
#[test]
fn broken_shards_stop_the_run_if_they_are_too_many() {
    let shards = Shards::new(&[1; 200], 0);
    let write = |range: std::ops::Range<usize>| {
        for shard in range {
            let mut archive = Archive::default();
            for number in 0..20 {
                archive.add(&format!("{number}.png"), b"no image").add(&format!("{number}.txt"), b"name");
            }
            std::fs::copy(archive.file(), shards.path(shard)).unwrap();
        }
    };
    write(0..1);
    let data = shards.open();
    let config = LoaderConfig { max_bad: 0.2, ..with_streams(1, 4, 2) };
    batches(&mut start(&data, &config), 40);
    write(0..200);
    let error = start(&data, &config).next_batch().unwrap_err();
    assert!(matches!(error, DataError::TooManyBroken { bad: 100.., visited: ..400, .. }), "{error}");
    assert!(error.to_string().contains("an unknown number in all"), "{error}");
}

/// Of the second group of shards, which is resumed in its middle, three shards are bad.
#[test]
fn a_resumed_run_stops_where_the_whole_one_does() {
    let shards = Shards::new(&[40; 40], 0);
    let data = shards.open();
    let config = LoaderConfig { max_bad: 0.08, ..with_streams(2, 8, 2) };
    let order = batches(&mut start(&data, &config), 160);
    let of_second_group = |batch: &Batch| batch.next.streams[0].group == 1 && batch.next.streams[0].index > 4;
    let middle = order.iter().position(of_second_group).unwrap();
    let bad: std::collections::BTreeSet<u32> =
        order[middle].samples[..4].iter().map(|&sample| ShardList::place(sample).0).collect();
    for &shard in bad.iter().take(3) {
        let mut archive = Archive::default();
        for number in 0..40 {
            archive.add(&format!("{number}.png"), b"no image").add(&format!("{number}.txt"), b"name");
        }
        std::fs::copy(archive.file(), shards.path(shard as usize)).unwrap();
    }
    let mut whole = start(&data, &config);
    let mut ends = Vec::new();
    for _ in 0..400 {
        match whole.next_batch() {
            Ok(batch) => ends.push((batch.next, whole.found().clone())),
            Err(error) => panic!("3 of 40 shards are not more than 8 %: {error}"),
        }
    }
    let expected = ends.last().unwrap();
    for (at, found) in ends[..40].iter().step_by(7) {
        let mut resumed = Loader::new(data.clone(), tokenizer(), config.clone(), at.clone()).unwrap();
        resumed.resume(found.clone());
        while resumed.next_batch().unwrap().next != expected.0 {}
        let (mut found, mut whole) = (resumed.found().clone(), expected.1.clone());
        let over = expected.0.streams.iter().map(|stream| stream.epoch).min().unwrap();
        found.forget_before(over);
        whole.forget_before(over);
        assert_eq!(found, whole);
    }
}

#[test]
fn positions_of_other_data_or_streams_are_refused() {
    let shards = Shards::new(&[3; 20], 0);
    let data = shards.open();
    let error = |streams: usize, position: Vec<StreamPosition>| {
        let config = with_streams(streams, 4, 1);
        let loader = Loader::new(data.clone(), tokenizer(), config, Position { streams: position });
        loader.and_then(|mut loader| loader.next_batch()).unwrap_err().to_string()
    };
    let at = |group, index| StreamPosition { epoch: 0, group, index };
    assert!(error(2, vec![at(0, 0)]).contains("streams = 2") && error(3, vec![at(0, 0)]).contains("divide the batch"));
    assert!(error(1, vec![at(2, 0)]).contains("position = 2") && error(1, vec![at(2, 0)]).contains("2 groups"));
    assert!(error(1, vec![at(1, 30)]).contains("position = 30"), "{}", error(1, vec![at(1, 30)]));
}

/// A hang would show as a test that never ends.
#[test]
fn dropped_loaders_close_their_shards() {
    let shards = Shards::new(&[2; 50], 0);
    let data = shards.open();
    for taken in 0..4 {
        let mut loader = start(&data, &with_streams(2, 4, 3));
        batches(&mut loader, taken);
        drop(loader);
        let TrainingData::Listed(list) = &data else { unreachable!("it was opened by shard") };
        assert_eq!(Arc::strong_count(list), 1, "a thread still holds the list");
    }
}
