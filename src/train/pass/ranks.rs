//! What ranks gather within a step: embeddings, what the loss and the norm need, and weights.

use super::GradientExchange;
use crate::autograd::Parameters;
use crate::device::{Buffer, Device, DeviceError, Elem};
use crate::group::{Exchange, Group, block_of};
use crate::ops::adamw::AdamW;
use crate::ops::copy_blocks::CopyBlocks;
use crate::optim::Optimizer;

/// All-gather: rank `r` has written block `r` of `buffer`, `block` elements long; then every rank has all blocks.
pub(super) fn all_gather<D: Device, T: Elem>(
    device: &D,
    group: &dyn Group,
    buffer: &mut Buffer<D, T>,
    block: usize,
) -> Result<(), DeviceError> {
    let started = start_all_gather(device, group, buffer, block)?;
    finish_all_gather(device, started, buffer)
}

/// An all-gather that has been started; one of the device itself is queued on a stream of its own.
pub(super) struct Gathering(Option<Box<dyn Exchange>>);

impl Gathering {
    /// Lets MPI make progress: some libraries move data only during calls.
    pub(super) fn poll(&mut self) -> Result<(), DeviceError> {
        if let Some(exchange) = &mut self.0 {
            exchange.poll()?;
        }
        Ok(())
    }
}

/// As [`all_gather`], but only starts it. `buffer` must not be used until it is finished.
pub(super) fn start_all_gather<D: Device, T: Elem>(
    device: &D,
    group: &dyn Group,
    buffer: &mut Buffer<D, T>,
    block: usize,
) -> Result<Gathering, DeviceError> {
    let len = buffer.len();
    if group.size() == 1 {
        return Ok(Gathering(None));
    }
    debug_assert!((block * size_of::<T>()).is_multiple_of(4), "blocks are whole words");
    if device.connects_ranks() {
        device.fork(|| device.all_gather(group, buffer.view_mut(), len, block))?;
        return Ok(Gathering(None));
    }
    let own = block_of(group.rank(), block, len);
    let words = |elements: usize| elements * size_of::<T>() / size_of::<u32>();
    let own = device.on_host(buffer.range_mut(own.clone()), 0..own.len(), |own| bytemuck::pod_collect_to_vec(own))?;
    Ok(Gathering(Some(group.start_all_gather(own, words(block), words(len))?)))
}

/// Waits for an all-gather.
pub(super) fn finish_all_gather<D: Device, T: Elem>(
    device: &D,
    Gathering(exchange): Gathering,
    buffer: &mut Buffer<D, T>,
) -> Result<(), DeviceError> {
    match exchange {
        None => device.join(),
        Some(exchange) => {
            let words = exchange.wait()?;
            device.on_host(buffer.view_mut(), 0..0, |all| all.copy_from_slice(bytemuck::cast_slice(&words)))
        }
    }
}

/// Updates this rank's slices from the summed gradients; then all ranks get the new weights. The next forward pass
/// waits for them ([`GradientExchange::wait_for_weights`]).
pub(crate) fn update<D: AdamW + CopyBlocks>(
    device: &D,
    group: &dyn Group,
    exchange: &mut GradientExchange<D>,
    params: &mut Parameters<D>,
    optimizer: &mut Optimizer<D>,
) -> Result<(), DeviceError> {
    optimizer.square(device, params)?;
    all_gather(device, group, optimizer.partials_mut(), D::PARTIAL * exchange.slices().norm_blocks())?;
    optimizer.update(device, params)?;
    exchange.gather_weights(device, params)
}
