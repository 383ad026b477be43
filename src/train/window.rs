//! The steps between two lines of metrics.

use std::time::{Duration, Instant};

use crate::cpu_time;
use crate::group::Group;

/// Sums since the last line of metrics.
#[derive(Default)]
pub(super) struct Window {
    pub(super) steps: u64,
    pub(super) loss: f64,
    pub(super) accuracy: f64,
    pub(super) grad_norm: f64,
    pub(super) waited: Duration,
    pub(super) time: Duration,
    /// The part of `time` in which it waited neither for data nor for other ranks.
    pub(super) busy: Duration,
    /// Time that all threads of the process computed.
    pub(super) computed: Duration,
}

impl Window {
    /// Adds what has passed since `start`, and returns it.
    pub(super) fn add(&mut self, group: &dyn Group, start: Start) -> Duration {
        let time = start.time.elapsed();
        self.time += time;
        self.waited += start.for_data;
        self.busy += time.saturating_sub(start.for_data + (group.waited() - start.for_ranks));
        self.computed += cpu_time::of_process().saturating_sub(start.computed);
        time
    }
}

/// The start of a step.
pub(super) struct Start {
    time: Instant,
    computed: Duration,
    /// The time that this rank had waited for others before.
    for_ranks: Duration,
    /// How long the step waited for its batch.
    for_data: Duration,
}

impl Start {
    pub(super) fn now(group: &dyn Group) -> Self {
        let (computed, for_ranks) = (cpu_time::of_process(), group.waited());
        Self { time: Instant::now(), computed, for_ranks, for_data: Duration::ZERO }
    }

    /// The batch that the step has waited for is there.
    pub(super) fn has_data(&mut self) {
        self.for_data = self.time.elapsed();
    }
}
