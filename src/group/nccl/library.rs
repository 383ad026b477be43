//! `libnccl.so.2`, opened at run time. Only functions that move bytes are used, no reductions.

use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::path::PathBuf;

use libloading::os::unix::{Library, Symbol};

use crate::group::GroupError;
use crate::group::library::open_first;

/// `ncclUniqueId`, by which the ranks find each other.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub [c_char; 128]);

/// A communicator.
pub(super) type Comm = *mut c_void;
type Stream = *mut c_void;

/// `ncclUint32`: words of 32 bits.
const WORD: c_int = 3;

type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> c_int;
type InitRank = unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> c_int;
type AllGather = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> c_int;
type Broadcast = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
type Send = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
type Receive = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
type Plain = unsafe extern "C" fn() -> c_int;
type GetVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
type ErrorText = unsafe extern "C" fn(c_int) -> *const c_char;
type LastError = unsafe extern "C" fn(Comm) -> *const c_char;

/// The functions that flipk uses.
pub(super) struct NcclLibrary {
    get_unique_id: GetUniqueId,
    init_rank: InitRank,
    all_gather: AllGather,
    broadcast: Broadcast,
    send: Send,
    receive: Receive,
    group_start: Plain,
    group_end: Plain,
    version: c_int,
    error_text: ErrorText,
    last_error: LastError,
    // Never closed: its threads may still run.
    _library: std::mem::ManuallyDrop<Library>,
}

/// Where to look: what `FLIPK_NCCL` names, the loader's path, and the packages of an active Python environment.
fn candidates(named: Option<OsString>, environment: Option<OsString>) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.into()];
    }
    let pattern = environment.map(|folder| {
        PathBuf::from(folder).join("lib/python3*/site-packages/nvidia/nccl/lib/libnccl.so.2").display().to_string()
    });
    let installed = pattern.and_then(|pattern| glob::glob(&pattern).ok()).into_iter().flatten().flatten();
    [PathBuf::from("libnccl.so.2")].into_iter().chain(installed).collect()
}

impl NcclLibrary {
    pub(super) fn open() -> Result<Self, GroupError> {
        let candidates = candidates(std::env::var_os("FLIPK_NCCL"), std::env::var_os("VIRTUAL_ENV"));
        let (library, _) = open_first(candidates).map_err(|tried| GroupError::NoNccl { tried })?;
        Self::of(library)
    }

    fn of(library: Library) -> Result<Self, GroupError> {
        fn function<T: Copy>(library: &Library, name: &'static str) -> Result<T, GroupError> {
            // SAFETY: the types above are those of nccl.h.
            let symbol: Result<Symbol<T>, _> = unsafe { library.get(name.as_bytes()) };
            let missing = |_| GroupError::Call { call: name, problem: "this NCCL does not have it".to_owned() };
            symbol.map(|symbol| *symbol).map_err(missing)
        }
        let get_version: GetVersion = function(&library, "ncclGetVersion")?;
        let mut version = 0;
        // SAFETY: it writes one integer.
        unsafe { get_version(&raw mut version) };
        Ok(Self {
            get_unique_id: function(&library, "ncclGetUniqueId")?,
            init_rank: function(&library, "ncclCommInitRank")?,
            all_gather: function(&library, "ncclAllGather")?,
            broadcast: function(&library, "ncclBroadcast")?,
            send: function(&library, "ncclSend")?,
            receive: function(&library, "ncclRecv")?,
            group_start: function(&library, "ncclGroupStart")?,
            group_end: function(&library, "ncclGroupEnd")?,
            version,
            error_text: function(&library, "ncclGetErrorString")?,
            last_error: function(&library, "ncclGetLastError")?,
            _library: std::mem::ManuallyDrop::new(library),
        })
    }

    /// `2.32.3`, from 23203.
    pub(super) fn version(&self) -> String {
        format!("{}.{}.{}", self.version / 10_000, self.version / 100 % 100, self.version % 100)
    }

