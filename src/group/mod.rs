//! Processes that train one model together: ranks, and how they exchange bytes.
//!
//! A group only moves bytes. It never adds floating-point numbers, because reductions of MPI and NCCL may round
//! differently from call to call; every sum is made by flipk in a fixed order.
//!
//! | file | what it does |
//! |---|---|
//! | `children` | what flipk hands to ranks that it starts itself |
//! | `launcher` | which rank this process is, by its launcher's environment variables |
//! | `machine` | this machine: its name, and how its ranks share its cores |
//! | `levels` | between whom ranks exchange: within machines, and then between them |
//! | `library` | opens libraries at run time |
//! | `exchange` | transfers that run while a rank computes |
//! | `alone` | a group of one process |
//! | `mpi` | ranks connected by any MPI library |
//! | `meeting` | where ranks that TCP connects meet |
//! | `tcp` | ranks connected by TCP, in a star around rank 0 |
//! | `nccl` | transfers between the GPUs of all ranks |
//! | `threads` | ranks that are threads of one process, for tests |
//! | `pulse` | what a rank is doing; a group that notes when it waits |
//! | `watch` | heartbeats, and a watchdog that ends all ranks if one is stuck |

mod alone;
mod children;
mod exchange;
mod launcher;
mod levels;
mod library;
mod machine;
mod meeting;
mod mpi;
mod nccl;
mod pulse;
mod tcp;
mod threads;
mod watch;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

pub use self::alone::Alone;
pub use self::children::Children;
pub use self::exchange::Exchange;
pub use self::launcher::{Launched, Launcher};
pub use self::levels::{Level, Levels, Peer};
pub use self::machine::Share;
pub use self::mpi::Mpi;
pub use self::nccl::{Gathered, Message, Nccl, Transfer};
pub use self::pulse::{Doing, Phase, Pulse, Watched};
pub use self::tcp::Tcp;
pub use self::threads::Threads;
pub use self::watch::{RELAYING, Watch};

/// The exit code of a rank after a failure that may not come again: `EX_TEMPFAIL` of sysexits.h.
pub const MAY_PASS: u8 = 75;

/// What can go wrong between ranks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Variables of launchers that are not numbers, or that contradict each other.
    #[error("{problem}")]
    Launch {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// There is no MPI library for the launcher.
    #[error(
        "no MPI library can be opened: {tried}; install one, for example with `pip install mpich`, or set FLIPK_MPI to its path"
    )]
    NoMpi {
        /// What was tried, and why it failed.
        tried: String,
    },
    /// NCCL is not installed.
    #[error(
        "NCCL cannot be opened: {tried}; install it, for example with `pip install nvidia-nccl-cu13`, or set FLIPK_NCCL to the path of libnccl.so.2"
    )]
    NoNccl {
        /// What was tried, and why it failed.
        tried: String,
    },
    /// A call that failed.
    #[error("{call} failed: {problem}")]
    Call {
        /// The function of the library.
        call: &'static str,
        /// What it reported.
        problem: String,
    },
    /// Another rank stopped.
    #[error("another rank has stopped")]
    Gone,
}

impl GroupError {
    /// Whether another start may succeed.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Gone)
    }
}

/// A group of processes. All ranks make the same calls in the same order, with the same lengths. Data are 32-bit words
/// and are moved unchanged.
pub trait Group: Debug + Send + Sync {
    /// The place of this process in the group.
    fn place(&self) -> Place;

    /// The number of this process, from 0.
    fn rank(&self) -> usize {
        self.place().rank
    }

    /// The number of processes.
    fn size(&self) -> usize {
        self.place().size
    }

    /// This process's share of the machine's cores, at least 1.
    fn cores(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (cores / self.place().local_size).max(1)
    }

    /// For a user: `MPICH 5.0.2`.
    fn describe(&self) -> String;

    /// Gathers the blocks of all ranks on every rank, in place. Block `r` is `all[r * block..(r + 1) * block]`, cut at
    /// the end of `all`, and holds the data of rank `r` before the call.
    ///
    /// # Errors
    /// If the library fails.
    fn all_gather(&self, all: &mut [u32], block: usize) -> Result<(), GroupError>;

    /// Gathers the blocks of all ranks on rank 0: `own` of rank `r` becomes block `r` of `all`, as in
    /// [`Self::all_gather`]. `all` is only used on rank 0, where its length is `len`.
    ///
    /// # Errors
    /// If the library fails.
    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError>;

    /// Starts an exchange between all ranks: of `parts`, which has what is for each rank one after the other, `to[r]`
    /// words go to rank `r`, and `from[r]` words come from it. What is received is in the order of ranks, too.
    ///
    /// # Errors
    /// If the library fails.
    fn start_all_to_all(&self, parts: Vec<u32>, to: &[usize], from: &[usize]) -> Result<Box<dyn Exchange>, GroupError>;

    /// As [`Self::all_gather`], but only starts it: `own` becomes this rank's block of `len` words.
    ///
    /// # Errors
    /// If the library fails.
    fn start_all_gather(&self, own: Vec<u32>, block: usize, len: usize) -> Result<Box<dyn Exchange>, GroupError> {
        let mut all = vec![0; len];
        all[block_of(self.rank(), block, len)].copy_from_slice(&own);
        self.all_gather(&mut all, block)?;
        Ok(Box::new(exchange::Received(all)))
    }

