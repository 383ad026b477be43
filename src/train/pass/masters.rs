//! Parameters that ops read in f32, on a device where matrix products read a rounded copy: ranks gather the copies of
//! all parameters, and of these few the f32 values, too.

use crate::autograd::{Layout, Parameters};
use crate::device::{Buffer, Device, DeviceError};
use crate::group::Group;
use crate::ops::copy_blocks::{COPY_BLOCK, CopyBlocks};
use crate::optim::Slices;

/// The blocks of these parameters that each rank updates.
pub(super) struct Masters<D: Device> {
    /// Blocks of a rank, at most.
    each: usize,
    /// `[ranks, each]`: numbers of blocks of the values that this rank keeps, then -1.
    blocks: Buffer<D, i32>,
    /// `[ranks, each, COPY_BLOCK]`
    values: Buffer<D, f32>,
}

/// For each rank the blocks of parameters that are read in f32 and that it updates.
fn blocks_of(layout: &Layout, slices: &Slices) -> Vec<Vec<usize>> {
    let read = layout.specs().iter().filter(|spec| !spec.rounded);
    let read: Vec<_> = read.map(|spec| spec.offset / COPY_BLOCK..spec.range().end.div_ceil(COPY_BLOCK)).collect();
    let of = |rank: usize| -> Vec<usize> {
        let own = slices.own(rank);
        let own = own.iter().map(|own| own.start / COPY_BLOCK..own.end.div_ceil(COPY_BLOCK));
        let both = |own: std::ops::Range<usize>| {
            read.iter().flat_map(move |read| read.start.max(own.start)..read.end.min(own.end))
        };
        own.flat_map(both).collect()
    };
    (0..slices.ranks()).map(of).collect()
}

/// Bytes that a rank sends of them, in f32.
pub(crate) fn master_bytes(layout: &Layout, slices: &Slices) -> usize {
    let blocks = blocks_of(layout, slices).iter().map(Vec::len).max().unwrap_or(0);
    blocks * COPY_BLOCK * size_of::<f32>()
}

impl<D: CopyBlocks> Masters<D> {
    /// # Errors
    /// If the device has too little memory.
    pub(super) fn new(device: &D, params: &Parameters<D>, slices: &Slices) -> Result<Self, DeviceError> {
        let blocks = blocks_of(params.layout(), slices);
        let each = blocks.iter().map(Vec::len).max().unwrap_or(0);
        let place = |block: usize| {
            let place = params.values().place(block * COPY_BLOCK..(block + 1) * COPY_BLOCK).start / COPY_BLOCK;
            i32::try_from(place).unwrap_or(i32::MAX)
        };
        let padded = |blocks: Vec<usize>| blocks.into_iter().map(place).chain(std::iter::repeat(-1)).take(each);
        let padded: Vec<i32> = blocks.into_iter().flat_map(padded).collect();
        let mut this = Self {
            each,
            blocks: Buffer::new(device, padded.len(), "the numbers of blocks")?,
            values: Buffer::new(device, padded.len() * COPY_BLOCK, "parameters in f32")?,
        };
        this.blocks.upload(device, &padded)?;
        Ok(this)
    }

    /// Gathers the values of all ranks into `params`. On a device that moves its memory by itself, this is queued.
    ///
    /// # Errors
    /// If the device fails, or the group.
    pub(super) fn gather(
        &mut self,
        device: &D,
        group: &dyn Group,
        params: &mut Parameters<D>,
    ) -> Result<(), DeviceError> {
        let Self { each, blocks, values } = self;
        let own = group.rank() * *each..(group.rank() + 1) * *each;
        let packed = own.start * COPY_BLOCK..own.end * COPY_BLOCK;
        device.pack_blocks(params.values().buffer().view(), blocks.range(own), values.range_mut(packed))?;
        let len = values.len();
        device.all_gather(group, values.view_mut(), len, *each * COPY_BLOCK)?;
        device.unpack_blocks(params.weights_mut().0.buffer_mut().view_mut(), blocks.view(), values.view())
    }
}
