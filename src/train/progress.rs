//! What a run reports while it trains.

use std::time::Duration;

use super::Metrics;

/// A report of a run in progress; the caller decides how to show it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The number of steps done so far, including one that the device may still compute.
    Step {
        /// Steps done.
        done: u64,
        /// Steps of the whole run.
        total: u64,
    },
    /// A new line of metrics.
    Metrics {
        /// The line.
        metrics: &'a Metrics,
        /// Steps of the whole run.
        total: u64,
        /// Time left, at the mean speed so far.
        left: Duration,
        /// Broken samples that this process skipped so far.
        skipped: u64,
    },
}

/// Receives the reports of a run.
pub type Report<'a> = dyn FnMut(Progress<'_>) + 'a;
