//! A fuzz target of this room. See `crate::fuzzing`.

use super::{curve, metrics};

/// The `metrics.jsonl` of a run that is resumed, and the curve of what is left.
pub fn metrics(bytes: &[u8]) {
    for step in [0, 2, u64::MAX] {
        let (before, after) = metrics::split(bytes, step);
        assert_eq!([before, after].concat(), bytes);
        let history: Vec<_> = metrics::history(before);
        assert!(curve::svg("a run", &history).ends_with("</svg>\n"));
    }
}
