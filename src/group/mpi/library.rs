//! An MPI library, opened at run time. One binary supports all three ABIs: handles are 32-bit integers in MPICH's ABI
//! and pointers in Open MPI's and in the standard ABI (MPI 5.0, chapter 20), and as arguments both take one register.

use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, Symbol};

use crate::group::library::{cause, open_first};
use crate::group::{GroupError, Launcher};

/// A handle of the library.
pub(super) type Handle = usize;
/// Function types, as in mpi.h.
type Init = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int, *mut c_int) -> c_int;
type Query = unsafe extern "C" fn(Handle, *mut c_int) -> c_int;
type AllGather =
    unsafe extern "C" fn(Handle, c_int, Handle, *mut u32, *const c_int, *const c_int, Handle, Handle) -> c_int;
type Gather =
    unsafe extern "C" fn(Handle, c_int, Handle, *mut u32, *const c_int, *const c_int, Handle, c_int, Handle) -> c_int;
type StartAllToAll = unsafe extern "C" fn(
    *const u32,
    *const c_int,
    *const c_int,
    Handle,
    *mut u32,
    *const c_int,
    *const c_int,
    Handle,
    Handle,
    *mut Handle,
) -> c_int;
type StartAllGather = unsafe extern "C" fn(
    Handle,
    c_int,
    Handle,
    *mut u32,
    *const c_int,
    *const c_int,
    Handle,
    Handle,
    *mut Handle,
) -> c_int;
type Test = unsafe extern "C" fn(*mut Handle, *mut c_int, *mut Status) -> c_int;
type Wait = unsafe extern "C" fn(*mut Handle, *mut Status) -> c_int;
type Broadcast = unsafe extern "C" fn(*mut u32, c_int, Handle, c_int, Handle) -> c_int;
type Describe = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;
type Explain = unsafe extern "C" fn(c_int, *mut c_char, *mut c_int) -> c_int;
type Abort = unsafe extern "C" fn(Handle, c_int) -> c_int;
type Finalize = unsafe extern "C" fn() -> c_int;

/// Room for an `MPI_Status`, which has at most 32 bytes.
type Status = [u64; 8];

/// Numbers and starts of the words of each rank.
pub(super) type Blocks = [Vec<c_int>; 2];

/// Constants in which the ABIs differ.
#[derive(Clone, Copy)]
struct Abi {
    world: Handle,
    /// `MPI_FLOAT`: a 32-bit type that every ABI has; nothing is computed with it.
    word: Handle,
    in_place: Handle,
    /// `MPI_THREAD_SERIALIZED`.
    serialized: c_int,
}

const STANDARD: Abi = Abi { world: 0x101, word: 0x210, in_place: 1, serialized: 2048 };
const MPICH: Abi = Abi { world: 0x4400_0000, word: 0x4c00_040a, in_place: usize::MAX, serialized: 2 };

/// The names of the libraries, by ABI.
const NAMES: [&str; 3] = ["libmpi_abi.so.1", "libmpi.so.40", "libmpi.so.12"];

/// An initialised library. Calls must not overlap, except that of [`MpiLibrary::abort`].
pub(super) struct MpiLibrary {
    // Never closed: the library's threads and exit handlers may still run.
    library: std::mem::ManuallyDrop<Library>,
    abi: Abi,
    pub(super) name: String,
}

/// The folder of the program that has started this process: the launcher, or its proxy on this machine.
fn folder_of_parent() -> Option<PathBuf> {
    let parent = std::fs::read_link(format!("/proc/{}/exe", std::os::unix::process::parent_id())).ok()?;
    parent.parent().map(Path::to_owned)
}

/// The paths and names to try, in order. `parent`: as [`folder_of_parent`].
fn candidates(
    launcher: Launcher,
    named: Option<OsString>,
    parent: Option<PathBuf>,
    path: Option<OsString>,
) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.into()];
    }
    let names: &[&str] = match launcher {
        Launcher::OpenMpi => &["libmpi.so.40"],
        Launcher::Hydra => &["libmpi_abi.so.1", "libmpi.so.12"],
        Launcher::Flipk | Launcher::Slurm | Launcher::Torchrun => &NAMES,
    };
    // A launcher's library lies beside it: `bin/mpiexec`, `lib/libmpi_abi.so.1`.
    let mut folders = path.iter().flat_map(std::env::split_paths);
    let in_path = folders.find(|folder| folder.join("mpiexec").is_file());
    let beside = [parent, in_path].into_iter().flatten().filter_map(|folder| Some(folder.parent()?.join("lib")));
    let beside = beside.flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    beside.filter(|path| path.is_file()).chain(names.iter().map(PathBuf::from)).collect()
}

impl MpiLibrary {
    /// Opens and initialises the library of `launcher`, or the one that the variable `FLIPK_MPI` names.
    pub(super) fn open(launcher: Launcher) -> Result<Self, GroupError> {
        let candidates =
            candidates(launcher, std::env::var_os("FLIPK_MPI"), folder_of_parent(), std::env::var_os("PATH"));
        let (library, path) = open_first(candidates).map_err(|tried| GroupError::NoMpi { tried })?;
        Self::start(library, &path)
    }

