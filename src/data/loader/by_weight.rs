//! What the loader promises about sources with weights, in both orders.

use std::collections::{BTreeMap, BTreeSet};

use super::by_shard::{Shards, start, with_streams};
use super::tests::{batches, tokenizer};
use super::*;
use crate::data::dataset::{Order, ShardList};
use crate::data::sample::CaptionKeys;
use crate::data::sample::image::Decoding;

/// Sources with these numbers of shards, one after the other.
fn open(shards: &Shards, sources: &[usize], order: Order) -> TrainingData {
    let mut first = 0;
    let specs: Vec<String> = sources
        .iter()
        .map(|count| {
            first += count;
            let path = shards.path(first - count).display().to_string();
            path.replace(".tar", "}.tar")
                .replace(&format!("{:03}}}", first - count), &format!("{{{:03}..{:03}}}", first - count, first - 1))
        })
        .collect();
    let (keys, decoding) = (CaptionKeys::default(), Decoding::default());
    TrainingData::open(&[specs.join("::")], keys, decoding, order, None).unwrap()
}

fn weighted(weights: &[f64], streams: usize) -> LoaderConfig {
    LoaderConfig { weights: weights.to_vec(), ..with_streams(streams, streams, 2) }
}

/// How often each shard's samples are visited in some epochs: the counts of each sample by shard.
fn visits(data: &TrainingData, config: &LoaderConfig, epochs: u64) -> BTreeMap<u32, Vec<u64>> {
    let mut loader = start(data, config);
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    let mut done = vec![0; config.streams];
    while done.iter().any(|&epoch| epoch < epochs) {
        let batch = loader.next_batch().unwrap();
        for (stream, (&sample, next)) in batch.samples.iter().zip(&batch.next.streams).enumerate() {
            if done[stream] < epochs {
                *counts.entry(sample).or_default() += 1;
            }
            done[stream] = next.epoch;
        }
    }
    let mut by_shard: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    counts.iter().for_each(|(&sample, &count)| by_shard.entry(data.shard_number(sample)).or_default().push(count));
    by_shard
}

const LENGTHS: [u64; 7] = [3, 1, 4, 2, 5, 2, 3];

#[test]
fn each_sample_is_visited_as_often_as_its_weight_says() {
    let shards = Shards::new(&LENGTHS, 0);
    for order in [Order::Global, Order::Shards] {
        let data = open(&shards, &[2, 5], order);
        for (streams, epochs) in [(1, 1), (1, 3), (2, 1), (3, 2)] {
            let config = weighted(&[3.0, 1.0], streams);
            let found = visits(&data, &config, epochs);
            for (shard, &len) in LENGTHS.iter().enumerate() {
                let weight = if shard < 2 { 3 } else { 1 };
                assert_eq!(found[&(shard as u32)], vec![weight * epochs; len as usize], "{order:?} {streams} {shard}");
            }
            assert_eq!(config.epoch(&data).unwrap().samples, Some(3 * 4 + 16));
        }
    }
}

/// 2.4 of five shards are two more visits in each epoch: after five epochs, all are equal again. In the global order
/// the same holds by samples.
#[test]
fn fractions_go_round() {
    let shards = Shards::new(&LENGTHS, 0);
    let data = open(&shards, &[2, 5], Order::Shards);
    let config = weighted(&[0.5, 2.4], 2);
    let whole = visits(&data, &config, 10);
    assert!((0..2).all(|shard| whole[&shard].iter().all(|&count| count == 5)), "{whole:?}");
    assert!((2..7).all(|shard| whole[&shard].iter().all(|&count| count == 24)), "{whole:?}");
    let one = visits(&data, &config, 1);
    let often = (2..7).filter(|shard| one[shard].iter().all(|&count| count == 3)).count();
    assert_eq!((often, one.range(..2).count()), (2, 1), "{one:?}");
    let data = open(&shards, &[2, 5], Order::Global);
    let one = visits(&data, &config, 1);
    let sums: Vec<u64> = one.values().map(|counts| counts.iter().sum()).collect();
    assert_eq!((sums.iter().sum::<u64>(), one[&0].len() + one.get(&1).map_or(0, Vec::len)), (2 + 38, 2));
    assert!((2..7).all(|shard| one[&shard].iter().all(|&count| count == 2 || count == 3)), "{one:?}");
}

/// Weights of 1 are no weights.
#[test]
fn weights_of_one_change_no_bit() {
    let shards = Shards::new(&LENGTHS, 1);
    for order in [Order::Global, Order::Shards] {
        let [one, two] = [&[7][..], &[3, 4]].map(|sources| open(&shards, sources, order));
        let plain = batches(&mut start(&one, &weighted(&[], 2)), 30);
        assert_eq!(batches(&mut start(&two, &weighted(&[1.0, 1.0], 2)), 30), plain);
    }
}