    fn check(&self, call: &'static str, code: c_int, comm: Comm) -> Result<(), GroupError> {
        if code == 0 {
            return Ok(());
        }
        let text = |text: *const c_char| match text.is_null() {
            true => String::new(),
            // SAFETY: NCCL's texts are static, or live as long as the communicator.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        };
        // SAFETY: both functions only read.
        let (error, last) = unsafe { (text((self.error_text)(code)), text((self.last_error)(comm))) };
        let problem = if last.is_empty() { error } else { format!("{error}: {last}") };
        Err(GroupError::Call { call, problem })
    }

    pub(super) fn unique_id(&self) -> Result<UniqueId, GroupError> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: it writes one id.
        let code = unsafe { (self.get_unique_id)(&raw mut id) };
        self.check("ncclGetUniqueId", code, std::ptr::null_mut())?;
        Ok(id)
    }

    /// Creates the communicator for the calling thread's current GPU; waits for all ranks.
    pub(super) fn join(&self, size: usize, id: UniqueId, rank: usize) -> Result<Comm, GroupError> {
        let mut comm = std::ptr::null_mut();
        // SAFETY: it writes one communicator.
        let code = unsafe { (self.init_rank)(&raw mut comm, size as c_int, id, rank as c_int) };
        self.check("ncclCommInitRank", code, std::ptr::null_mut())?;
        Ok(comm)
    }

    /// # Safety
    /// All blocks lie in memory of the communicator's GPU.
    pub(super) unsafe fn all_gather(&self, own: u64, all: u64, count: usize, to: To) -> Result<(), GroupError> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.all_gather)(own as _, all as _, count, WORD, to.comm, to.stream as _) };
        self.check("ncclAllGather", code, to.comm)
    }

    /// # Safety
    /// As [`Self::all_gather`].
    pub(super) unsafe fn broadcast(&self, block: u64, count: usize, root: usize, to: To) -> Result<(), GroupError> {
        let root = root as c_int;
        // SAFETY: as the caller promises.
        let code = unsafe { (self.broadcast)(block as _, block as _, count, WORD, root, to.comm, to.stream as _) };
        self.check("ncclBroadcast", code, to.comm)
    }

    /// # Safety
    /// As [`Self::all_gather`].
    pub(super) unsafe fn send(&self, from: u64, count: usize, peer: usize, to: To) -> Result<(), GroupError> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.send)(from as _, count, WORD, peer as c_int, to.comm, to.stream as _) };
        self.check("ncclSend", code, to.comm)
    }

    /// # Safety
    /// As [`Self::all_gather`].
    pub(super) unsafe fn receive(&self, into: u64, count: usize, peer: usize, to: To) -> Result<(), GroupError> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.receive)(into as _, count, WORD, peer as c_int, to.comm, to.stream as _) };
        self.check("ncclRecv", code, to.comm)
    }

    /// Makes the calls of `body` one NCCL group, so that they run at once. The group ends even if `body` fails.
    pub(super) fn grouped(&self, comm: Comm, body: impl FnOnce() -> Result<(), GroupError>) -> Result<(), GroupError> {
        // SAFETY: both take no arguments, and they are balanced.
        self.check("ncclGroupStart", unsafe { (self.group_start)() }, comm)?;
        let done = body();
        // SAFETY: as above.
        let ended = self.check("ncclGroupEnd", unsafe { (self.group_end)() }, comm);
        done.and(ended)
    }
}

/// The communicator and stream of a call.
#[derive(Clone, Copy)]
pub(super) struct To {
    pub comm: Comm,
    pub stream: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_environment_is_searched_and_a_named_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("lib/python3.11/site-packages/nvidia/nccl/lib");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(inside.join("libnccl.so.2"), "").unwrap();
        let found = candidates(None, Some(folder.path().into()));
        assert_eq!(found, [PathBuf::from("libnccl.so.2"), inside.join("libnccl.so.2")]);
        assert_eq!(candidates(Some("/x.so".into()), Some(folder.path().into())), [PathBuf::from("/x.so")]);
    }
}
