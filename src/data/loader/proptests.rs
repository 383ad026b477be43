//! Properties of the order of samples.

use proptest::prelude::*;

use super::order::mix::Mix;
use super::order::shards::ShardOrder;
use super::order::{Position, Share, StreamPosition};
use crate::fuzzing::cases;

/// The visits of a stream in some epochs: shard and sample.
fn visits(order: &ShardOrder, lengths: &[u64], epochs: std::ops::Range<u64>) -> Vec<(u32, u32)> {
    let mut all = Vec::new();
    for epoch in epochs {
        for group in 0..order.groups_in(epoch) {
            let shards = order.group(epoch, group);
            let of_group: Vec<u64> = shards.iter().map(|&shard| lengths[shard as usize]).collect();
            let visits = order.visits(epoch, group, &of_group);
            all.extend(visits.into_iter().map(|(slot, sample)| (shards[slot as usize], sample)));
        }
    }
    all
}

proptest! {
    #![proptest_config(cases(256))]

    /// All streams together take every item of an epoch once, and none gets ahead of another by more than one.
    #[test]
    fn streams_share_what_there_is(streams in 1..9_u64, len in 0..40_u64, epoch in any::<u64>()) {
        let mut taken = Vec::new();
        let mut counts = vec![0; streams as usize];
        for epoch in epoch % (1 << 40)..epoch % (1 << 40) + streams {
            for stream in 0..streams {
                let share = Share { stream, streams };
                let count = share.count(epoch, len);
                counts[stream as usize] += count;
                taken.extend((0..count).map(|index| (epoch, share.item(epoch, len, index))));
            }
        }
        taken.sort_unstable();
        taken.dedup();
        prop_assert_eq!(taken.len() as u64, streams * len);
        prop_assert!(taken.iter().all(|(_, item)| *item < len));
        prop_assert!(counts.iter().all(|&count| count == len), "after as many epochs all have the same: {:?}", counts);
    }

    /// Shard by shard, all streams together visit each sample once in every epoch.
    #[test]
    fn every_epoch_by_shard_holds_every_sample_once(
        seed in any::<u64>(),
        lengths in proptest::collection::vec(0..30_u64, 1..60),
        streams in 1..9_u64,
        epoch in 0..1_u64 << 28,
    ) {
        let mut found = Vec::new();
        for stream in 0..streams {
            let order = ShardOrder { seed, share: Share { stream, streams }, mix: Mix::plain(lengths.len() as u64) };
            found.extend(visits(&order, &lengths, epoch..epoch + 1));
        }
        found.sort_unstable();
        let all = lengths.iter().enumerate().flat_map(|(shard, &len)| (0..len as u32).map(move |at| (shard as u32, at)));
        prop_assert!(found.into_iter().eq(all));
    }

    /// A position survives its JSON, and that of a single stream in the global order is as it always was.
    #[test]
    fn positions_survive_json(streams in proptest::collection::vec((any::<u64>(), 0..3_u64, any::<u64>()), 1..4)) {
        let streams = streams.into_iter().map(|(epoch, group, index)| StreamPosition { epoch, group, index }).collect();
        let position = Position { streams };
        let text = serde_json::to_string(&position).unwrap();
        prop_assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), position.clone());
        if let [StreamPosition { epoch, group: 0, index }] = position.streams[..] {
            prop_assert_eq!(text, format!("{{\"epoch\":{epoch},\"index\":{index}}}"));
        }
    }
}
