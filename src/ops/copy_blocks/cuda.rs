//! Copies of blocks on a GPU: `kernels/copy_blocks.cu`.

use super::{COPY_BLOCK, CopyBlocks};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args, kernels};

const _: () = assert!(kernels::copy_blocks::COPY_BLOCK == COPY_BLOCK);

fn copy_blocks<T: ActType>(device: &Cuda<T>, kernel: &str, count: usize, args: &[Arg]) -> Result<(), DeviceError> {
    device.launch("copy_blocks", kernel, LaunchConfig::for_elements(count * COPY_BLOCK, 4, 256), args)
}

impl<T: ActType> CopyBlocks for Cuda<T> {
    fn pack_blocks(
        &self,
        arena: View<'_, f32>,
        blocks: View<'_, i32>,
        dense: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        debug_assert!(dense.len() >= blocks.len() * COPY_BLOCK);
        copy_blocks(self, "pack_blocks", blocks.len(), args![arena, blocks, dense, blocks.len()])
    }

    fn unpack_blocks(
        &self,
        arena: ViewMut<'_, f32>,
        blocks: View<'_, i32>,
        dense: View<'_, f32>,
    ) -> Result<(), DeviceError> {
        debug_assert!(dense.len() >= blocks.len() * COPY_BLOCK);
        copy_blocks(self, "unpack_blocks", blocks.len(), args![arena, blocks, dense, blocks.len()])
    }
}
