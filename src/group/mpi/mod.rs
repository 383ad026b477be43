//! Ranks that an MPI library connects.

mod library;

use std::ffi::c_int;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::library::MpiLibrary;
use super::{Group, GroupError, Launched, block_of};

/// A rank of `MPI_COMM_WORLD`.
pub struct Mpi {
    library: Mutex<MpiLibrary>,
    launched: Launched,
    version: String,
}

/// Words of a message: far fewer than a C integer can count, and more than any library needs to be fast.
const MESSAGE: usize = 1 << 26;

impl Mpi {
    /// Joins the group that `launched` describes.
    ///
    /// # Errors
    /// If there is no library, or it knows another number of ranks than the launcher: then it is another MPI's.
    pub fn join(launched: Launched) -> Result<Self, GroupError> {
        let library = MpiLibrary::open(launched.by)?;
        let (rank, size) = (library.rank()?, library.size()?);
        if (rank, size) != (launched.rank, launched.size) {
            let Launched { rank: said, size: of, by, .. } = launched;
            let problem = format!(
                "the launcher ({by:?}) says rank {said} of {of}, and {} says rank {rank} of {size}: they belong to \
                 different MPIs; set FLIPK_MPI to the launcher's own library",
                library.name
            );
            return Err(GroupError::Launch { problem });
        }
        let version = library.version();
        Ok(Self { library: Mutex::new(library), launched, version })
    }

    fn library(&self) -> MutexGuard<'_, MpiLibrary> {
        self.library.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.library().finalize();
    }
}

impl Group for Mpi {
    fn rank(&self) -> usize {
        self.launched.rank
    }

    fn size(&self) -> usize {
        self.launched.size
    }

    fn local_size(&self) -> usize {
        self.launched.local_size
    }

    fn local_rank(&self) -> usize {
        self.launched.local_rank
    }

    fn describe(&self) -> String {
        self.version.clone()
    }

    fn all_gather(&self, all: &mut [u32], block: usize) -> Result<(), GroupError> {
        let [counts, starts] = self.blocks(block, all.len())?;
        self.library().all_gather(all, &counts, &starts)
    }

    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError> {
        let [counts, starts] = self.blocks(block, len)?;
        self.library().gather(own, all, &counts, &starts)
    }

    fn exchange(&self, parts: &[u32], received: &mut [u32]) -> Result<(), GroupError> {
        let [counts, _] = self.blocks(parts.len() / self.size(), parts.len())?;
        self.library().exchange(parts, received, counts[0])
    }

    fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError> {
        words.chunks_mut(MESSAGE).try_for_each(|words| self.library().broadcast(words))
    }

    fn abort(&self) {
        self.library().abort();
    }
}
