//! Which accesses of one warp another one knows to be over: vector clocks, which only barriers move on.
//!
//! A warp's time is its epoch; it is over once the warp arrives at a barrier. Whoever waits at that barrier knows then what all
//! that arrived knew, and no one else does. A barrier that the whole block waits at begins a common epoch, above all before
//! it: that it is below this `floor` tells of most old accesses that every warp knows them to be over.

/// For each warp the first epoch that is not known to be over.
pub type Clock = [u32; 32];

pub struct Clocks {
    floor: u32,
    epochs: Clock,
    known: Vec<Clock>,
}

impl Clocks {
    pub fn new(warps: usize) -> Clocks {
        Clocks { floor: 1, epochs: [1; 32], known: vec![[1; 32]; warps] }
    }

    /// The beginning of a block; 0 is before any epoch.
    pub fn reset(&mut self) {
        self.begin(1);
    }

    #[inline(always)]
    pub fn epoch(&self, warp: usize) -> u32 {
        self.epochs[warp]
    }

    /// Whether everyone knows that an epoch is over, whosever it is.
    #[inline(always)]
    pub fn over(&self, epoch: u32) -> bool {
        epoch < self.floor
    }

    /// Whether `warp` knows that an epoch of `other` is over.
    #[inline(always)]
    pub fn knows(&self, warp: usize, other: usize, epoch: u32) -> bool {
        epoch < self.known[warp][other]
    }

    /// Ends the warp's epoch; what it knows, this epoch with it, goes to `clock`.
    pub fn arrive(&mut self, warp: usize, clock: &mut Clock) {
        self.epochs[warp] += 1;
        self.known[warp][warp] = self.epochs[warp];
        join(clock, &self.known[warp]);
    }

    /// The warp learns what those knew that arrived.
    pub fn learn(&mut self, warp: usize, clock: &Clock) {
        join(&mut self.known[warp], clock);
    }

    /// All warps of the block have waited for each other.
    pub fn meet(&mut self) {
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
