//! What ranks exchange within a step. Only bytes move between them; sums are made here, in the tree over micro-batches.

use rayon::prelude::*;

use crate::autograd::Parameters;
use crate::device::{Buffer, Device, DeviceError, Elem};
use crate::group::{Group, block_of};
use crate::ops::adamw::AdamW;
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
    let gather = |all: &mut [T]| group.all_gather(bytemuck::cast_slice_mut(all), block * size_of::<T>() / 4);
    let own = block_of(group.rank(), block, buffer.len());
    Ok(device.on_host(buffer.view_mut(), own, gather)??)
}

/// An update of which each rank does its own slice: `params` has the gradients of the rank's own micro-batches before,
/// and the new weights on every rank afterwards. A rank's own slice of the gradients is then the sum over all ranks.
pub(crate) fn update<D: AdamW>(
    device: &D,
    group: &dyn Group,
    slices: Slices,
    params: &mut Parameters<D>,
    optimizer: &mut Optimizer<D>,
) -> Result<(), DeviceError> {
    let (_, grads) = params.values_and_grads();
    let all = 0..grads.len();
    device.on_host(grads.view_mut(), all, |grads| sum(group, slices, grads))??;
    optimizer.square(device, params)?;
    all_gather(device, group, optimizer.partials_mut(), slices.norm_blocks())?;
    optimizer.update(device, params)?;
    let (values, shadow) = params.weights_mut();
    all_gather(device, group, values, slices.each())?;
    shadow.map_or(Ok(()), |shadow| all_gather(device, group, shadow, slices.each()))
}

/// Makes the own slice of `grads` the sum over all ranks, added in the tree; other slices stay as they are.
fn sum(group: &dyn Group, slices: Slices, grads: &mut [f32]) -> Result<(), crate::group::GroupError> {
    let (size, own) = (group.size(), slices.of(group.rank()));
    let piece = slices.each().min(PIECE);
    let [mut parts, mut received] = [(); 2].map(|()| vec![0f32; size * piece]);
    for start in (0..slices.each()).step_by(piece) {
        let cut = |range: std::ops::Range<usize>| block_of(0, piece, range.len().saturating_sub(start));
        let within = |rank| {
            let slice = slices.of(rank);
            let cut = cut(slice.clone());
            (slice.start + start).min(slice.end)..(slice.start + start).min(slice.end) + cut.len()
        };
        for (rank, part) in parts.chunks_mut(piece).enumerate() {
            let range = within(rank);
            part[..range.len()].copy_from_slice(&grads[range]);
        }
        group.exchange(bytemuck::cast_slice(&parts), bytemuck::cast_slice_mut(&mut received))?;
        let range = within(group.rank());
        debug_assert!(range.end <= own.end);
        add_up(&mut grads[range], &received, piece);
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
