//! The gradient of a step: by one program over the whole batch, or exactly the same in micro-batches, which several
//! ranks may share.

mod cuts;
mod exchange;
mod masters;
mod memory;
mod micro;
mod ranks;
mod towers;
mod tree;
mod whole;

pub(crate) use self::exchange::{GradientExchange, buffer_bytes};
pub(crate) use self::masters::master_bytes;
pub use self::memory::{largest_batch, step_bytes};
pub use self::micro::MicroBatches;
pub(super) use self::ranks::{exchanges, update};
use self::towers::{RecordedTowers, Towers, record_towers};
pub(super) use self::tree::GradientTree;
pub(super) use self::whole::Whole;

use crate::autograd::Recompute;

/// Sizes of a step, and what it keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSize {
    /// Pairs.
    pub batch: usize,
    /// Visible patches per image.
    pub kept: usize,
    /// What the backward pass recomputes.
    pub recompute: Recompute,
    /// Equal parts in which the batch is computed; they divide `batch`.
    pub micro_batches: usize,
    /// Ranks that compute equally many of them; they divide `micro_batches`.
    pub ranks: usize,
    /// Which activations stay in memory at once.
    pub keep: Keep,
}

/// Which activations stay in memory at once, if a rank has several micro-batches. The results are the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Those of all its micro-batches if they fit the device's memory, else those of one.
    #[default]
    Auto,
    /// Those of all its micro-batches.
    All,
    /// Those of one micro-batch; each forward pass runs twice.
    One,
}

impl StepSize {
    /// One pass over the whole batch.
    pub fn whole(batch: usize, kept: usize, recompute: Recompute) -> Self {
        Self { batch, kept, recompute, micro_batches: 1, ranks: 1, keep: Keep::Auto }
    }

    /// Micro-batches of a rank.
    pub fn leaves(&self) -> usize {
        self.micro_batches / self.ranks
    }

    /// Pairs of a micro-batch.
    pub fn rows(&self) -> usize {
        self.batch / self.micro_batches
    }
}
