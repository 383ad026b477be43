//! How a kernel is launched: the launch config, the checks, and the order of execution.

/// The launch config of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks of the grid along x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block along x, y and z.
    pub threads: [u32; 3],
    /// Dynamic shared memory per block in bytes.
    pub dynamic_shared: usize,
}

impl LaunchConfig {
    /// Number of threads of a block.
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

/// What is checked and counted. By default everything is, and blocks and warps run in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Report uninitialised reads of global and shared memory.
    pub uninit: bool,
    /// Report data races on shared memory.
    pub races: bool,
    /// Count instructions, sectors and bank conflicts.
    pub count: bool,
    /// Run blocks and warps in a random order with this seed.
    pub order: Option<u64>,
    /// The most instructions that a block may issue, counted per warp.
    pub limit: u64,
    /// What `%globaltimer` and `%clock` show when the launch begins. Each instruction adds one.
    pub clock: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { uninit: true, races: true, count: true, order: None, limit: 1 << 36, clock: 0 }
    }
}

/// Seeded shuffling (Fisher and Yates, with the generator `splitmix64`).
pub(crate) struct Shuffle(pub u64);

impl Shuffle {
    pub(crate) fn apply(&mut self, order: &mut [usize]) {
        for i in (1..order.len()).rev() {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            order.swap(i, ((z ^ z >> 31) % (i as u64 + 1)) as usize);
        }
    }
}
