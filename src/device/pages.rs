//! Memory of the CPU in large pages.
//!
//! A step's tensors take far more 4 KiB pages than a processor's TLBs hold, and in a virtual machine each miss is
//! looked up in two page tables. Many distributions give large pages only to memory for which a program asks
//! (`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`), and `malloc` does not ask.

use std::io;
use std::ptr::NonNull;

use memmap2::MmapMut;

/// A large page of x86-64, and of aarch64 with pages of 4 KiB.
const LARGE: usize = 2 << 20;

/// Zeroed memory, aligned to a page; blocks of at least half a large page are aligned to a large page.
#[derive(Debug)]
pub(super) struct Pages {
    // It is never used, only dropped: all access is through `start`.
    _map: MmapMut,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the block is plain bytes that this value owns.
unsafe impl Send for Pages {}
// SAFETY: a shared reference gives no access but a pointer, whose user must not let accesses conflict.
unsafe impl Sync for Pages {}

impl Pages {
    /// `len` bytes.
    ///
    /// # Errors
    /// If the system has no room for them.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let is_large = len >= LARGE / 2;
        // Whole large pages, and room to begin with one. What overflows cannot be mapped.
        let whole = || len.checked_next_multiple_of(LARGE)?.checked_add(LARGE);
        let mut map = MmapMut::map_anon(if is_large { whole().unwrap_or(len) } else { len.max(1) })?;
        let offset = if is_large { map.as_ptr().align_offset(LARGE) } else { 0 };
        #[cfg(target_os = "linux")]
        if is_large {
            // A kernel without large pages refuses. The memory is then as good as any other.
            let _refused = map.advise_range(memmap2::Advice::HugePage, offset, len.next_multiple_of(LARGE));
        }
        // SAFETY: the offset is inside the map.
        let start = unsafe { NonNull::from(&mut map[..]).cast().add(offset) };
        Ok(Self { _map: map, start, len })
    }

    /// The first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_zeroed_aligned_and_as_long_as_asked() {
        for len in [0, 1, 4096, LARGE / 2 - 1, LARGE / 2, LARGE, 3 * LARGE + 5] {
            let pages = Pages::new(len).unwrap();
            assert_eq!(pages.len(), len);
            let aligned = if len < LARGE / 2 { 4096 } else { LARGE };
            assert_eq!(pages.start().as_ptr() as usize % aligned, 0, "{len} bytes");
            // SAFETY: the block has this length, and nothing else uses it.
            let bytes = unsafe { std::slice::from_raw_parts_mut(pages.start().as_ptr(), len) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(1);
        }
    }

    #[test]
    fn too_long_a_block_is_an_error() {
        assert!(Pages::new(usize::MAX).is_err());
        assert!(Pages::new(usize::MAX - LARGE).is_err());
        assert!(Pages::new(1 << 60).is_err());
    }
}
