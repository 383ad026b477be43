//! Faults: what a kernel does wrong, and where.

use crate::location::Location;
use std::fmt;
use std::sync::Arc;

/// The first fault of a launch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Fault {
    /// Name of the kernel.
    pub kernel: String,
    /// What went wrong.
    pub kind: FaultKind,
    /// Line in the PTX text.
    pub line: u32,
    /// Line in the CUDA source, if it was compiled with `-lineinfo`.
    pub location: Option<Arc<Location>>,
    /// Index of the block.
    pub block: [u32; 3],
    /// Index of the thread in its block; `None` if a whole warp or block is at fault.
    pub thread: Option<[u32; 3]>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { kernel, kind, line, block: [bx, by, bz], .. } = self;
        write!(f, "{kernel}: {kind}, at PTX line {line}")?;
        if let Some(location) = &self.location {
            write!(f, ", {location}")?;
        }
        write!(f, ", block ({bx}, {by}, {bz})")?;
        match self.thread {
            Some([x, y, z]) => write!(f, ", thread ({x}, {y}, {z})"),
            None => Ok(()),
        }
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The launch config or the parameters are not valid for the kernel.
    Launch(String),
    /// An access out of bounds.
    OutOfRange {
        /// State space.
        space: &'static str,
        /// Address in that space.
        address: u64,
        /// Size of the access.
        bytes: usize,
    },
    /// An address that is not a multiple of the size of the access.
    Misaligned {
        /// State space.
        space: &'static str,
        /// Address in that space.
        address: u64,
        /// Size of the access.
        bytes: usize,
    },
    /// An uninitialised read of memory.
    Uninit {
        /// State space.
        space: &'static str,
        /// Address in that space.
        address: u64,
        /// Size of the access.
        bytes: usize,
    },
    /// An uninitialised read of a register.
    UninitRegister {
        /// Name in the PTX text.
        name: String,
    },
    /// A data race on shared memory: two accesses that no barrier orders, at least one of which writes.
    DataRace {
        /// Address in shared memory.
        address: u64,
        /// Whether the other access, which came first, writes.
        other_writes: bool,
        /// Warp of the other access; `None`: several.
        warp: Option<u16>,
        /// Its lane; `None`: several.
        lane: Option<u16>,
    },
    /// An access to shared memory with a pending asynchronous copy to it.
    MissingWait {
        /// Address in shared memory.
        address: u64,
    },
    /// A barrier that not all lanes of the warp reach together.
    DivergentBarrier {
        /// Lanes that reach it.
        active: u32,
        /// Lanes that have not exited.
        live: u32,
    },
    /// A warp-wide instruction whose mask does not match the lanes that execute it.
    DivergentLanes {
        /// Lanes that execute it.
        active: u32,
        /// The mask.
        mask: u32,
    },
    /// A shuffle from a lane that does not execute it.
    InactiveLane {
        /// The source lane.
        lane: usize,
    },
    /// A barrier with an invalid number or thread count.
    Barrier {
        /// What is wrong.
        problem: &'static str,
    },
    /// Every warp that has not exited waits.
    Deadlock {
        /// Number of a barrier at which they wait.
        barrier: usize,
        /// Threads that arrived there.
        arrived: usize,
        /// Threads that it needs.
        needed: usize,
    },
    /// The block executed more instructions than [`crate::Options::limit`].
    TooLong {
        /// The limit.
        instructions: u64,
    },
    /// The kernel executed `trap` or `brkpt`.
    Trap,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launch(problem) => write!(f, "invalid launch: {problem}"),
            Self::OutOfRange { space, address, bytes } => {
                write!(f, "access of {bytes} bytes outside {space} memory at {address:#x}")
            }
            Self::Misaligned { space, address, bytes } => {
                write!(f, "misaligned access of {bytes} bytes of {space} memory at {address:#x}")
            }
            Self::Uninit { space, address, bytes } => {
                write!(f, "uninitialised read of {bytes} bytes of {space} memory at {address:#x}")
            }
            Self::UninitRegister { name } => write!(f, "uninitialised read of the register {name}"),
            Self::DataRace { address, other_writes, warp, lane } => {
                let what = if *other_writes { "write" } else { "read" };
                write!(f, "data race on shared memory at {address:#x} with a {what} by ")?;
                match (warp, lane) {
                    (Some(warp), Some(lane)) => write!(f, "lane {lane} of warp {warp}"),
                    (Some(warp), None) => write!(f, "several lanes of warp {warp}"),
                    _ => write!(f, "several warps"),
                }
            }
            Self::MissingWait { address } => {
                write!(f, "access to shared memory at {address:#x} before the wait for an asynchronous copy to it")
            }
            Self::DivergentBarrier { active, live } => {
                write!(f, "divergent barrier: lanes {active:#010x} of {live:#010x} reach it")
            }
            Self::DivergentLanes { active, mask } => {
                write!(f, "divergent warp-wide instruction: lanes {active:#010x} execute it, its mask is {mask:#010x}")
            }
            Self::InactiveLane { lane } => write!(f, "shuffle from lane {lane}, which does not execute it"),
            Self::Barrier { problem } => write!(f, "misused barrier: {problem}"),
            Self::Deadlock { barrier, arrived, needed } => {
                write!(f, "deadlock: every warp waits; {arrived} of {needed} threads reach barrier {barrier}")
            }
            Self::TooLong { instructions } => write!(f, "more than {instructions} instructions in one block"),
            Self::Trap => write!(f, "trap"),
        }
    }
}
