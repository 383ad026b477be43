//! How a kernel is launched: the launch config, the checks, and the order of execution.

/// Blocks of a grid, threads of a block, and bytes of dynamic shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    pub blocks: [u32; 3],
    pub threads: [u32; 3],
    pub dynamic_shared: usize,
}

impl LaunchConfig {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        self.threads.iter().fold(1, |all, n| all.saturating_mul(*n as usize))
    }

    pub(crate) fn block_count(&self) -> usize {
        self.blocks.iter().fold(1, |all, n| all.saturating_mul(*n as usize))
    }

    pub(crate) fn block(&self, linear: usize) -> [u32; 3] {
        let [x, y, _] = self.blocks.map(|n| n as usize);
        [linear % x, linear / x % y, linear / (x * y)].map(|n| n as u32)
    }

    /// The index of a thread of a block.
    pub(crate) fn thread(&self, linear: u32) -> [u32; 3] {
        let [x, y, _] = self.threads;
        [linear % x, linear / x % y, linear / (x * y)]
    }
}

/// What is checked and how. By default everything is checked, and blocks and warps run in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Reads of global and shared memory that was never written.
    pub uninit: bool,
    /// Unordered accesses to shared memory.
    pub races: bool,
    /// Count instructions, sectors and bank conflicts.
    pub count: bool,
    /// A seed by which blocks and warps are put into another order.
    pub order: Option<u64>,
    /// Instructions that one block may issue.
    pub limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { uninit: true, races: true, count: true, order: None, limit: 1 << 36 }
    }
}

/// Orders made by a seed (Fisher and Yates, with the generator `splitmix64`).
pub(crate) struct Shuffle(pub u64);

impl Shuffle {
    pub fn apply(&mut self, order: &mut [usize]) {
        for i in (1..order.len()).rev() {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            order.swap(i, ((z ^ z >> 31) % (i as u64 + 1)) as usize);
        }
    }
}