    /// Copies the `words` of rank 0 to all ranks.
    ///
    /// # Errors
    /// If the library fails.
    fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError>;

    /// Ends all processes of the group, even if they are waiting for each other. An MPI launcher then exits with
    /// `code`; others ignore it. Any thread may call it, even while another is in a call that does not return.
    fn abort(&self, _code: u8) {}

    /// Whether another rank has ended the group, if that can be seen without waiting. For a rank that makes no other
    /// calls any more.
    fn has_ended(&self) -> bool {
        false
    }

    /// What this rank is doing, if the group keeps track of it.
    fn pulse(&self) -> Option<&Arc<Pulse>> {
        None
    }
}

/// The place of a process in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub rank: usize,
    /// The number of processes.
    pub size: usize,
    /// Its number among the processes on this machine.
    pub local_rank: usize,
    /// The number of processes on this machine.
    pub local_size: usize,
}

impl Place {
    /// The place in a group that is on one machine.
    pub fn on_one_machine(rank: usize, size: usize) -> Self {
        Self { rank, size, local_rank: rank, local_size: size }
    }
}

/// The range of block `rank`, cut at `len`.
pub fn block_of(rank: usize, block: usize, len: usize) -> std::ops::Range<usize> {
    (rank * block).min(len)..((rank + 1) * block).min(len)
}

impl dyn Group + '_ {
    /// Whether this is rank 0, which writes files and prints.
    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// Notes that this rank begins a phase of step number `step`, which counts from 1.
    pub fn enter(&self, phase: Phase, step: u64) {
        if let Some(pulse) = self.pulse() {
            pulse.enter(phase, step);
        }
    }

    /// Notes that this rank makes progress.
    pub fn tick(&self) {
        if let Some(pulse) = self.pulse() {
            pulse.tick();
        }
    }

    /// Runs `call`, which waits for other ranks, or for a device that does.
    pub fn waiting<T>(&self, call: impl FnOnce() -> T) -> T {
        match self.pulse() {
            Some(pulse) => pulse.waiting(call),
            None => call(),
        }
    }

    /// Time that this rank has waited for others, or for a device that does, if the group keeps track of it.
    pub fn waited(&self) -> Duration {
        self.pulse().map_or(Duration::ZERO, |pulse| pulse.waited())
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// If the library fails.
    pub fn meet(&self) -> Result<(), GroupError> {
        if self.size() > 1 {
            self.all(0u32)?;
        }
        Ok(())
    }

    /// The values of all ranks, in their order.
    ///
    /// # Errors
    /// If the library fails.
    pub fn all<T: bytemuck::Pod>(&self, own: T) -> Result<Vec<T>, GroupError> {
        const { assert!(size_of::<T>().is_multiple_of(4), "values are words") };
        let mut values = vec![T::zeroed(); self.size()];
        values[self.rank()] = own;
        let mut words = words_of(&values);
        self.all_gather(&mut words, size_of::<T>() / 4)?;
        bytemuck::cast_slice_mut::<T, u8>(&mut values).copy_from_slice(bytemuck::cast_slice(&words));
        Ok(values)
    }

    /// The bytes of rank 0; those of other ranks are ignored.
    ///
    /// # Errors
    /// If the library fails.
    pub fn broadcast_bytes(&self, own: &[u8]) -> Result<Vec<u8>, GroupError> {
        let mut len = [own.len() as u32];
        self.broadcast(&mut len)?;
        let own = if self.is_root() { own } else { &[] };
        let mut words = words_with(own, len[0]);
        self.broadcast(&mut words)?;
        Ok(bytemuck::cast_slice::<u32, u8>(&words)[..len[0] as usize].to_vec())
    }

    /// The bytes of all ranks, in their order, on rank 0; other ranks take part, and have none.
    ///
    /// # Errors
    /// If the library fails.
    pub fn gather_bytes(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, GroupError> {
        let lens = self.all(own.len() as u32)?;
        let own = words_with(own, lens.iter().copied().max().unwrap_or_default());
        let len = own.len() * self.size();
        let mut all = vec![0; if self.is_root() { len } else { 0 }];
        self.gather(&own, &mut all, own.len(), len)?;
        let bytes = |(block, len): (&[u32], u32)| bytemuck::cast_slice(block)[..len as usize].to_vec();
        Ok(all.chunks(own.len()).zip(lens).map(bytes).collect())
    }

    /// As `gather_bytes`, for texts.
    ///
    /// # Errors
    /// If the library fails.
    pub fn gather_text(&self, own: &str) -> Result<Vec<String>, GroupError> {
        let all = self.gather_bytes(own.as_bytes())?;
        Ok(all.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect())
    }

    /// What a user may call each rank, `rank 3 (node03, process 4711)`, on rank 0; other ranks take part, and have
    /// none.
    ///
    /// # Errors
    /// If the library fails.
    pub fn names(&self) -> Result<Vec<String>, GroupError> {
        self.gather_text(&format!("rank {} ({}, process {})", self.rank(), machine::host(), std::process::id()))
    }
}

/// Words with these bytes, room for `len` of them, and at least one word.
fn words_with(bytes: &[u8], len: u32) -> Vec<u32> {
    let mut words = vec![0; (len as usize).div_ceil(4).max(1)];
    bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}

fn words_of<T: bytemuck::Pod>(values: &[T]) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(values)
}
