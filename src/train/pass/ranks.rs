//! What ranks exchange within a step. Only bytes move between them; sums are made here, in the tree over micro-batches.

use std::ops::Range;

use rayon::prelude::*;

use crate::autograd::Parameters;
use crate::device::{Buffer, Device, DeviceError, Elem};
use crate::group::{Group, GroupError};
use crate::ops::adamw::{AdamW, NORM_BLOCK};
use crate::optim::{Optimizer, Slices};

/// Elements that a rank sends to each other one at a time.
const PIECE: usize = 1 << 20;

/// Gives all ranks the blocks of all: rank `r` has written block `r` of `buffer`, `block` elements long.
pub(super) fn all_gather<D: Device, T: Elem>(
    device: &D,
    group: &dyn Group,
    buffer: &mut Buffer<D, T>,
    block: usize,
) -> Result<(), DeviceError> {
    if group.size() == 1 {
        return Ok(());
    }
    debug_assert!((block * size_of::<T>()).is_multiple_of(4), "blocks are whole words");
    let len = buffer.len();
    device.all_gather(group, buffer.view_mut(), len, block)
}

/// Elements that a rank sends to each of `ranks` at a time when gradients are exchanged, from device to device or
/// through the host.
pub(crate) fn exchange_piece(slices: Slices, ranks: usize, by_devices: bool) -> usize {
    /// Elements from all ranks together.
    const ALL: usize = 1 << 24;
    match by_devices {
        true => slices.each().min((ALL / ranks).next_multiple_of(NORM_BLOCK)),
        false => slices.each().min(PIECE),
    }
}

/// Where the gradients of other ranks arrive, a buffer for each rank, on devices that exchange them by themselves.
pub(crate) struct ReceiveBuffers<D: Device>(Vec<Buffer<D, f32>>);

impl<D: Device> ReceiveBuffers<D> {
    /// # Errors
    /// If the device has too little memory.
    pub(crate) fn new(device: &D, slices: Slices, ranks: usize) -> Result<Self, DeviceError> {
        let each = exchange_piece(slices, ranks, true);
        let buffer = |_| Buffer::unwritten(device, each, "the gradients of other ranks");
        let ranks = if ranks > 1 && device.connects_ranks() { 0..ranks } else { 0..0 };
        Ok(Self(ranks.map(buffer).collect::<Result<_, _>>()?))
    }
}

/// An update of which each rank does its own slice: `params` has the gradients of the rank's own micro-batches before,
/// and the new weights on every rank afterwards. A rank's own slice of the gradients is then the sum over all ranks.
pub(crate) fn update<D: AdamW>(
    device: &D,
    group: &dyn Group,
    slices: Slices,
    receive_buffers: &mut ReceiveBuffers<D>,
    params: &mut Parameters<D>,
    optimizer: &mut Optimizer<D>,
) -> Result<(), DeviceError> {
    let (_, grads) = params.values_and_grads();
    if receive_buffers.0.is_empty() {
        let all = 0..grads.len();
        device.on_host(grads.view_mut(), all, |grads| sum(group, slices, grads))??;
    } else {
        sum_on_device(device, group.rank(), slices, receive_buffers, grads)?;
    }
    optimizer.square(device, params)?;
    all_gather(device, group, optimizer.partials_mut(), D::PARTIAL * slices.norm_blocks())?;
    optimizer.update(device, params)?;
    let (values, shadow) = params.weights_mut();
    all_gather(device, group, values, slices.each())?;
    shadow.map_or(Ok(()), |shadow| all_gather(device, group, shadow, slices.each()))
}

/// The elements of a rank's slice from `start` on, at most `piece`.
pub(crate) fn part_of(slices: Slices, rank: usize, start: usize, piece: usize) -> Range<usize> {
    let slice = slices.of(rank);
    let first = (slice.start + start).min(slice.end);
    first..(first + piece).min(slice.end)
}