#[test]
fn the_copies_of_a_sample_have_other_crops_masks_and_captions() {
    let shards = Shards::new(&[6, 6], 0);
    for (order, resample) in [(Order::Global, false), (Order::Shards, false), (Order::Shards, true)] {
        let data = open(&shards, &[1, 1], order);
        let config = LoaderConfig { resample, batch: 24, ..weighted(&[3.0, 1.0], 1) };
        let batch = batches(&mut start(&data, &config), 1).remove(0);
        let [image, kept] = [batch.images.len(), batch.ids_keep.len()].map(|len| len / 24);
        let rows: BTreeSet<(u64, &[u8], &[u32])> = (0..24)
            .map(|at| (batch.samples[at], &batch.images[at * image..][..image], &batch.ids_keep[at * kept..][..kept]))
            .collect();
        let masks: BTreeSet<&[u32]> = rows.iter().map(|(.., ids)| *ids).collect();
        assert_eq!((rows.len(), masks.len()), (24, 24), "{order:?}");
        let captions: BTreeSet<&[i32]> = batch.tokens.chunks(6).collect();
        assert!(captions.len() > 12, "tags follow half of the captions: {}", captions.len());
    }
}

/// With broken samples, any number of threads, and draws too.
#[test]
fn weighted_streams_resume_from_every_batch_to_the_bit() {
    let shards = Shards::new(&LENGTHS, 1);
    for (order, resample) in
        [(Order::Global, false), (Order::Shards, false), (Order::Global, true), (Order::Shards, true)]
    {
        let data = open(&shards, &[2, 5], order);
        for streams in [1, 3, 12] {
            let config = LoaderConfig { resample, ..weighted(&[1.5, 0.6], streams) };
            let whole = batches(&mut start(&data, &config), 40);
            let threads = LoaderConfig { threads: 5, prefetch: 4, ..config.clone() };
            assert_eq!(batches(&mut start(&data, &threads), 40), whole);
            for done in 1..36 {
                let from = serde_json::from_str(&serde_json::to_string(&whole[done - 1].next).unwrap()).unwrap();
                let mut resumed = Loader::new(data.clone(), tokenizer(), config.clone(), from).unwrap();
                assert_eq!(batches(&mut resumed, 4), whole[done..done + 4], "{order:?} {streams} {done}");
            }
        }
    }
}

/// Shards are drawn by the weights of their sources, samples too; five standard deviations.
#[test]
fn draws_are_independent() {
    let shards = Shards::new(&[2; 8], 0);
    for order in [Order::Global, Order::Shards] {
        let data = open(&shards, &[2, 6], order);
        let config = LoaderConfig { resample: true, ..weighted(&[3.0, 1.0], 1) };
        assert_eq!(config.epoch(&data).unwrap().samples, Some(24));
        let samples: Vec<u64> =
            batches(&mut start(&data, &config), 1200).into_iter().flat_map(|batch| batch.samples).collect();
        let shard = |sample: u64| if order == Order::Shards { ShardList::place(sample).0 as u64 } else { sample / 2 };
        let first = samples.iter().filter(|&&sample| shard(sample) < 2).count() as f64;
        // Pairs of samples are drawn together in the order of shards.
        let deviation = (1200.0_f64 * 2.0 * 0.25).sqrt();
        assert!((first - 600.0).abs() < 5.0 * deviation, "{order:?} {first}");
        let epoch: BTreeSet<u64> = samples[..24].iter().copied().collect();
        assert!(epoch.len() < 16, "some are drawn twice, and others not at all");
    }
}

#[test]
fn weights_are_checked_against_the_sources() {
    let shards = Shards::new(&LENGTHS, 0);
    let data = open(&shards, &[2, 5], Order::Shards);
    let error = |weights: &[f64]| {
        Loader::new(data.clone(), tokenizer(), weighted(weights, 1), Position::start(1)).unwrap_err().to_string()
    };
    assert!(error(&[1.0]).contains("data has 2 sources") && error(&[1.0, -1.0]).contains("weight = -1"));
    let notes = weighted(&[0.6, 1.0], 1).epoch(&data).unwrap().notes.join("\n");
    assert!(notes.contains("source 1 has 2 shards, so its weight of 0.6 becomes 0.500"), "{notes}");
    assert!(notes.contains("an epoch has 6 visits of shards"), "{notes}");
}
