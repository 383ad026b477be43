//! Properties of the memory planner.

use proptest::{collection::vec, prelude::*};

use super::planner::{ALIGNMENT, Request, place};
use crate::fuzzing::cases;

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let bytes = prop_oneof![0..4_usize, 0..5000_usize, Just(1 << 30)];
    let request = (bytes, 0..60_usize, 1..30_usize);
    vec(request.prop_map(|(bytes, start, length)| Request { bytes, span: start..start + length }), 0..60)
}

fn padded(request: &Request) -> usize {
    request.bytes.next_multiple_of(ALIGNMENT)
}

proptest! {
    #![proptest_config(cases(256))]

    /// Buffers in use together are apart; the block is at least as large as what is in use at any moment, and at most
    /// as large as all of them; the plan depends on nothing but the requests.
    #[test]
    fn plans_are_sound(requests in requests()) {
        let (offsets, total) = place(&requests);
        prop_assert_eq!((&offsets, total), (&place(&requests).0, place(&requests).1));
        for (a, one) in requests.iter().enumerate() {
            prop_assert!(offsets[a].is_multiple_of(ALIGNMENT) && offsets[a] + one.bytes <= total);
            for (b, other) in requests.iter().enumerate().take(a) {
                let together = one.span.start < other.span.end && other.span.start < one.span.end;
                let apart = offsets[a] + one.bytes <= offsets[b] || offsets[b] + other.bytes <= offsets[a];
                prop_assert!(apart || !together, "{one:?} at {} and {other:?} at {}", offsets[a], offsets[b]);
            }
        }
        let live = |moment: usize| requests.iter().filter(|request| request.span.contains(&moment)).map(padded).sum();
        let peak: usize = (0..90).map(live).max().unwrap_or_default();
        let sum: usize = requests.iter().map(padded).sum();
        prop_assert!((peak..=sum).contains(&total), "{peak} <= {total} <= {sum}");
    }
}
