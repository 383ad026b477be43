//! Which sectors of global memory a launch has touched.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A bit per 32-byte sector of each allocation; created when the launch first touches the allocation.
#[derive(Debug)]
pub(crate) struct Touched(Vec<OnceLock<Vec<AtomicU32>>>);

impl Touched {
    /// For a number of allocations.
    pub(crate) fn new(allocations: usize) -> Touched {
        Touched((0..allocations).map(|_| OnceLock::new()).collect())
    }

    /// Marks the sector of the byte `at` of an allocation of `bytes`; true if it was not marked before.
    pub(crate) fn first(&self, allocation: usize, bytes: usize, at: usize) -> bool {
        let zeros = || (0..bytes.div_ceil(32 * 32)).map(|_| AtomicU32::new(0)).collect();
        let (sector, bits) = (at / 32, self.0[allocation].get_or_init(zeros));
        let (word, bit) = (&bits[sector / 32], 1 << (sector % 32));
        word.load(Relaxed) & bit == 0 && word.fetch_or(bit, Relaxed) & bit == 0
    }
}