/// As [`sum`], without the host.
fn sum_on_device<D: Device>(
    device: &D,
    rank: usize,
    slices: Slices,
    receive_buffers: &mut ReceiveBuffers<D>,
    grads: &mut Buffer<D, f32>,
) -> Result<(), DeviceError> {
    let ReceiveBuffers(buffers) = receive_buffers;
    let (size, piece) = (buffers.len(), buffers[0].len());
    for start in (0..slices.each()).step_by(piece) {
        let own = part_of(slices, rank, start, piece);
        let len = own.len();
        let sends: Vec<_> = (0..size).map(|rank| grads.range(part_of(slices, rank, start, piece))).collect();
        device.all_to_all(&sends, buffers.iter_mut().map(|buffer| buffer.range_mut(0..len)).collect())?;
        drop(sends);
        if len == 0 {
            continue;
        }
        let mut distance = 1;
        while distance < size {
            for left in (0..size - distance).step_by(2 * distance) {
                let (before, after) = buffers.split_at_mut(left + distance);
                device.add_into(before[left].range_mut(0..len), after[0].range(0..len))?;
            }
            distance *= 2;
        }
        device.copy(grads.range_mut(own), buffers[0].range(0..len))?;
    }
    Ok(())
}

/// Makes the own slice of `grads` the sum over all ranks, added in the tree; other slices stay as they are.
fn sum(group: &dyn Group, slices: Slices, grads: &mut [f32]) -> Result<(), GroupError> {
    let size = group.size();
    let piece = exchange_piece(slices, size, false);
    let [mut parts, mut received] = [(); 2].map(|()| vec![0f32; size * piece]);
    for start in (0..slices.each()).step_by(piece) {
        for (rank, part) in parts.chunks_mut(piece).enumerate() {
            let range = part_of(slices, rank, start, piece);
            part[..range.len()].copy_from_slice(&grads[range]);
        }
        group.all_to_all(bytemuck::cast_slice(&parts), bytemuck::cast_slice_mut(&mut received))?;
        add_up(&mut grads[part_of(slices, group.rank(), start, piece)], &received, piece);
    }
    Ok(())
}

/// The sum in the tree over as many leaves as `leaves` has pieces.
fn add_up(into: &mut [f32], leaves: &[f32], piece: usize) {
    /// Small enough for a core's first cache with sixteen leaves.
    const CHUNK: usize = 1 << 9;
    let count = leaves.len() / piece;
    into.par_chunks_mut(CHUNK).enumerate().for_each_init(
        || vec![0.0; count * CHUNK],
        |sums, (chunk, into)| {
            let (first, len) = (chunk * CHUNK, into.len());
            for (leaf, sum) in leaves.chunks(piece).zip(sums.chunks_mut(CHUNK)) {
                sum[..len].copy_from_slice(&leaf[first..first + len]);
            }
            super::sum_leaves(sums, CHUNK);
            into.copy_from_slice(&sums[..len]);
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Threads;
    use crate::train::pass::sum_leaves;

    /// The own slices of all ranks together are the sums in the tree, whatever the length.
    #[test]
    fn each_rank_has_the_sum_of_its_slice() {
        for (size, len) in [(1, 64), (2, 64), (3, 5 * 16_384 - 64), (5, 3 * 16_384), (2, 3 << 20)] {
            let slices = Slices::new(len, size);
            let grads = |rank: usize| -> Vec<f32> {
                (0..len)
                    .map(|at| libm::expf(((at * 37 + rank * 101) % 23) as f32) * if at % 3 == 0 { -1.0 } else { 1.1 })
                    .collect()
            };
            let ranks: Vec<_> = Threads::group(size)
                .into_iter()
                .map(|group| {
                    let mut grads = grads(group.rank());
                    std::thread::spawn(move || {
                        sum(&group, slices, &mut grads).unwrap();
                        (grads[slices.of(group.rank())].to_vec(), group)
                    })
                })
                .collect();
            let ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
            let found: Vec<f32> = ranks.iter().flat_map(|(own, _)| own.clone()).collect();
            let all: Vec<Vec<f32>> = (0..size).map(grads).collect();
            let expected = (0..len).map(|at| {
                let mut leaves: Vec<f32> = all.iter().map(|grads| grads[at]).collect();
                sum_leaves(&mut leaves, 1);
                leaves[0]
            });
            assert!(found.iter().copied().eq(expected), "{size} ranks, {len}");
        }
    }
}
