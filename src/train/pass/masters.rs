//! Parameters that ops read in f32, on a device where matrix products read a rounded copy: ranks gather the copies of
//! all parameters, and of these few the f32 values, too.

use std::ops::Range;

use crate::autograd::{Layout, Parameters};
use crate::device::{Blocks, Buffer, Device, DeviceError};
use crate::ops::copy_blocks::{COPY_BLOCK, CopyBlocks};
use crate::optim::Slices;

/// For each bucket, the blocks of these parameters that each rank updates.
pub(super) struct Masters<D: Device> {
    buckets: Vec<OfBucket>,
    /// For each bucket `[ranks, each]`: numbers of blocks of the values that this rank keeps, then -1.
    blocks: Buffer<D, i32>,
    /// `[ranks, each, COPY_BLOCK]` of the bucket that is being gathered; buckets use it in turn, on one stream.
    values: Buffer<D, f32>,
}

struct OfBucket {
    /// Blocks of the rank that has most; those of the others are padded to it.
    each: usize,
    /// Where those of all ranks are in `blocks`.
    all: Range<usize>,
}

/// For each bucket and rank the blocks of parameters that are read in f32.
fn blocks_of(layout: &Layout, slices: &Slices) -> Vec<Vec<Vec<usize>>> {
    let read = layout.specs().iter().filter(|spec| !spec.rounded);
    let read: Vec<_> = read.map(|spec| spec.offset / COPY_BLOCK..spec.range().end.div_ceil(COPY_BLOCK)).collect();
    let within = |own: Range<usize>| -> Vec<usize> {
        let own = own.start / COPY_BLOCK..own.end.div_ceil(COPY_BLOCK);
        read.iter().flat_map(|read| read.start.max(own.start)..read.end.min(own.end)).collect()
    };
    let of_bucket = |bucket| (0..slices.ranks()).map(|rank| within(slices.of(bucket, rank))).collect();
    (0..slices.buckets().len()).map(of_bucket).collect()
}

fn most(blocks: &[Vec<usize>]) -> usize {
    blocks.iter().map(Vec::len).max().unwrap_or(0)
}

/// Bytes that a rank sends of them with each bucket, in f32.
pub(crate) fn master_bytes(layout: &Layout, slices: &Slices) -> Vec<usize> {
    blocks_of(layout, slices).iter().map(|blocks| most(blocks) * COPY_BLOCK * size_of::<f32>()).collect()
}

impl<D: CopyBlocks> Masters<D> {
    /// # Errors
    /// If the device has too little memory.
    pub(super) fn new(device: &D, params: &Parameters<D>, slices: &Slices) -> Result<Self, DeviceError> {
        let place = |block: usize| {
            let place = params.values().place(block * COPY_BLOCK..(block + 1) * COPY_BLOCK).start / COPY_BLOCK;
            i32::try_from(place).unwrap_or(i32::MAX)
        };
        let (mut buckets, mut all) = (Vec::new(), Vec::new());
        for blocks in blocks_of(params.layout(), slices) {
            let (each, start) = (most(&blocks), all.len());
            for blocks in blocks {
                all.extend(blocks.into_iter().map(place).chain(std::iter::repeat(-1)).take(each));
            }
            buckets.push(OfBucket { each, all: start..all.len() });
        }
        let longest = buckets.iter().map(|bucket| bucket.all.len()).max().unwrap_or(0);
        let mut this = Self {
            buckets,
            blocks: Buffer::new(device, all.len(), "the numbers of blocks")?,
            values: Buffer::new(device, longest * COPY_BLOCK, "parameters in f32")?,
        };
        this.blocks.upload(device, &all)?;
        Ok(this)
    }

    /// Collects those of this rank's slice of a bucket, and returns the blocks of all ranks, which are to be gathered;
    /// `None` if the bucket has none.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn pack(
        &mut self,
        device: &D,
        (bucket, rank): (usize, usize),
        params: &Parameters<D>,
    ) -> Result<Option<Blocks<'_, D>>, DeviceError> {
        let Self { buckets, blocks, values } = self;
        let OfBucket { each, all } = &buckets[bucket];
        if all.is_empty() {
            return Ok(None);
        }
        let own = all.start + rank * each..all.start + (rank + 1) * each;
        let packed = rank * each * COPY_BLOCK..(rank + 1) * each * COPY_BLOCK;
        device.pack_blocks(params.values().buffer().view(), blocks.range(own), values.range_mut(packed))?;
        Ok(Some(values.blocks_mut(0..all.len() * COPY_BLOCK, each * COPY_BLOCK)))
    }

    /// Writes what was gathered to `params`.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn unpack(&self, device: &D, bucket: usize, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        let all = &self.buckets[bucket].all;
        if all.is_empty() {
            return Ok(());
        }
        let (blocks, values) = (self.blocks.range(all.clone()), self.values.range(0..all.len() * COPY_BLOCK));
        device.unpack_blocks(params.weights_mut().0.buffer_mut().view_mut(), blocks, values)
    }
}
