//! Copies of blocks on a GPU: `kernels/copy_blocks.cu`.

use super::{COPY_BLOCK, CopyBlocks};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args, kernels};

const _: () = assert!(kernels::copy_blocks::COPY_BLOCK == COPY_BLOCK);

impl<T: ActType> CopyBlocks for Cuda<T> {
    fn pack_blocks(
        &self,
        arena: View<'_, f32>,
        blocks: View<'_, i32>,
        dense: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let count = blocks.len();
        debug_assert!(dense.len() >= count * COPY_BLOCK);
        let config = LaunchConfig::for_elements(count * COPY_BLOCK, 4, 256);
        self.launch("copy_blocks", "pack_blocks", config, args![arena, blocks, dense, count])
    }

    fn unpack_blocks(
        &self,
        arena: ViewMut<'_, f32>,
        blocks: View<'_, i32>,
        dense: View<'_, f32>,
    ) -> Result<(), DeviceError> {
        let count = blocks.len();
        debug_assert!(dense.len() >= count * COPY_BLOCK);
        let config = LaunchConfig::for_elements(count * COPY_BLOCK, 4, 256);
        self.launch("copy_blocks", "unpack_blocks", config, args![arena, blocks, dense, count])
    }
}
