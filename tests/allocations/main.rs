//! What allocates memory in steady state, counted by an allocator of the test's own.

mod loader;
mod step;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
/// Calls of `malloc`, by Rust and by C. C's other functions are not counted.
static MALLOCS: AtomicUsize = AtomicUsize::new(0);
/// Those by Rust.
static OWN_MALLOCS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // Others do not come from `malloc`.
        OWN_MALLOCS.fetch_add(usize::from(layout.align() <= 16), Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// glibc lets a program replace `malloc`; this one only counts, so that those of C are seen too.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod c {
    use std::ffi::c_void;
    use std::sync::atomic::Ordering;

    unsafe extern "C" {
        fn __libc_malloc(size: usize) -> *mut c_void;
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
        super::MALLOCS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: it is glibc's own.
        unsafe { __libc_malloc(size) }
    }
}

/// What was allocated.
struct Used {
    /// By Rust.
    allocations: usize,
    bytes: usize,
    /// Calls of `malloc` by C; 0 where that is not counted.
    by_c: usize,
}

/// Runs `work` in three rounds. Returns what all threads allocate in the round with the fewest bytes: a thread that had
/// no work before may allocate its buffers in one of them.
fn counted(mut work: impl FnMut()) -> Used {
    let counts = || [&ALLOCATIONS, &BYTES, &MALLOCS, &OWN_MALLOCS].map(|count| count.load(Ordering::Relaxed));
    let mut once = || {
        let before = counts();
        work();
        let after = counts();
        let [allocations, bytes, mallocs, own] = std::array::from_fn(|at| after[at] - before[at]);
        Used { allocations, bytes, by_c: mallocs.saturating_sub(own) }
    };
    let [first, second, third] = [once(), once(), once()];
    [second, third].into_iter().fold(first, |least, used| if used.bytes < least.bytes { used } else { least })
}

/// Keeps other tests of this program from allocating meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
