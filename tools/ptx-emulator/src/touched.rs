//! Which sectors of global memory a launch has come to.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A bit per sector of 32 bytes of each allocation; an allocation's bits are made when the launch first comes there.
#[derive(Debug)]
pub(crate) struct Touched(Vec<OnceLock<Vec<AtomicU32>>>);

impl Touched {
    /// Of as many allocations.
    pub fn new(allocations: usize) -> Touched {
        Touched((0..allocations).map(|_| OnceLock::new()).collect())
    }

    /// Whether the launch comes for the first time to the sector that holds the byte `at` of an allocation of `bytes`.
    pub fn first(&self, allocation: usize, bytes: usize, at: usize) -> bool {
        let zeros = || (0..bytes.div_ceil(32 * 32)).map(|_| AtomicU32::new(0)).collect();
        let (sector, bits) = (at / 32, self.0[allocation].get_or_init(zeros));
        let (word, bit) = (&bits[sector / 32], 1 << (sector % 32));
        word.load(Relaxed) & bit == 0 && word.fetch_or(bit, Relaxed) & bit == 0
    }
}
