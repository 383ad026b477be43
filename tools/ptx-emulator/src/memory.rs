//! Global memory: allocations, with a bit per byte that records whether it was written.
//!
//! Words are relaxed atomics: a data race between blocks gives wrong results, as on a GPU, but no undefined behaviour
//! here.

use crate::module::Module;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The first address: far from 0 and from the windows of shared and local memory.
const FIRST: u64 = 0x7000_0000_0000;
/// Alignment of allocations, and the least gap between them.
const ALIGN: u64 = 512;

/// One allocation.
#[derive(Debug)]
pub(crate) struct Block {
    pub start: u64,
    pub bytes: usize,
    words: Vec<AtomicU32>,
    /// A bit per byte: whether it has been written.
    written: Vec<AtomicU32>,
}

impl Block {
    fn new(start: u64, bytes: usize) -> Block {
        let zeros = |count: usize| (0..count).map(|_| AtomicU32::new(0)).collect();
        Block { start, bytes, words: zeros(bytes.div_ceil(4)), written: zeros(bytes.div_ceil(32)) }
    }

    pub(crate) fn holds(&self, address: u64, bytes: usize) -> bool {
        address >= self.start && address - self.start + bytes as u64 <= self.bytes as u64
    }

    /// Loads 1, 2, 4 or 8 aligned bytes at an offset.
    #[inline(always)]
    pub(crate) fn load(&self, at: usize, bytes: usize) -> u64 {
        let word = |i: usize| self.words[i].load(Relaxed);
        match bytes {
            8 => u64::from(word(at / 4)) | u64::from(word(at / 4 + 1)) << 32,
            4 => u64::from(word(at / 4)),
            _ => u64::from(word(at / 4) >> (at % 4 * 8)) & ((1 << (bytes * 8)) - 1),
        }
    }

    #[inline(always)]
    pub(crate) fn store(&self, at: usize, bytes: usize, value: u64) {
        match bytes {
            8 => {
                self.words[at / 4].store(value as u32, Relaxed);
                self.words[at / 4 + 1].store((value >> 32) as u32, Relaxed);
            }
            4 => self.words[at / 4].store(value as u32, Relaxed),
            _ => {
                let (shift, ones) = (at % 4 * 8, (1u32 << (bytes * 8)) - 1);
                let replace = |word: u32| Some(word & !(ones << shift) | (value as u32 & ones) << shift);
                // `replace` always returns `Some`.
                let _ = self.words[at / 4].fetch_update(Relaxed, Relaxed, replace);
            }
        }
    }

    /// Updates 2, 4 or 8 aligned bytes atomically and returns the old value.
    pub(crate) fn update(&self, at: usize, bytes: usize, change: impl Fn(u64) -> u64) -> u64 {
        if bytes == 8 {
            // Two words are not one atomic; a lock serialises their updates.
            static PAIRS: Mutex<()> = Mutex::new(());
            let _held = PAIRS.lock().unwrap_or_else(PoisonError::into_inner);
            let old = self.load(at, 8);
            self.store(at, 8, change(old));
            return old;
        }
        let (shift, ones) = (at % 4 * 8, if bytes == 2 { 0xffff } else { u32::MAX });
        let replace = |word: u32| {
            let new = change(u64::from(word >> shift & ones)) as u32;
            Some(word & !(ones << shift) | (new & ones) << shift)
        };
        let old = self.words[at / 4].fetch_update(Relaxed, Relaxed, replace).unwrap_or(0);
        u64::from(old >> shift & ones)
    }

    #[inline(always)]
    fn bits(at: usize, bytes: usize) -> (usize, u32) {
        (at / 32, (u32::MAX >> (32 - bytes)) << (at % 32))
    }

    /// Whether all of at most 32 aligned bytes were written.
    #[inline(always)]
    pub(crate) fn was_written(&self, at: usize, bytes: usize) -> bool {
        let (word, bits) = Self::bits(at, bytes);
        self.written[word].load(Relaxed) & bits == bits
    }

    #[inline(always)]
    pub(crate) fn mark_written(&self, at: usize, bytes: usize) {
        let (word, bits) = Self::bits(at, bytes);
        if self.written[word].load(Relaxed) & bits != bits {
            self.written[word].fetch_or(bits, Relaxed);
        }
    }

    /// The words of `written` for a range of bytes, each with a mask of its bits.
    fn cover(at: usize, bytes: usize) -> impl Iterator<Item = (usize, u32)> {
        let end = at + bytes;
        let ones = |count: usize| if count < 32 { (1 << count) - 1 } else { u32::MAX };
        (at / 32..end.div_ceil(32)).map(move |word| {
            let (first, last) = (at.saturating_sub(word * 32), end - word * 32);
            (word, ones(last) & !ones(first))
        })
    }

    fn first_unwritten(&self, at: usize, bytes: usize) -> Option<usize> {
        let missing = |(word, bits): (usize, u32)| (word, bits & !self.written[word].load(Relaxed));
        let found = Self::cover(at, bytes).map(missing).find(|(_, missing)| *missing != 0);
        found.map(|(word, missing)| word * 32 + missing.trailing_zeros() as usize)
    }

    fn forget(&self, at: usize, bytes: usize) {
        for (word, bits) in Self::cover(at, bytes) {
            self.written[word].fetch_and(!bits, Relaxed);
        }
    }
}

/// An invalid access to global memory by the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The address to free does not start an allocation.
    #[error("address {address:#x} is not the start of an allocation")]
    NotAllocated {
        /// The address.
        address: u64,
    },
    /// The range is not inside one allocation.
    #[error("{bytes} bytes at {address:#x} are not inside one allocation")]
    OutOfRange {
        /// Start of the range.
        address: u64,
        /// Its length.
        bytes: usize,
    },
    /// A byte is read that was never written.
    #[error("uninitialised read: the byte at {address:#x} was never written")]
    Uninit {
        /// Address of the first such byte.
        address: u64,
    },
}

