//! Properties of the order of samples.

use proptest::prelude::*;

use super::order::{Position, Visits};
use crate::fuzzing::cases;

proptest! {
    #![proptest_config(cases(256))]

    /// Each sample once in every epoch, and from any position the same visits as without a stop.
    #[test]
    fn a_resumed_order_goes_on_as_the_whole_one(
        seed in any::<u64>(),
        len in 1..120_usize,
        epoch in 0..1_u64 << 30,
        stop in 0..240_usize,
    ) {
        let mut whole = Visits::new(seed, len, Position { epoch, index: 0 });
        let visits: Vec<_> = (0..2 * len).map(|_| whole.next()).collect();
        for pass in visits.chunks(len) {
            let mut samples: Vec<u64> = pass.iter().map(|visit| visit.sample).collect();
            samples.sort_unstable();
            prop_assert!(samples.into_iter().eq(0..len as u64));
        }
        let stop = stop % visits.len();
        let mut resumed = Visits::new(seed, len, visits[stop].at);
        prop_assert!(visits[stop..].iter().all(|visit| resumed.next() == *visit));
    }
}