    fn start(library: Library, path: &Path) -> Result<Self, GroupError> {
        let name = path.display().to_string();
        let address = |symbol: &str| {
            // SAFETY: only the address is taken.
            unsafe { library.get::<*mut c_void>(symbol.as_bytes()) }.ok().map(|symbol| symbol.into_raw() as usize)
        };
        let standard = path.file_name().is_some_and(|name| name.to_string_lossy().contains("_abi"));
        let abi = match (address("ompi_mpi_comm_world"), address("ompi_mpi_float")) {
            (Some(world), Some(word)) => Abi { world, word, in_place: 1, serialized: 2 },
            _ if standard => STANDARD,
            _ => MPICH,
        };
        let this = Self { library: std::mem::ManuallyDrop::new(library), abi, name };
        let mut given = 0;
        // SAFETY: the function's own signature; null arguments are allowed (MPI 4.0, section 11.2).
        let code = unsafe {
            this.function::<Init>("MPI_Init_thread")?(
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                abi.serialized,
                &raw mut given,
            )
        };
        this.check("MPI_Init_thread", code)?;
        // Levels are in ascending order in every ABI.
        if given < abi.serialized {
            let problem = format!("{} does not allow calls from several threads (MPI_THREAD_SERIALIZED)", this.name);
            return Err(GroupError::Call { call: "MPI_Init_thread", problem });
        }
        Ok(this)
    }

    /// A function of the library. The caller names its type.
    fn function<T: Copy>(&self, name: &'static str) -> Result<T, GroupError> {
        // SAFETY: the types above are those of the MPI standard.
        let symbol: Result<Symbol<T>, _> = unsafe { self.library.get(name.as_bytes()) };
        symbol.map(|symbol| *symbol).map_err(|error| GroupError::Call { call: name, problem: cause(&error) })
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), GroupError> {
        if code == 0 {
            return Ok(());
        }
        let mut text = [0 as c_char; 4096];
        let mut len = 0;
        let explain = self.function::<Explain>("MPI_Error_string")?;
        // SAFETY: the text is longer than MPI_MAX_ERROR_STRING of every ABI.
        unsafe { explain(code, text.as_mut_ptr(), &raw mut len) };
        Err(GroupError::Call { call, problem: text_of(&text) })
    }

    fn query(&self, name: &'static str) -> Result<usize, GroupError> {
        let mut value = 0;
        // SAFETY: MPI_Comm_rank and MPI_Comm_size write one integer.
        let code = unsafe { self.function::<Query>(name)?(self.abi.world, &raw mut value) };
        self.check(name, code)?;
        Ok(usize::try_from(value).unwrap_or_default())
    }

    pub(super) fn rank(&self) -> Result<usize, GroupError> {
        self.query("MPI_Comm_rank")
    }

    pub(super) fn size(&self) -> Result<usize, GroupError> {
        self.query("MPI_Comm_size")
    }

