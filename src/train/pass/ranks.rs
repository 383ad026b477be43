//! What ranks gather within a step: embeddings, what the loss and the norm need, and weights.

use super::GradientExchange;
use crate::autograd::Parameters;
use crate::device::{Buffer, Device, DeviceError};
use crate::group::{Exchange, Group, block_of};
use crate::ops::adamw::AdamW;
use crate::ops::copy_blocks::CopyBlocks;
use crate::ops::sum_rows::SumRows;
use crate::optim::Optimizer;

/// A buffer for the blocks of all ranks, and the elements of a block.
pub(super) type OfRanks<'a, D> = (&'a mut Buffer<D, f32>, usize);

/// Whether a step exchanges anything: with other ranks, or with itself, if the device has been connected all the same,
/// to test that.
pub(in crate::train) fn exchanges<D: Device>(device: &D, group: &dyn Group) -> bool {
    group.size() > 1 || device.connects_ranks()
}

/// All-gathers: rank `r` has written block `r` of each buffer; then every rank has all blocks.
pub(super) fn all_gather<D: Device>(
    device: &D,
    group: &dyn Group,
    mut buffers: Vec<OfRanks<'_, D>>,
) -> Result<(), DeviceError> {
    let started = start_all_gather(device, group, &mut buffers)?;
    finish_all_gather(device, started, buffers.into_iter().map(|(buffer, _)| buffer))
}

/// All-gathers that have been started.
pub(super) enum Gathering {
    /// There are no other ranks.
    Alone,
    /// Queued by the device on a stream of their own.
    Forked,
    /// Through the host.
    Exchanges(Vec<Box<dyn Exchange>>),
}

impl Gathering {
    /// Lets MPI make progress: some libraries move data only during calls.
    pub(super) fn poll(&mut self) -> Result<(), DeviceError> {
        if let Self::Exchanges(exchanges) = self {
            exchanges.iter_mut().try_for_each(|exchange| exchange.poll().map(drop))?;
        }
        Ok(())
    }
}

/// As [`all_gather`], but only starts it. The buffers must not be used until it is finished.
pub(super) fn start_all_gather<D: Device>(
    device: &D,
    group: &dyn Group,
    buffers: &mut [OfRanks<'_, D>],
) -> Result<Gathering, DeviceError> {
    if !exchanges(device, group) {
        return Ok(Gathering::Alone);
    }
    if device.connects_ranks() {
        let parts = buffers.iter_mut().map(|(buffer, block)| buffer.blocks_mut(0..buffer.len(), *block)).collect();
        device.fork(|| device.all_gather(group, parts))?;
        return Ok(Gathering::Forked);
    }
    let start = |(buffer, block): &mut OfRanks<'_, D>| {
        let (own, len) = (block_of(group.rank(), *block, buffer.len()), buffer.len());
        let own =
            device.on_host(buffer.range_mut(own.clone()), 0..own.len(), |own| bytemuck::cast_slice(own).to_vec())?;
        Ok(group.start_all_gather(own, *block, len)?)
    };
    Ok(Gathering::Exchanges(buffers.iter_mut().map(start).collect::<Result<_, DeviceError>>()?))
}

/// Waits for all-gathers, which were started with the same buffers.
pub(super) fn finish_all_gather<'a, D: Device>(
    device: &D,
    gathering: Gathering,
    buffers: impl IntoIterator<Item = &'a mut Buffer<D, f32>>,
) -> Result<(), DeviceError> {
    match gathering {
        Gathering::Alone => Ok(()),
        Gathering::Forked => device.join(),
        Gathering::Exchanges(exchanges) => exchanges.into_iter().zip(buffers).try_for_each(|(exchange, buffer)| {
            let words = exchange.wait()?;
            device.on_host(buffer.view_mut(), 0..0, |all| all.copy_from_slice(bytemuck::cast_slice(&words)))
        }),
    }
}

/// Updates this rank's slices from the summed gradients. Other ranks get them by
/// [`GradientExchange::gather_weights`].
pub(crate) fn update<D: AdamW + CopyBlocks + SumRows>(
    device: &D,
    group: &dyn Group,
    exchange: &GradientExchange<D>,
    params: &mut Parameters<D>,
    optimizer: &mut Optimizer<D>,
) -> Result<(), DeviceError> {
    optimizer.square(device, params)?;
    all_gather(device, group, vec![(optimizer.partials_mut(), D::PARTIAL * exchange.slices().norm_blocks())])?;
    optimizer.update(device, params)
}
