//! Simulates a training step on many ranks, from the times of one rank's ops and a description of the network.
//!
//! | file | what it does |
//! |---|---|
//! | `times` | the times of one rank's step |
//! | `network`, `measure` | how long an exchange takes; measuring a group's network |
//! | `step` | the events of a step |
//! | `traffic`, `memory` | bytes that a rank sends, and that it holds |
//! | `picture` | the events as a picture |
//!
//! All ranks are alike apart from jitter: a step takes as long as its slowest rank. The loader is assumed never to be
//! the bottleneck.

mod measure;
mod memory;
mod network;
mod picture;
mod step;
mod times;
mod traffic;

use serde::Serialize;

pub use self::measure::{Timing, fit, network_of, time_calls};
pub use self::memory::Held;
pub use self::network::{Call, Network, Ring, Size, Tree};
pub use self::picture::svg;
pub use self::step::{Lane, Span};
pub use self::times::{Layer, Measured, Source, StepTimes};
pub use self::traffic::Sent;

use crate::device::DeviceError;
use crate::group::Levels;
use crate::model::Flip;
use crate::train::StepSize;

/// What can be wrong with the input of a simulation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScaleError {
    /// Not a description of a network.
    #[error("{problem}")]
    Network {
        /// What is wrong with it.
        problem: String,
    },
    /// A file without times.
    #[error("neither a profile that --json wrote nor the record of a GPU's measurements")]
    Times,
    /// The step cannot be planned.
    #[error("the step cannot be planned: {0}")]
    Plan(#[from] DeviceError),
}

/// What is simulated.
#[derive(Clone)]
pub struct Plan<'a> {
    /// The model.
    pub flip: &'a Flip,
    /// A step of one rank.
    pub size: StepSize,
    /// Its times.
    pub times: StepTimes,
    /// What connects the ranks.
    pub network: Network,
    /// Whether ranks are GPUs, which exchange by themselves.
    pub gpus: bool,
    /// Whether a bf16 copy of the weights is kept.
    pub bf16_copy: bool,
}

/// A simulated step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulated {
    /// Number of ranks.
    pub ranks: usize,
    /// Number of machines.
    pub nodes: usize,
    /// Pairs of all ranks.
    pub batch: usize,
    /// Seconds from the start of a step to that of the next.
    pub step_seconds: f64,
    /// Exposed communication: seconds of the step in which a rank waits for an exchange.
    pub exposed_seconds: f64,
    /// Seconds of the step in which a rank waits for the slowest one.
    pub waiting_seconds: f64,
    /// Seconds of the step for the loss, whose work per rank grows with the number of ranks.
    pub loss_seconds: f64,
    /// Time of a step of one rank with the same batch per rank and no communication, over `step_seconds`.
    pub efficiency: f64,
    /// Speed of all ranks together.
    pub samples_per_second: f64,
    /// Speed that the loader of each rank must reach.
    pub samples_per_second_and_rank: f64,
    /// Bytes that rank 0 sends in a step.
    pub sent: Vec<Sent>,
    /// Bytes that rank 0 holds.
    pub memory: Vec<Held>,
    /// The events of the step.
    pub spans: Vec<Span>,
}

impl Simulated {
    /// Bytes that rank 0 sends in a step, and those that go to other nodes.
    pub fn sent_bytes(&self) -> (u64, u64) {
        let sum = |of: fn(&Sent) -> u64| self.sent.iter().map(of).sum();
        (sum(|sent| sent.bytes), sum(|sent| sent.between_nodes))
    }

    /// Bytes that rank 0 holds.
    pub fn memory_bytes(&self) -> usize {
        self.memory.iter().map(|held| held.bytes).sum()
    }
}

/// Simulates a step on `ranks` ranks.
pub fn simulate(plan: &Plan<'_>, ranks: usize) -> Simulated {
    let ranks = ranks.max(1);
    let (batch, times) = (plan.times.batch * ranks, &plan.times);
    let clock = step::events(plan, ranks);
    let waiting_seconds = step::waiting(plan, ranks);
    let step_seconds = clock.now() + waiting_seconds;
    Simulated {
        ranks,
        nodes: plan.network.nodes(ranks).1,
        batch,
        step_seconds,
        exposed_seconds: clock.exposed(),
        waiting_seconds,
        loss_seconds: times.loss_over(batch, plan.flip.config.embed_dim).iter().sum(),
        efficiency: times.alone() / step_seconds,
        samples_per_second: batch as f64 / step_seconds,
        samples_per_second_and_rank: times.batch as f64 / step_seconds,
        sent: traffic::sent(plan, ranks),
        memory: memory::held(plan, ranks),
        spans: clock.into_spans(),
    }
}

/// The levels of exchange of rank 0.
fn levels(plan: &Plan<'_>, ranks: usize) -> Levels {
    let (local, _) = plan.network.nodes(ranks);
    let left = |rank: usize| (ranks - rank / local * local).min(local);
    let places: Vec<_> = (0..ranks).map(|rank| [(rank % local) as u32, left(rank) as u32]).collect();
    Levels::plan(0, &places)
}

#[cfg(test)]
mod tests;
