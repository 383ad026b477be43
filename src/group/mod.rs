//! Processes that train one model together: ranks, and how they exchange bytes.
//!
//! A group only moves bytes. It never adds floating-point numbers, because reductions of MPI and NCCL may round
//! differently from call to call; every sum is made by flipk in a fixed order.
//!
//! | file | what it does |
//! |---|---|
//! | `launcher` | which rank this process is, as its launcher says |
//! | `alone` | a group of one process |
//! | `mpi` | ranks that any MPI library connects |
//! | `tcp` | ranks that TCP connects, through rank 0 |
//! | `nccl` | what moves the data of ranks on GPUs |
//! | `threads` | ranks that are threads of one process, for tests |

mod alone;
mod launcher;
mod mpi;
mod nccl;
mod tcp;
mod threads;

use std::fmt::Debug;

pub use self::alone::Alone;
pub use self::launcher::{Launched, Launcher};
pub use self::mpi::Mpi;
pub use self::nccl::{Nccl, Transfer};
pub use self::tcp::Tcp;
pub use self::threads::Threads;

/// What can go wrong between ranks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Variables of launchers that are no numbers, or that contradict each other.
    #[error("{problem}")]
    Launch {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No MPI library that fits the launcher.
    #[error(
        "no MPI library can be opened: {tried}; install one, for example with `pip install mpich`, or set FLIPK_MPI to its path"
    )]
    NoMpi {
        /// What was tried, and why it failed.
        tried: String,
    },
    /// No NCCL.
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

/// A group of processes. All ranks make the same calls in the same order, with the same lengths. Data are words of 32
/// bits, which arrive unchanged.
pub trait Group: Debug + Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// Processes of the group on this machine.
    fn local_size(&self) -> usize {
        self.size()
    }

    /// The number of this process among those on this machine.
    fn local_rank(&self) -> usize {
        self.rank()
    }

    /// For a user: `MPICH 5.0.2`.
    fn describe(&self) -> String;

    /// Gives all ranks the blocks of all. Block `r` is `all[r * block..(r + 1) * block]`, cut at the end of `all`; each
    /// rank's own is already there.
    ///
    /// # Errors
    /// If the library fails.
    fn all_gather(&self, all: &mut [u32], block: usize) -> Result<(), GroupError>;

    /// Gives rank 0 the blocks of all: `own` of rank `r` becomes block `r` of `all`, as in [`Self::all_gather`]. `all`
    /// is only used on rank 0; its length is `len` there.
    ///
    /// # Errors
    /// If the library fails.
    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError>;

    /// Sends block `r` of `parts` to rank `r`; the block from rank `r` becomes block `r` of `received`. Both have
    /// `size` blocks of equal length.
    ///
    /// # Errors
    /// If the library fails.
    fn exchange(&self, parts: &[u32], received: &mut [u32]) -> Result<(), GroupError>;

    /// Gives all ranks the `words` of rank 0.
    ///
    /// # Errors
    /// If the library fails.
    fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError>;

    /// Ends all processes of the group, which may be waiting for each other.
    fn abort(&self) {}
}

/// The range of block `rank`, cut at `len`.
pub fn block_of(rank: usize, block: usize, len: usize) -> std::ops::Range<usize> {
    (rank * block).min(len)..((rank + 1) * block).min(len)
}

impl dyn Group + '_ {
    /// Whether this rank writes files and speaks to the user.
    pub fn leads(&self) -> bool {
        self.rank() == 0
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
    pub fn from_lead(&self, own: &[u8]) -> Result<Vec<u8>, GroupError> {
        let mut len = [own.len() as u32];
        self.broadcast(&mut len)?;
        let len = len[0] as usize;
        let mut words = vec![0u32; len.div_ceil(4)];
        if self.leads() {
            bytemuck::cast_slice_mut::<u32, u8>(&mut words)[..len].copy_from_slice(own);
        }
        self.broadcast(&mut words)?;
        Ok(bytemuck::cast_slice::<u32, u8>(&words)[..len].to_vec())
    }
}

fn words_of<T: bytemuck::Pod>(values: &[T]) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(values)
}