/// The global memory of an emulated device. All methods take `&self` and lock.
#[derive(Debug, Default)]
pub struct Memory {
    blocks: RwLock<Blocks>,
    /// Addresses of modules' variables.
    symbols: Mutex<HashMap<(u64, usize), u64>>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// By address.
    list: Vec<Arc<Block>>,
    /// End of all addresses ever used: the address of a freed allocation is not reused.
    end: u64,
}

impl Memory {
    /// Memory without allocations.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Allocates `bytes` uninitialised bytes and returns their address.
    pub fn allocate(&self, bytes: usize) -> u64 {
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let start = blocks.end.max(FIRST);
        blocks.end = (start + bytes as u64).next_multiple_of(ALIGN) + ALIGN;
        blocks.list.push(Arc::new(Block::new(start, bytes)));
        start
    }

    /// Bytes of all allocations that have not been freed.
    pub fn allocated(&self) -> usize {
        self.snapshot().iter().map(|block| block.bytes).sum()
    }

    /// Frees an allocation.
    ///
    /// # Errors
    /// If `address` is not the start of one.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let found = blocks.list.binary_search_by_key(&address, |block| block.start);
        let at = found.map_err(|_| MemoryError::NotAllocated { address })?;
        blocks.list.remove(at);
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Vec<Arc<Block>> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner).list.clone()
    }

    fn find(&self, address: u64, bytes: usize) -> Result<(Arc<Block>, usize), MemoryError> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let after = blocks.list.partition_point(|block| block.start <= address);
        let block = after.checked_sub(1).map(|at| &blocks.list[at]).filter(|block| block.holds(address, bytes));
        let block = block.ok_or(MemoryError::OutOfRange { address, bytes })?;
        Ok((block.clone(), (address - block.start) as usize))
    }

    /// Copies `bytes` from the host.
    ///
    /// # Errors
    /// If the range is not inside one allocation.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let (block, start) = self.find(address, bytes.len())?;
        let mut at = start;
        let mut rest = bytes;
        while !rest.is_empty() {
            let take = if at % 4 == 0 && rest.len() >= 4 { 4 } else { 1 };
            let value = rest[..take].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            block.store(at, take, value);
            block.mark_written(at, take);
            at += take;
            rest = &rest[take..];
        }
        Ok(())
    }

    /// Copies to the host, whether the memory is initialised or not.
    ///
    /// # Errors
    /// If the range is not inside one allocation.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let (block, start) = self.find(address, bytes.len())?;
        let mut at = start;
        let mut rest = bytes;
        while !rest.is_empty() {
            let take = if at % 4 == 0 && rest.len() >= 4 { 4 } else { 1 };
            let (now, later) = rest.split_at_mut(take);
            now.copy_from_slice(&block.load(at, take).to_le_bytes()[..take]);
            at += take;
            rest = later;
        }
        Ok(())
    }

    /// Like [`Memory::read`], but fails on uninitialised bytes.
    ///
    /// # Errors
    /// If the range is not inside one allocation; at the first byte that was not written since it was allocated or
    /// [marked as uninitialised](Memory::mark_uninit).
    pub fn read_written(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let (block, start) = self.find(address, bytes.len())?;
        match block.first_unwritten(start, bytes.len()) {
            Some(at) => Err(MemoryError::Uninit { address: block.start + at as u64 }),
            None => self.read(address, bytes),
        }
    }

    /// Marks bytes as uninitialised: reading them before they are written again is an error.
    ///
    /// # Errors
    /// If the range is not inside one allocation.
    pub fn mark_uninit(&self, address: u64, bytes: usize) -> Result<(), MemoryError> {
        let (block, start) = self.find(address, bytes)?;
        block.forget(start, bytes);
        Ok(())
    }

    /// The addresses of a module's variables, which are allocated at its first launch.
    pub(crate) fn symbols(&self, module: &Module) -> Vec<u64> {
        let mut symbols = self.symbols.lock().unwrap_or_else(PoisonError::into_inner);
        let address = |(index, variable): (usize, &crate::module::ModuleVariable)| {
            *symbols.entry((module.id, index)).or_insert_with(|| {
                let address = self.allocate(variable.bytes);
                let mut content = variable.init.clone();
                content.resize(variable.bytes, 0);
                // Cannot fail: the allocation is as long.
                let _ = self.write(address, &content);
                address
            })
        };
        module.variables.iter().enumerate().map(address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_whatever_the_alignment() {
        let memory = Memory::new();
        let address = memory.allocate(23);
        let content: Vec<u8> = (0..20).collect();
        memory.write(address + 3, &content).unwrap();
        let mut back = [0; 20];
        memory.read(address + 3, &mut back).unwrap();
        assert_eq!(back[..], content);
        assert_eq!(
            memory.write(address + 4, &content),
            Err(MemoryError::OutOfRange { address: address + 4, bytes: 20 })
        );
        let (block, _) = memory.find(address, 1).unwrap();
        assert!(!block.was_written(0, 4) && block.was_written(4, 16) && !block.was_written(2, 2));
        memory.read_written(address + 3, &mut back).unwrap();
        memory.mark_uninit(address + 5, 1).unwrap();
        let unwritten = Err(MemoryError::Uninit { address: address + 5 });
        assert_eq!(memory.read_written(address + 3, &mut back), unwritten);
        memory.free(address).unwrap();
        assert_eq!(memory.free(address), Err(MemoryError::NotAllocated { address }));
        assert_ne!(memory.allocate(23), address);
    }
}
