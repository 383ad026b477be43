//! Orders, without a loader.

use std::collections::HashSet;
use std::sync::Arc;

use super::mix::Mix;
use super::shards::{GROUP, ShardOrder, WINDOW};
use super::*;
use crate::data::dataset::Dataset;
use crate::data::sample::CaptionKeys;
use crate::data::testing::{Archive, png};
use crate::random::{Purpose, Random};

fn dataset(samples: u64) -> (Archive, Arc<Dataset>) {
    let mut archive = Archive::default();
    for number in 0..samples {
        archive.add(&format!("{number}.png"), &png(1, 1, number)).add(&format!("{number}.txt"), b"a");
    }
    let dataset = Arc::new(Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap());
    (archive, dataset)
}

/// The next visits: epoch, sample, and where the stream is after it.
fn visits(visits: &mut GlobalVisits, count: usize) -> Vec<(u64, u64, StreamPosition)> {
    (0..count).map(|_| visits.next()).map(|visit| (visit.epoch, visit.sample, visit.next)).collect()
}

/// The order of a single stream is that of `Random::permutation`, as before there were streams.
#[test]
fn the_global_order_is_one_shuffle_of_all_samples() {
    let (_archive, dataset) = dataset(50);
    let share = Share { stream: 0, streams: 1 };
    let mut stream = GlobalVisits::new(dataset, 3, share, Mix::plain(50), StreamPosition::default());
    for epoch in 0..3 {
        let expected = Random::new(3, Purpose::Shuffle, epoch, 0).permutation(50);
        let found = visits(&mut stream, 50);
        assert!(found.iter().map(|(_, sample, _)| *sample as u32).eq(expected));
        assert!(found.iter().all(|(of, ..)| *of == epoch));
        assert_eq!(found[9].2, StreamPosition { epoch, group: 0, index: 10 });
        assert_eq!(found[49].2, StreamPosition { epoch: epoch + 1, group: 0, index: 0 });
    }
}

#[test]
fn streams_of_the_global_order_resume_anywhere_and_share_each_epoch() {
    let (_archive, dataset) = dataset(7);
    for streams in [1, 2, 3, 5, 9] {
        let mut first_epochs = Vec::new();
        for stream in 0..streams {
            let new = |start| GlobalVisits::new(dataset.clone(), 4, Share { stream, streams }, Mix::plain(7), start);
            let all = visits(&mut new(StreamPosition::default()), 30);
            for done in 0..20 {
                assert_eq!(visits(&mut new(all[done].2), 29 - done), all[done + 1..]);
            }
            first_epochs
                .extend(all.into_iter().filter(|(epoch, ..)| *epoch < 2).map(|(epoch, sample, _)| (epoch, sample)));
        }
        first_epochs.sort_unstable();
        assert!(first_epochs.into_iter().eq((0..2).flat_map(|epoch| (0..7).map(move |sample| (epoch, sample)))));
    }
}

/// Computed by another implementation, in Python. A change would make resumed runs continue with other samples.
#[test]
fn the_order_of_a_group_is_the_same_for_ever() {
    let order = ShardOrder { seed: 1, share: Share { stream: 0, streams: 1 }, mix: Mix::plain(40) };
    assert_eq!((order.groups_in(0), order.group(0, 1)), (3, vec![23, 11, 3, 29, 33, 13, 27, 28, 26, 9, 10, 4, 35]));
    let expected = [(0, 2), (3, 0), (0, 0), (3, 2), (3, 3), (3, 1), (0, 1), (1, 0), (1, 1)];
    assert_eq!(order.visits(0, 1, &[3, 2, 0, 4]), expected);
}

#[test]
fn groups_are_of_about_the_same_size() {
    for shards in 1..100 {
        let order = ShardOrder { seed: 1, share: Share { stream: 0, streams: 1 }, mix: Mix::plain(shards) };
        let sizes: Vec<u64> = (0..order.groups_in(0)).map(|group| order.group(0, group).len() as u64).collect();
        let (min, max) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(max - min <= 1 && *max <= GROUP && sizes.iter().sum::<u64>() == shards, "{sizes:?}");
    }
}

/// Within a group, what is visited at any time lies in a narrow range of each shard, and comes from all of them.
#[test]
fn shards_are_read_from_front_to_back_and_mixed() {
    let order = ShardOrder { seed: 5, share: Share { stream: 0, streams: 1 }, mix: Mix::plain(8) };
    let lengths = [9000; 8];
    let visits = order.visits(3, 0, &lengths);
    assert_eq!(visits.iter().collect::<HashSet<_>>().len(), 72_000);
    for window in visits.chunks_exact(WINDOW / 2) {
        for shard in 0..8 {
            let numbers: Vec<u32> = window.iter().filter(|(of, _)| *of == shard).map(|(_, number)| *number).collect();
            let (min, max) = (numbers.iter().min().unwrap(), numbers.iter().max().unwrap());
            // 512 of each are expected; the window and the draws make it up to three times as wide as that.
            assert!((350..700).contains(&numbers.len()) && max - min < 2500, "{} {min} {max}", numbers.len());
            assert!(!numbers.is_sorted());
        }
    }
    // As a whole, every shard advances evenly: a uniformly random merge stays within a few standard deviations.
    let half = visits[..36_000].iter().filter(|(of, _)| *of == 0).count() as f64;
    assert!((half - 4500.0).abs() < 300.0, "{half}");
    assert_ne!(visits, order.visits(4, 0, &lengths));
}
