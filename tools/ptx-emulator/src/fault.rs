//! What is wrong with a kernel, and where.

use crate::location::Location;
use std::fmt;
use std::sync::Arc;

/// The first fault of a launch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    pub kernel: String,
    pub kind: FaultKind,
    /// Line in the PTX text.
    pub line: u32,
    /// Line in the CUDA source, if the PTX was made with `-lineinfo`.
    pub location: Option<Arc<Location>>,
    pub block: [u32; 3],
    /// The thread; none where a whole warp or block is at fault.
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
pub enum FaultKind {
    /// The launch itself cannot be.
    Launch(String),
    OutOfRange {
        space: &'static str,
        address: u64,
        bytes: usize,
    },
    Misaligned {
        space: &'static str,
        address: u64,
        bytes: usize,
    },
    /// A read of what was never written.
    Uninit {
        space: &'static str,
        address: u64,
        bytes: usize,
    },
    UninitRegister {
        name: String,
    },
    /// Two unordered accesses to shared memory, of which one writes.
    DataRace {
        address: u64,
        other_writes: bool,
        warp: Option<u16>,
        lane: Option<u16>,
    },
    /// Shared memory is touched while an asynchronous copy to it is under way.
    MissingWait {
        address: u64,
    },
    /// A barrier that not all lanes of the warp reach together.
    DivergentBarrier {
        active: u32,
        live: u32,
    },
    /// A warp-wide instruction whose mask names lanes that do not take part, or the other way round.
    DivergentLanes {
        active: u32,
        mask: u32,
    },
    /// A shuffle from a lane that does not take part.
    InactiveLane {
        lane: usize,
    },
    /// A barrier whose number or count cannot be.
    Barrier {
        problem: &'static str,
    },
    /// All that still run wait, and none of them can go on: at this barrier so many threads of those needed arrived.
    Deadlock {
        barrier: usize,
        arrived: usize,
        needed: usize,
    },
    TooLong {
        instructions: u64,
    },
    Trap,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launch(problem) => write!(f, "the launch is not possible: {problem}"),
            Self::OutOfRange { space, address, bytes } => {
                write!(f, "access of {bytes} bytes outside {space} memory at {address:#x}")
            }
            Self::Misaligned { space, address, bytes } => {
                write!(f, "misaligned access of {bytes} bytes of {space} memory at {address:#x}")
            }
            Self::Uninit { space, address, bytes } => {
                write!(f, "read of {bytes} bytes of {space} memory at {address:#x} that were never written")
            }
            Self::UninitRegister { name } => write!(f, "read of the register {name}, which was never written"),
            Self::DataRace { address, other_writes, warp, lane } => {
                let what = if *other_writes { "write" } else { "read" };
                write!(f, "race on shared memory at {address:#x} with a {what} by ")?;
                match (warp, lane) {
                    (Some(warp), Some(lane)) => write!(f, "lane {lane} of warp {warp}"),
                    (Some(warp), None) => write!(f, "several lanes of warp {warp}"),
                    _ => write!(f, "several warps"),
                }
            }
            Self::MissingWait { address } => {
                write!(f, "access to shared memory at {address:#x} while an asynchronous copy to it is not waited for")
            }
            Self::DivergentBarrier { active, live } => {
                write!(f, "divergent barrier: lanes {active:#010x} of {live:#010x} reach it")
            }
            Self::DivergentLanes { active, mask } => {
                write!(f, "divergent warp instruction: lanes {active:#010x} take part, its mask is {mask:#010x}")
            }
            Self::InactiveLane { lane } => write!(f, "shuffle from lane {lane}, which does not take part"),
            Self::Barrier { problem } => write!(f, "misused barrier: {problem}"),
            Self::Deadlock { barrier, arrived, needed } => {
                write!(
                    f,
                    "deadlock: every warp that is left waits; {arrived} of {needed} threads reach barrier {barrier}"
                )
            }
            Self::TooLong { instructions } => write!(f, "more than {instructions} instructions in one block"),
            Self::Trap => write!(f, "trap"),
        }
    }
}
