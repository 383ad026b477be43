//! Transfers between the GPUs of all ranks, by NCCL.

mod library;

use std::fmt::{self, Debug, Formatter};
use std::sync::{Mutex, PoisonError};

use self::library::{Comm, NcclLibrary, To, UniqueId};
use super::{Group, GroupError, Level, Levels, block_of};

/// A collective transfer of words between the GPUs of all ranks. Addresses are in the memory of the rank's own GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// As [`Group::all_gather`], of all these at once.
    AllGather(Vec<Gathered>),
    /// Sends words to ranks and receives words from ranks, perhaps from itself. Between two ranks, messages arrive in
    /// the order of the lists.
    AllToAll {
        /// Words to send.
        sends: Vec<Message>,
        /// Words to receive.
        receives: Vec<Message>,
    },
}

/// The blocks of all ranks, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// Where they begin.
    pub address: u64,
    /// Words of a block; the last ones may be shorter.
    pub block: usize,
    /// Words of all blocks.
    pub len: usize,
}

impl Gathered {
    /// The block of rank `owner`, as a message to or from `rank`.
    fn message(&self, owner: usize, rank: usize) -> Message {
        let block = block_of(owner, self.block, self.len);
        Message { rank, address: self.address + 4 * block.start as u64, words: block.len() }
    }
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
            Transfer::AllGather(parts) => match &self.levels.0[..] {
                // First between ranks of equal local rank on different machines, then within each machine.
                [within, between] => [between, within].into_iter().try_for_each(|level| {
                    let own = if level == between { &[self.rank][..] } else { within.owners() };
                    let (sends, receives) = messages(level, own, parts);
                    // SAFETY: as the caller promises.
                    unsafe { self.exchange(&sends, &receives, to) }
                }),
                _ => self.library.grouped(self.comm, || {
                    // SAFETY: as the caller promises.
                    parts.iter().try_for_each(|part| unsafe { self.all_gather(part, to) })
                }),
            },
            // SAFETY: as the caller promises.
            Transfer::AllToAll { sends, receives } => unsafe { self.exchange(sends, receives, to) },
        }
    }

    /// # Safety
    /// As [`Self::start`].
    unsafe fn all_gather(&self, part: &Gathered, to: To) -> Result<(), GroupError> {
        let own = part.message(self.rank, self.rank);
        if part.len == self.size * part.block {
            // SAFETY: as the caller promises.
            return unsafe { self.library.all_gather(own.address, part.address, part.block, to) };
        }
        // The last blocks are shorter.
        let mut blocks = (0..self.size).map(|rank| part.message(rank, rank)).filter(|block| block.words > 0);
        blocks.try_for_each(|Message { rank, address, words }| {
            // SAFETY: as the caller promises.
            unsafe { self.library.broadcast(address, words, rank, to) }
        })
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
fn messages(level: &Level, own: &[usize], parts: &[Gathered]) -> (Vec<Message>, Vec<Message>) {
    let others = || level.peers.iter().enumerate().filter(|(place, _)| *place != level.own).map(|(_, peer)| peer);
    let blocks = |owners: &[usize], rank: usize| -> Vec<Message> {
        parts.iter().flat_map(|part| owners.iter().map(|owner| part.message(*owner, rank))).collect()
    };
    let sends = others().flat_map(|peer| blocks(own, peer.rank)).collect();
    let receives = others().flat_map(|peer| blocks(&peer.owners, peer.rank)).collect();
    (sends, receives)
}

impl Debug for Nccl {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.debug_struct("Nccl").field("rank", &self.rank).field("size", &self.size).finish()
    }
}
