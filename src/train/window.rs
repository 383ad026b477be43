//! The steps between two lines of metrics.

use std::time::{Duration, Instant};

use crate::cpu_time;

/// Sums since the last line of metrics.
#[derive(Default)]
pub(super) struct Window {
    pub(super) steps: u64,
    pub(super) loss: f64,
    pub(super) accuracy: f64,
    pub(super) grad_norm: f64,
    pub(super) waited: Duration,
    pub(super) time: Duration,
    /// Time that all threads of the process computed.
    pub(super) computed: Duration,
}

impl Window {
    /// Adds what has passed since `start`, and returns it.
    pub(super) fn add(&mut self, start: Start) -> Duration {
        let time = start.time.elapsed();
        self.time += time;
        self.computed += cpu_time::of_process().saturating_sub(start.computed);
        time
    }
}

/// The start of a step.
pub(super) struct Start {
    time: Instant,
    computed: Duration,
}

impl Start {
    pub(super) fn now() -> Self {
        Self { time: Instant::now(), computed: cpu_time::of_process() }
    }
}