    /// The first line of what the library says about itself.
    pub(super) fn version(&self) -> String {
        // MPI_MAX_LIBRARY_VERSION_STRING is at most 8192.
        let mut text = vec![0 as c_char; 16_384];
        let mut len = 0;
        if let Ok(describe) = self.function::<Describe>("MPI_Get_library_version") {
            // SAFETY: the text is long enough.
            unsafe { describe(text.as_mut_ptr(), &raw mut len) };
        }
        let text = text_of(&text);
        text.split([',', '\n'])
            .next()
            .unwrap_or_default()
            .replace("Version:", "")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// `counts` and `starts`: words of each rank's block in `all`; this rank's block is already in place.
    pub(super) fn all_gather(&self, all: &mut [u32], counts: &[c_int], starts: &[c_int]) -> Result<(), GroupError> {
        const NAME: &str = "MPI_Allgatherv";
        let Abi { world, word, in_place, .. } = self.abi;
        let call = self.function::<AllGather>(NAME)?;
        // SAFETY: all blocks lie in `all`.
        let code = unsafe { call(in_place, 0, word, all.as_mut_ptr(), counts.as_ptr(), starts.as_ptr(), word, world) };
        self.check(NAME, code)
    }

    /// As [`Self::all_gather`], to rank 0 alone; `all` is empty on other ranks.
    pub(super) fn gather(
        &self,
        own: &[u32],
        all: &mut [u32],
        counts: &[c_int],
        starts: &[c_int],
    ) -> Result<(), GroupError> {
        const NAME: &str = "MPI_Gatherv";
        let Abi { world, word, .. } = self.abi;
        let call = self.function::<Gather>(NAME)?;
        let (to, own_len) = (all.as_mut_ptr(), own.len() as c_int);
        // SAFETY: `own` is only read, and on rank 0 all blocks lie in `all`.
        let code = unsafe {
            call(own.as_ptr() as Handle, own_len, word, to, counts.as_ptr(), starts.as_ptr(), word, 0, world)
        };
        self.check(NAME, code)
    }

    /// Starts an exchange and returns its request. MPICH's are 32 bits wide, and the rest of the handle stays zero.
    ///
    /// # Safety
    /// All blocks lie in `parts` and `received`. These and the blocks stay where they are until the request is
    /// complete.
    pub(super) unsafe fn start_all_to_all(
        &self,
        (parts, to): (&[u32], &Blocks),
        (received, from): (&mut [u32], &Blocks),
    ) -> Result<Handle, GroupError> {
        const NAME: &str = "MPI_Ialltoallv";
        let Abi { world, word, .. } = self.abi;
        let call = self.function::<StartAllToAll>(NAME)?;
        let mut request = 0;
        let ([to, to_starts], [from, from_starts]) = (to, from);
        // SAFETY: as the caller promises.
        let code = unsafe {
            call(
                parts.as_ptr(),
                to.as_ptr(),
                to_starts.as_ptr(),
                word,
                received.as_mut_ptr(),
                from.as_ptr(),
                from_starts.as_ptr(),
                word,
                world,
                &raw mut request,
            )
        };
        self.check(NAME, code)?;
        Ok(request)
    }

    /// As [`Self::start_all_to_all`], for [`Self::all_gather`].
    ///
    /// # Safety
    /// All blocks lie in `all`, and both stay where they are until the request is complete.
    pub(super) unsafe fn start_all_gather(&self, all: &mut [u32], blocks: &Blocks) -> Result<Handle, GroupError> {
        const NAME: &str = "MPI_Iallgatherv";
        let Abi { world, word, in_place, .. } = self.abi;
        let call = self.function::<StartAllGather>(NAME)?;
        let ([counts, starts], mut request) = (blocks, 0);
        // SAFETY: as the caller promises.
        let code = unsafe {
            let (counts, starts) = (counts.as_ptr(), starts.as_ptr());
            call(in_place, 0, word, all.as_mut_ptr(), counts, starts, word, world, &raw mut request)
        };
        self.check(NAME, code)?;
        Ok(request)
    }

    /// Whether a request is complete.
    pub(super) fn test(&self, request: &mut Handle) -> Result<bool, GroupError> {
        const NAME: &str = "MPI_Test";
        let (mut complete, mut status) = (0, Status::default());
        // SAFETY: a request of this library, and room for its status.
        let code = unsafe { self.function::<Test>(NAME)?(request, &raw mut complete, &raw mut status) };
        self.check(NAME, code)?;
        Ok(complete != 0)
    }

    /// Waits for a request.
    pub(super) fn wait(&self, request: &mut Handle) -> Result<(), GroupError> {
        const NAME: &str = "MPI_Wait";
        let mut status = Status::default();
        // SAFETY: as above.
        let code = unsafe { self.function::<Wait>(NAME)?(request, &raw mut status) };
        self.check(NAME, code)
    }

    /// From rank 0; `words` is short enough for a C integer.
    pub(super) fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError> {
        const NAME: &str = "MPI_Bcast";
        let Abi { world, word, .. } = self.abi;
        // SAFETY: `words` has as many words as said.
        let code =
            unsafe { self.function::<Broadcast>(NAME)?(words.as_mut_ptr(), words.len() as c_int, word, 0, world) };
        self.check(NAME, code)
    }

    /// Ends all processes; `code` is the launcher's exit code.
    pub(super) fn abort(&self, code: u8) {
        if let Ok(abort) = self.function::<Abort>("MPI_Abort") {
            // SAFETY: the function's own signature.
            unsafe { abort(self.abi.world, code.into()) };
        }
    }

    /// Leaves the library; every rank must.
    pub(super) fn finalize(&self) {
        if let Ok(finalize) = self.function::<Finalize>("MPI_Finalize") {
            // SAFETY: the function's own signature.
            unsafe { finalize() };
        }
    }
}

fn text_of(text: &[c_char]) -> String {
    let bytes: &[u8] = bytemuck::cast_slice(text);
    CStr::from_bytes_until_nul(bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_the_launchers() {
        let folder = tempfile::tempdir().unwrap();
        let [bin, lib] = ["bin", "lib"].map(|name| folder.path().join(name));
        for folder in [&bin, &lib] {
            std::fs::create_dir(folder).unwrap();
        }
        let beside = lib.join("libmpi_abi.so.1");
        for path in [&bin.join("mpiexec"), &beside] {
            std::fs::write(path, "").unwrap();
        }
        let path = Some(bin.clone().into_os_string());
        let expected = [beside, "libmpi_abi.so.1".into(), "libmpi.so.12".into()];
        assert_eq!(candidates(Launcher::Hydra, None, None, path.clone()), expected);
        assert_eq!(candidates(Launcher::Hydra, None, Some(bin), None), expected);
        assert_eq!(candidates(Launcher::OpenMpi, None, None, path.clone()), [PathBuf::from("libmpi.so.40")]);
        assert_eq!(candidates(Launcher::OpenMpi, Some("/x/y".into()), None, path), [PathBuf::from("/x/y")]);
    }
}
