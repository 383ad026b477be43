//! Inputs of the next run, which come while the present one is computed.

use super::program::Program;
use super::tape::{Slot, SlotId};
use crate::device::{Device, DeviceError, Elem};

/// Room for the next contents of some buffers, beside them.
pub(super) type Ahead<D> = Vec<(SlotId, <D as Device>::Memory)>;

impl<D: Device> Program<D> {
    /// Makes room for the contents of these buffers in the run after the present one ([`Self::write_ahead`]).
    ///
    /// # Errors
    /// If there is none.
    pub fn make_room_ahead(&mut self, slots: &[SlotId]) -> Result<(), DeviceError> {
        for &slot in slots {
            let memory = self.device.allocate_unwritten(self.slots[slot.0].bytes, "the inputs of the next step")?;
            self.ahead.push((slot, memory));
        }
        Ok(())
    }

    /// Bytes of that room.
    pub fn bytes_ahead(&self) -> usize {
        self.ahead.iter().map(|(slot, _)| self.slots[slot.0].bytes).sum()
    }

    /// Gives a buffer its contents for the next run from the host while the present one may still be computed.
    ///
    /// Panics if no room was made for it.
    pub fn write_ahead<T: Elem>(&mut self, slot: Slot<T>, values: &[T]) -> Result<(), DeviceError> {
        let room = self.ahead.iter().find(|(id, _)| *id == slot.id).map(|(_, memory)| memory);
        let memory = room.expect("room was made for what is written ahead");
        // SAFETY: a block of this length; `&mut self` excludes every other view.
        self.device.upload_aside(unsafe { D::view_mut(memory, 0, self.spans[0][slot.id.0].len) }, values)
    }

    /// The contents that were written ahead are those of the next run.
    pub fn take_ahead(&mut self) -> Result<(), DeviceError> {
        let copies = self.ahead.iter().map(|(slot, memory)| {
            let (span, bytes) = (self.spans[0][slot.0], self.slots[slot.0].bytes);
            // SAFETY: the placement lies in the block, aligned, and the room has the slot's length; `&mut self` excludes every
            // other view.
            unsafe { (D::view_mut(&self.memory, span.offset, bytes), D::view(memory, 0, bytes)) }
        });
        self.device.take_aside(copies.collect())
    }
}
