//! Ranks connected by an MPI library.

mod library;
mod request;

use std::ffi::c_int;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::library::{Blocks, MpiLibrary};
use self::request::Request;
use super::{Exchange, Group, GroupError, Launched, Place, block_of};

/// A rank of `MPI_COMM_WORLD`.
pub struct Mpi {
    connection: Arc<Connection>,
    launched: Launched,
    version: String,
}

/// An initialised library, until the last exchange is over.
struct Connection {
    library: MpiLibrary,
    /// Calls must not overlap. Holds when the last poll without success ended.
    calls: Mutex<Instant>,
    /// What exchanges have sent: memory for what the next ones receive.
    spare: Mutex<Vec<Vec<u32>>>,
}

impl Connection {
    /// Held during a call of the library.
    fn call(&self) -> MutexGuard<'_, Instant> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u32>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exit code of a program that panics.
const PANICKED: u8 = 101;

impl Drop for Connection {
    fn drop(&mut self) {
        // A rank that panics must not wait for the others.
        if std::thread::panicking() { self.library.abort(PANICKED) } else { self.library.finalize() }
    }
}

/// Words of a message. MPI counts them in a C integer.
const MESSAGE: usize = 1 << 26;

impl Mpi {
    /// Joins the group that `launched` describes.
    ///
    /// # Errors
    /// If there is no library, or its rank or size differs from the launcher's, because they belong to different MPIs.
    pub fn join(launched: Launched) -> Result<Self, GroupError> {
        let library = MpiLibrary::open(launched.by)?;
        let (rank, size) = (library.rank()?, library.size()?);
        let Launched { by, place: Place { rank: said, size: of, .. }, .. } = launched;
        if (rank, size) != (said, of) {
            let problem = format!(
                "the launcher ({by:?}) says rank {said} of {of}, and {} says rank {rank} of {size}: they belong to \
                 different MPIs; set FLIPK_MPI to the launcher's own library, or let the launcher start this MPI's ranks (srun --mpi=pmi2)",
                library.name
            );
            return Err(GroupError::Launch { problem });
        }
        let version = library.version();
        Ok(Self {
            connection: Arc::new(Connection { library, calls: Mutex::new(Instant::now()), spare: Mutex::default() }),
            launched,
            version,
        })
    }

    /// Numbers and starts of words that lie one after the other.
    fn blocks(counts: impl Iterator<Item = usize>) -> Result<Blocks, GroupError> {
        let int = |number: usize| {
            let problem = || GroupError::Call { call: "MPI", problem: format!("{number} words are too many at once") };
            c_int::try_from(number).map_err(|_| problem())
        };
        let mut blocks = Blocks::default();
        let mut start = 0;
        for count in counts {
            blocks[0].push(int(count)?);
            blocks[1].push(int(start)?);
            start += count;
        }
        Ok(blocks)
    }

    /// Those of [`Group::all_gather`].
    fn equal_blocks(&self, block: usize, len: usize) -> Result<Blocks, GroupError> {
        Self::blocks((0..self.size()).map(|rank| block_of(rank, block, len).len()))
    }
}

impl Debug for Mpi {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.debug_struct("Mpi").field("launched", &self.launched).field("version", &self.version).finish()
    }
}

impl Group for Mpi {
    fn place(&self) -> Place {
        self.launched.place
    }

    fn describe(&self) -> String {
        self.version.clone()
    }

    fn all_gather(&self, all: &mut [u32], block: usize) -> Result<(), GroupError> {
        let [counts, starts] = self.equal_blocks(block, all.len())?;
        let _call = self.connection.call();
        self.connection.library.all_gather(all, &counts, &starts)
    }

    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError> {
        let [counts, starts] = self.equal_blocks(block, len)?;
        let _call = self.connection.call();
        self.connection.library.gather(own, all, &counts, &starts)
    }

    fn start_all_to_all(&self, parts: Vec<u32>, to: &[usize], from: &[usize]) -> Result<Box<dyn Exchange>, GroupError> {
        let blocks = [Self::blocks(to.iter().copied())?, Self::blocks(from.iter().copied())?];
        Ok(Box::new(Request::all_to_all(self.connection.clone(), parts, blocks, from.iter().sum())?))
    }

    fn start_all_gather(&self, own: Vec<u32>, block: usize, len: usize) -> Result<Box<dyn Exchange>, GroupError> {
        let mut all = vec![0; len];
        all[block_of(self.rank(), block, len)].copy_from_slice(&own);
        let blocks = self.equal_blocks(block, len)?;
        Ok(Box::new(Request::all_gather(self.connection.clone(), all, blocks)?))
    }

    fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError> {
        let _call = self.connection.call();
        words.chunks_mut(MESSAGE).try_for_each(|words| self.connection.library.broadcast(words))
    }

    fn abort(&self, code: u8) {
        // The lock is held by a call that may never return.
        self.connection.library.abort(code);
    }
}
