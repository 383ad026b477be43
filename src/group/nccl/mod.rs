//! Transfers between the GPUs of all ranks, by NCCL.

mod library;

use std::fmt::{self, Debug, Formatter};
use std::sync::{Mutex, PoisonError};

use self::library::{Comm, NcclLibrary, To, UniqueId};
use super::{Group, GroupError, Level, Levels, block_of};

/// A collective transfer of words between the GPUs of all ranks. Addresses are in the memory of the rank's own GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// As [`Group::all_gather`].
    AllGather {
        /// Where the blocks of all ranks begin.
        address: u64,
        /// Words of a block.
        block: usize,
        /// Words of all blocks.
        len: usize,
    },
    /// Sends words to ranks and receives words from ranks, perhaps from itself. Between two ranks, messages arrive in
    /// the order of the lists.
    AllToAll {
        /// Words to send.
        sends: Vec<Message>,
        /// Words to receive.
        receives: Vec<Message>,
    },
}

/// Words that go to a rank, or come from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The other rank.
    pub rank: usize,
    /// Where they are, or will be.
    pub address: u64,
    /// Their number.
    pub words: usize,
}

/// This rank's connection to the GPUs of the others.
///
/// It lasts until the process ends: `ncclCommDestroy` waits for the other ranks of the machine, and a rank that has
/// failed would wait for ever before it can say why.
pub struct Nccl {
    library: NcclLibrary,
    comm: Comm,
    /// Calls must not overlap.
    calls: Mutex<()>,
    rank: usize,
    size: usize,
    levels: Levels,
}

// SAFETY: NCCL's functions may be called from any thread.
unsafe impl Send for Nccl {}
// SAFETY: calls to one communicator must not overlap, and `calls` is held during each.
unsafe impl Sync for Nccl {}

impl Nccl {
    /// Connects the ranks of `group`. The calling thread's current GPU is this rank's.
    ///
    /// # Errors
    /// If there is no NCCL, or it cannot connect the ranks.
    pub fn join(group: &dyn Group) -> Result<Self, GroupError> {
        let library = NcclLibrary::open()?;
        let own = if group.is_root() { library.unique_id()? } else { UniqueId([0; 128]) };
        let bytes = group.broadcast_bytes(bytemuck::cast_slice(&own.0))?;
        let mut id = UniqueId([0; 128]);
        bytemuck::cast_slice_mut(&mut id.0).copy_from_slice(&bytes);
        let comm = library.join(group.size(), id, group.rank())?;
        let levels = Levels::in_group(group)?;
        Ok(Self { library, comm, calls: Mutex::new(()), rank: group.rank(), size: group.size(), levels })
    }

    /// The number of this rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// For a user: `NCCL 2.32.3`.
    pub fn describe(&self) -> String {
        format!("NCCL {}", self.library.version())
    }

    /// Enqueues `transfer` on `stream`.
    ///
    /// # Errors
    /// If NCCL fails.
    ///
    /// # Safety
    /// All addresses are memory of this rank's GPU, which holds the stated number of words, and which nothing else uses
    /// until the stream is past the transfer.
    pub unsafe fn start(&self, transfer: &Transfer, stream: u64) -> Result<(), GroupError> {
        let _call = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let to = To { comm: self.comm, stream };
        match transfer {
            &Transfer::AllGather { address, block, len } => {
                let place = |rank: usize| address + 4 * (rank * block) as u64;
                if let [within, between] = &self.levels.0[..] {
                    let part = |owner: usize, rank: usize| {
                        let words = block_of(owner, block, len).len();
                        Message { rank, address: place(owner), words }
                    };
                    // First between ranks of equal local rank on different machines, then within each machine.
                    return [between, within].into_iter().try_for_each(|level| {
                        let own = if level == between { &[self.rank][..] } else { within.owners() };
                        let (sends, receives) = messages(level, own, part);
                        // SAFETY: as the caller promises.
                        unsafe { self.exchange(&sends, &receives, to) }
                    });
                }
                if len == self.size * block {
                    // SAFETY: as the caller promises.
                    return unsafe { self.library.all_gather(place(self.rank), address, block, to) };
                }
                // The last blocks are shorter.
                self.library.grouped(self.comm, || {
                    let blocks = (0..self.size).map(|rank| (rank, block_of(rank, block, len).len()));
                    blocks.filter(|(_, count)| *count > 0).try_for_each(|(rank, count)| {
                        // SAFETY: as the caller promises.
                        unsafe { self.library.broadcast(place(rank), count, rank, to) }
                    })
                })
            }
            // SAFETY: as the caller promises.
            Transfer::AllToAll { sends, receives } => unsafe { self.exchange(sends, receives, to) },
        }
    }

    /// # Safety
    /// As [`Self::start`].
    unsafe fn exchange(&self, sends: &[Message], receives: &[Message], to: To) -> Result<(), GroupError> {
        self.library.grouped(self.comm, || {
            for &Message { rank, address, words } in sends.iter().filter(|message| message.words > 0) {
                // SAFETY: as the caller promises.
                unsafe { self.library.send(address, words, rank, to) }?;
            }
            receives.iter().filter(|message| message.words > 0).try_for_each(|&Message { rank, address, words }| {
                // SAFETY: as above.
                unsafe { self.library.receive(address, words, rank, to) }
            })
        })
    }
}

/// What a rank that has the blocks of the ranks `own` sends to its peers of a level, and what it receives from them.
/// `part`: a rank's block, as a message to or from another.
fn messages(
    level: &Level,
    own: &[usize],
    part: impl Fn(usize, usize) -> Message + Copy,
) -> (Vec<Message>, Vec<Message>) {
    let others = || level.peers.iter().enumerate().filter(|(place, _)| *place != level.own).map(|(_, peer)| peer);
    let sends = others().flat_map(|peer| own.iter().map(move |owner| part(*owner, peer.rank))).collect();
    let receives = others().flat_map(|peer| peer.owners.iter().map(move |owner| part(*owner, peer.rank))).collect();
    (sends, receives)
}

impl Debug for Nccl {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.debug_struct("Nccl").field("rank", &self.rank).field("size", &self.size).finish()
    }
}
