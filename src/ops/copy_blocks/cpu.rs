//! Copies of blocks on the CPU.

use super::{COPY_BLOCK, CopyBlocks};
use crate::device::{Cpu, DeviceError};

/// For each number that is not negative, its place in `dense`, and that of its block in the arena.
fn places(blocks: &[i32]) -> impl Iterator<Item = (usize, usize)> {
    let places = blocks.iter().enumerate().filter_map(|(at, block)| Some((at, usize::try_from(*block).ok()?)));
    places.map(|(at, block)| (at * COPY_BLOCK, block * COPY_BLOCK))
}

impl CopyBlocks for Cpu {
    fn pack_blocks(&self, arena: &[f32], blocks: &[i32], dense: &mut [f32]) -> Result<(), DeviceError> {
        for (at, block) in places(blocks) {
            dense[at..at + COPY_BLOCK].copy_from_slice(&arena[block..block + COPY_BLOCK]);
        }
        Ok(())
    }

    fn unpack_blocks(&self, arena: &mut [f32], blocks: &[i32], dense: &[f32]) -> Result<(), DeviceError> {
        for (at, block) in places(blocks) {
            arena[block..block + COPY_BLOCK].copy_from_slice(&dense[at..at + COPY_BLOCK]);
        }
        Ok(())
    }
}
