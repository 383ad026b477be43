//! Liveness of buffers, and which of them are recomputed.
//!
//! A buffer is live from its first use to its last. One that is dropped is not saved for the backward pass: its first
//! life ends with its last use in the forward pass, and if the backward pass reads it, a second life begins with its
//! recomputation (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Each life is placed on its own.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::planner::{Request, place};
use super::slot::SlotId;

/// Which activations the backward pass recomputes instead of saving them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing
    #[default]
    None,
    /// Outputs of LayerNorm and GELU: activations take two thirds of the memory, for a few more passes over them
    Cheap,
    /// All of a transformer block but its residual sums: a sixth of the memory, for a fifth more matrix products
    Blocks,
}

/// A life that has not begun.
const NEVER: Range<usize> = Range { start: usize::MAX, end: 0 };

/// A buffer of the step.
pub(super) struct SlotInfo {
    pub len: usize,
    pub bytes: usize,
    pub scope: usize,
    /// Its bytes are not reused until the end of the run.
    pub retained: bool,
    /// The op that writes it in the forward pass.
    pub made_by: Option<usize>,
    /// The block that it was recorded in.
    pub block: Option<usize>,
    /// An op outside that block reads it in the forward pass.
    pub leaves_block: bool,
    /// It is never recomputed.
    pub always_saved: bool,
    /// It can be recomputed from this buffer alone, at little cost.
    pub cheap_from: Option<SlotId>,
    dropped: bool,
    /// Moments of use: in the forward and in the backward pass if the buffer is dropped, else all of them in the first.
    lives: [Range<usize>; 2],
}

impl SlotInfo {
    pub(super) fn new(len: usize, bytes: usize, scope: usize) -> Self {
        Self {
            len,
            bytes,
            scope,
            retained: false,
            made_by: None,
            block: None,
            leaves_block: false,
            always_saved: false,
            cheap_from: None,
            dropped: false,
            lives: [NEVER, NEVER],
        }
    }

    /// Decides whether the buffer is dropped. Called after the forward pass is recorded: later touches of a dropped
    /// buffer belong to its second life.
    pub(super) fn choose(&mut self, mode: Recompute) {
        let may = self.made_by.is_some() && !self.retained && !self.always_saved;
        let (cheap, inside) = (self.cheap_from.is_some(), self.block.is_some() && !self.leaves_block);
        self.dropped = may
            && match mode {
                Recompute::None => false,
                Recompute::Cheap => cheap,
                Recompute::Blocks => cheap || inside,
            };
    }

    pub(super) fn dropped(&self) -> bool {
        self.dropped
    }

    /// Whether it holds its value at the current moment of the backward pass.
    pub(super) fn alive(&self) -> bool {
        !self.dropped || !self.lives[1].is_empty()
    }

    /// Extends its life to this moment.
    pub(super) fn touch(&mut self, moment: usize) {
        let life = &mut self.lives[usize::from(self.dropped)];
        *life = life.start.min(moment)..life.end.max(moment + 1);
    }

    /// The moments at which its lives begin.
    pub(super) fn begins(&self) -> impl Iterator<Item = usize> {
        self.lives.iter().filter(|life| !life.is_empty()).map(|life| life.start)
    }
}

/// Where a buffer of the step lies: bytes from the start of the block, and elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub offset: usize,
    pub len: usize,
    /// It was dropped, and the backward pass does not recompute it.
    pub gone: bool,
}

/// Where each buffer lies in the forward and in the backward pass, and the size of the block in bytes. `end`: the
/// moment at which the run ends.
pub(super) fn spans(slots: &[SlotInfo], end: usize) -> ([Vec<Span>; 2], usize) {
    let request = |slot: &SlotInfo, life: usize| Request {
        bytes: slot.bytes,
        span: slot.lives[life].start..if slot.retained { end } else { slot.lives[life].end },
    };
    let twice: Vec<usize> = (0..slots.len()).filter(|&slot| !slots[slot].lives[1].is_empty()).collect();
    let mut requests: Vec<Request> = slots.iter().map(|slot| request(slot, 0)).collect();
    requests.extend(twice.iter().map(|&slot| request(&slots[slot], 1)));
    let (offsets, bytes) = place(&requests);
    let placed = slots.iter().zip(&offsets);
    let forward: Vec<Span> = placed.map(|(slot, &offset)| Span { offset, len: slot.len, gone: false }).collect();
    let mut backward = forward.clone();
    backward.iter_mut().zip(slots).for_each(|(span, slot)| span.gone = slot.dropped);
    for (slot, &offset) in twice.into_iter().zip(&offsets[slots.len()..]) {
        backward[slot] = Span { offset, gone: false, ..forward[slot] };
    }
    ([forward, backward], bytes)
}
