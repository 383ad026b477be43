//! Blocks of the parameter arena, gathered into a dense buffer and scattered back: what ranks send of the parameters
//! that are read in f32.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::autograd::DECAY_BLOCK;
use crate::device::{Device, DeviceError};

/// Elements of a block; every parameter starts at a multiple of it.
pub const COPY_BLOCK: usize = DECAY_BLOCK;

/// Devices that copy blocks.
pub trait CopyBlocks: Device {
    /// `dense[i] = arena[blocks[i]]`, in blocks of [`COPY_BLOCK`] elements. Negative numbers are skipped.
    fn pack_blocks(
        &self,
        arena: Self::View<'_, f32>,
        blocks: Self::View<'_, i32>,
        dense: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;

    /// `arena[blocks[i]] = dense[i]`, as [`Self::pack_blocks`]. No number but negative ones appears twice.
    fn unpack_blocks(
        &self,
        arena: Self::ViewMut<'_, f32>,
        blocks: Self::View<'_, i32>,
        dense: Self::View<'_, f32>,
    ) -> Result<(), DeviceError>;
}
