//! Ranks connected by an MPI library.

mod library;

use std::ffi::c_int;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::library::MpiLibrary;
use super::{Group, GroupError, Launched, Place, block_of};

/// A rank of `MPI_COMM_WORLD`.
pub struct Mpi {
    library: MpiLibrary,
    /// Calls must not overlap.
    calls: Mutex<()>,
    launched: Launched,
    version: String,
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
        let Launched { by, place: Place { rank: said, size: of, .. } } = launched;
        if (rank, size) != (said, of) {
            let problem = format!(
                "the launcher ({by:?}) says rank {said} of {of}, and {} says rank {rank} of {size}: they belong to \
                 different MPIs; set FLIPK_MPI to the launcher's own library",
                library.name
            );
            return Err(GroupError::Launch { problem });
        }
        let version = library.version();
        Ok(Self { library, calls: Mutex::new(()), launched, version })
    }

    /// Held during a call of the library.
    fn call(&self) -> MutexGuard<'_, ()> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lengths and starts of the ranks' blocks.
    fn blocks(&self, block: usize, len: usize) -> Result<[Vec<c_int>; 2], GroupError> {
        let int = |number: usize| {
            let problem = || GroupError::Call { call: "MPI", problem: format!("{len} words are too many at once") };
            c_int::try_from(number).map_err(|_| problem())
        };
        let blocks = || (0..self.size()).map(|rank| block_of(rank, block, len));
        let counts = blocks().map(|range| int(range.len())).collect::<Result<_, _>>()?;
        Ok([counts, blocks().map(|range| int(range.start)).collect::<Result<_, _>>()?])
    }
}

impl Debug for Mpi {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.debug_struct("Mpi").field("launched", &self.launched).field("version", &self.version).finish()
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        let _call = self.call();
        self.library.finalize();
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
        let [counts, starts] = self.blocks(block, all.len())?;
        let _call = self.call();
        self.library.all_gather(all, &counts, &starts)
    }

    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError> {
        let [counts, starts] = self.blocks(block, len)?;
        let _call = self.call();
        self.library.gather(own, all, &counts, &starts)
    }

    fn all_to_all(&self, parts: &[u32], received: &mut [u32]) -> Result<(), GroupError> {
        let [counts, _] = self.blocks(parts.len() / self.size(), parts.len())?;
        let _call = self.call();
        self.library.all_to_all(parts, received, counts[0])
    }

    fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError> {
        let _call = self.call();
        words.chunks_mut(MESSAGE).try_for_each(|words| self.library.broadcast(words))
    }

    fn abort(&self) {
        // The lock is held by a call that may never return.
        self.library.abort();
    }
}
