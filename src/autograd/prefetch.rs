//! Prefetch: uploads the next step's inputs while the current step runs.

use super::program::Program;
use super::slot::{Slot, SlotId};
use crate::device::{Device, DeviceError, Elem};

impl<D: Device> Program<D> {
    /// Allocates memory for the next contents of these buffers ([`Self::prefetch`]).
    ///
    /// # Errors
    /// If there is not enough.
    pub fn reserve_prefetch(&mut self, slots: &[SlotId]) -> Result<(), DeviceError> {
        for &slot in slots {
            let memory = self.device.allocate_unwritten(self.slots[slot.0].bytes, "the inputs of the next step")?;
            self.next_inputs.push((slot, memory));
        }
        Ok(())
    }

    /// Bytes of that memory.
    pub fn prefetch_bytes(&self) -> usize {
        self.next_inputs.iter().map(|(slot, _)| self.slots[slot.0].bytes).sum()
    }

    /// Uploads a buffer's contents for the next run while the current one may still be running.
    ///
    /// Panics if [`Self::reserve_prefetch`] did not name the buffer.
    pub fn prefetch<T: Elem>(&mut self, slot: Slot<T>, values: &[T]) -> Result<(), DeviceError> {
        let room = self.next_inputs.iter().find(|(id, _)| *id == slot.id).map(|(_, memory)| memory);
        let memory = room.expect("the buffer was reserved");
        // SAFETY: a block of this length; `&mut self` excludes every other view.
        self.device.upload_async(unsafe { D::view_mut(memory, 0, self.spans[0][slot.id.0].len) }, values)
    }

    /// Makes the prefetched contents those of the next run.
    pub fn swap_in(&mut self) -> Result<(), DeviceError> {
        let copies = self.next_inputs.iter().map(|(slot, memory)| {
            let (span, bytes) = (self.spans[0][slot.0], self.slots[slot.0].bytes);
            // SAFETY: the placement lies in the block, aligned, and the room has the slot's length; `&mut self` excludes every
            // other view.
            unsafe { (D::view_mut(&self.memory, span.offset, bytes), D::view(memory, 0, bytes)) }
        });
        self.device.swap_in(copies.collect())
    }
}
