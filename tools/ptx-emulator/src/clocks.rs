//! Vector clocks, which order the accesses of different warps by barriers.
//!
//! A warp's epoch ends when it arrives at a barrier. Warps that wait there learn the clocks of all that arrived. A
//! barrier of the whole block starts a common epoch, the `floor`: every access of an earlier epoch is ordered before
//! all later ones.

/// For each warp the first epoch that may still overlap.
pub(crate) type Clock = [u32; 32];

pub(crate) struct Clocks {
    floor: u32,
    epochs: Clock,
    known: Vec<Clock>,
}

impl Clocks {
    pub(crate) fn new(warps: usize) -> Clocks {
        Clocks { floor: 1, epochs: [1; 32], known: vec![[1; 32]; warps] }
    }

    /// Starts a block. Epoch 0 is before all others.
    pub(crate) fn reset(&mut self) {
        self.begin(1);
    }

    #[inline(always)]
    pub(crate) fn epoch(&self, warp: usize) -> u32 {
        self.epochs[warp]
    }

    /// Whether an epoch of any warp is over for all warps.
    #[inline(always)]
    pub(crate) fn over(&self, epoch: u32) -> bool {
        epoch < self.floor
    }

    /// Whether an epoch of `other` is over for `warp`.
    #[inline(always)]
    pub(crate) fn knows(&self, warp: usize, other: usize, epoch: u32) -> bool {
        epoch < self.known[warp][other]
    }

    /// Ends the warp's epoch, and joins its clock into that of the barrier.
    pub(crate) fn arrive(&mut self, warp: usize, clock: &mut Clock) {
        self.epochs[warp] += 1;
        self.known[warp][warp] = self.epochs[warp];
        join(clock, &self.known[warp]);
    }

    /// Joins the barrier's clock into that of a warp that waited.
    pub(crate) fn learn(&mut self, warp: usize, clock: &Clock) {
        join(&mut self.known[warp], clock);
    }

    /// All warps of the block have waited at one barrier.
    pub(crate) fn meet(&mut self) {
        self.begin(self.epochs.iter().max().map_or(1, |newest| newest + 1));
    }

    fn begin(&mut self, floor: u32) {
        self.floor = floor;
        self.epochs.fill(floor);
        self.known.fill([floor; 32]);
    }
}

fn join(clock: &mut Clock, other: &Clock) {
    clock.iter_mut().zip(other).for_each(|(known, other)| *known = (*known).max(*other));
}
