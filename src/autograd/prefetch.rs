//! Prefetch: uploads the next step's inputs while the current step runs.

use super::program::Program;
use super::slot::{Slot, SlotId};
use crate::device::{Buffer, Device, DeviceError, Elem};

impl<D: Device> Program<D> {
    /// Allocates memory for the next contents of these buffers ([`Self::prefetch`]).
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn reserve_prefetch(&mut self, slots: &[SlotId]) -> Result<(), DeviceError> {
        for &slot in slots {
            let next = Buffer::unwritten(&*self.device, self.slots[slot.0].bytes, "the inputs of the next step")?;
            self.next_inputs.push((slot, next));
        }
        Ok(())
    }

    /// Bytes that [`Self::reserve_prefetch`] allocated.
    pub fn prefetch_bytes(&self) -> usize {
        self.next_inputs.iter().map(|(_, next)| next.bytes()).sum()
    }

    /// Uploads a buffer's contents for the next run while the current one may still be running.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If [`Self::reserve_prefetch`] did not name the buffer, or it has another length than `values`.
    pub fn prefetch<T: Elem>(&mut self, slot: Slot<T>, values: &[T]) -> Result<(), DeviceError> {
        let next = self.next_inputs.iter_mut().find(|(id, _)| *id == slot.id).map(|(_, next)| next);
        let next = next.expect("the buffer was reserved");
        self.device.upload_async(next.cast_mut(0, self.spans[0][slot.id.0].len), values)
    }

    /// Makes the prefetched contents those of the next run.
    ///
    /// # Errors
    /// If the device fails.
    pub fn swap_in(&mut self) -> Result<(), DeviceError> {
        let Self { memory, next_inputs, spans, .. } = self;
        let ranges = next_inputs.iter().map(|(slot, next)| {
            let start = spans[0][slot.0].offset;
            start..start + next.bytes()
        });
        let copies = memory.ranges_mut(ranges).zip(next_inputs.iter().map(|(_, next)| next.view()));
        self.device.swap_in(copies.collect())
    }
}
