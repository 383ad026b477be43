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

/// All-gathers: rank `r` has written block `r` of each buffer; then every rank has all blocks.
pub(super) fn all_gather<D: Device>(
    device: &D,
    group: &dyn Group,
    mut buffers: Vec<OfRanks<'_, D>>,
) -> Result<(), DeviceError> {
    let started = start_all_gather(device, group, &mut buffers)?;
    finish_all_gather(device, started, buffers.into_iter().map(|(buffer, _)| buffer))
}

/// All-gathers that have been started; those of the device itself are queued on a stream of their own.
pub(super) struct Gathering(Vec<Box<dyn Exchange>>);

impl Gathering {
    /// Lets MPI make progress: some libraries move data only during calls.
    pub(super) fn poll(&mut self) -> Result<(), DeviceError> {
        self.0.iter_mut().try_for_each(|exchange| exchange.poll().map(drop))?;
        Ok(())
    }
}

/// As [`all_gather`], but only starts it. The buffers must not be used until it is finished.
pub(super) fn start_all_gather<D: Device>(
    device: &D,
    group: &dyn Group,
    buffers: &mut [OfRanks<'_, D>],
) -> Result<Gathering, DeviceError> {
    if group.size() == 1 {
        return Ok(Gathering(Vec::new()));
    }
    if device.connects_ranks() {
        let parts = buffers.iter_mut().map(|(buffer, block)| buffer.blocks_mut(0..buffer.len(), *block)).collect();
        device.fork(|| device.all_gather(group, parts))?;
        return Ok(Gathering(Vec::new()));
    }
    let start = |(buffer, block): &mut OfRanks<'_, D>| {
        let (own, len) = (block_of(group.rank(), *block, buffer.len()), buffer.len());
        let own =
            device.on_host(buffer.range_mut(own.clone()), 0..own.len(), |own| bytemuck::cast_slice(own).to_vec())?;
        Ok(group.start_all_gather(own, *block, len)?)
    };
    Ok(Gathering(buffers.iter_mut().map(start).collect::<Result<_, DeviceError>>()?))
}

/// Waits for all-gathers, which were started with the same buffers.
pub(super) fn finish_all_gather<'a, D: Device>(
    device: &D,
    Gathering(exchanges): Gathering,
    buffers: impl IntoIterator<Item = &'a mut Buffer<D, f32>>,
) -> Result<(), DeviceError> {
    for (exchange, buffer) in exchanges.into_iter().zip(buffers) {
        let words = exchange.wait()?;
        device.on_host(buffer.view_mut(), 0..0, |all| all.copy_from_slice(bytemuck::cast_slice(&words)))?;
    }
    device.join()
}

/// Updates this rank's slices from the summed gradients; then all ranks get the new weights. The next forward pass
/// waits for them ([`GradientExchange::wait_for_weights`]).
pub(crate) fn update<D: AdamW + CopyBlocks + SumRows>(
    device: &D,
    group: &dyn Group,
    exchange: &mut GradientExchange<D>,
    params: &mut Parameters<D>,
    optimizer: &mut Optimizer<D>,
) -> Result<(), DeviceError> {
    optimizer.square(device, params)?;
    all_gather(device, group, vec![(optimizer.partials_mut(), D::PARTIAL * exchange.slices().norm_blocks())])?;
    optimizer.update(device, params)?;
    exchange.gather_weights(device, params)
}
