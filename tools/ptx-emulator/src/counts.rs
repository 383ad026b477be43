//! What a launch did, in counts that do not depend on the machine.

use crate::isa::Class;
use std::collections::BTreeMap;

/// Totals over a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions issued, once per warp, by class.
    pub instructions: BTreeMap<Class, u64>,
    /// The same counted once per active thread, of all classes.
    pub thread_instructions: u64,
    /// Loads from global memory, asynchronous copies included.
    pub global_loads: Traffic,
    /// Stores to global memory.
    pub global_stores: Traffic,
    /// Bank conflicts of shared memory.
    pub shared: Banks,
    /// Arrivals of warps at barriers.
    pub barriers: u64,
    /// Floating-point operations of matrix instructions.
    pub mma_flops: u64,
    /// Thread blocks.
    pub blocks: u64,
}

/// Traffic between a warp and global memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Distinct bytes of each access of a warp, added up.
    pub bytes: u64,
    /// 32-byte sectors moved: those that each access touches, except loads of sectors that are still in the L1 cache.
    pub sectors: u64,
    /// Different sectors among them over the whole launch: the traffic behind caches of unlimited size.
    pub distinct: u64,
}

impl Traffic {
    /// Requested bytes per moved byte: 1 if nothing was moved, above 1 if the L1 cache served requests.
    pub fn efficiency(&self) -> f64 {
        if self.sectors == 0 { 1.0 } else { self.bytes as f64 / (32 * self.sectors) as f64 }
    }

    pub(crate) fn add(&mut self, other: &Traffic) {
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        self.distinct += other.distinct;
    }
}

/// Passes over the banks of shared memory (wavefronts in NVIDIA's profilers).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Banks {
    /// Passes that the accesses took.
    pub passes: u64,
    /// Passes without bank conflicts.
    pub least: u64,
}

impl Counts {
    /// Bytes of the different sectors that the launch loaded, plus those that it stored.
    pub fn moved_bytes(&self) -> u64 {
        32 * (self.global_loads.distinct + self.global_stores.distinct)
    }

    /// Instructions issued, counted once per warp.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.values().sum()
    }

    /// Adds the counts of another launch.
    pub fn add(&mut self, other: &Counts) {
        for (class, count) in &other.instructions {
            *self.instructions.entry(*class).or_default() += count;
        }
        self.thread_instructions += other.thread_instructions;
        self.global_loads.add(&other.global_loads);
        self.global_stores.add(&other.global_stores);
        self.shared.passes += other.shared.passes;
        self.shared.least += other.shared.least;
        self.barriers += other.barriers;
        self.mma_flops += other.mma_flops;
        self.blocks += other.blocks;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<22}{value:>16}");
        row("blocks", self.blocks.to_string())?;
        for (class, count) in &self.instructions {
            row(&format!("warp {class:?}"), count.to_string())?;
        }
        row("thread instructions", self.thread_instructions.to_string())?;
        for (name, traffic) in [("loaded", &self.global_loads), ("stored", &self.global_stores)] {
            row(&format!("global bytes {name}"), traffic.bytes.to_string())?;
            row("  sectors of 32 bytes", traffic.sectors.to_string())?;
            row("  distinct sectors", traffic.distinct.to_string())?;
            row("  requested / moved", format!("{:.1} %", 100.0 * traffic.efficiency()))?;
        }
        row("shared memory passes", self.shared.passes.to_string())?;
        row("  without conflicts", self.shared.least.to_string())?;
        row("barriers", self.barriers.to_string())?;
        row("matrix FLOPs", self.mma_flops.to_string())
    }
}
