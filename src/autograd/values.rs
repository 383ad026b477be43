//! The f32 values of the parameters: of the whole arena, or of the parts that a rank needs.

use std::ops::Range;

use crate::device::{Buffer, Device, DeviceError};

/// The f32 values of parts of the arena, one part after the other in one buffer.
pub struct Values<D: Device> {
    /// In the order of the arena, with their places in the buffer.
    parts: Vec<(Range<usize>, usize)>,
    buffer: Buffer<D, f32>,
}

impl<D: Device> Values<D> {
    /// Zeros for these parts of the arena, which are in order and do not overlap.
    pub(super) fn new(device: &D, parts: Vec<Range<usize>>) -> Result<Self, DeviceError> {
        let mut len = 0;
        let place = |part: Range<usize>| {
            let start = len;
            len += part.len();
            (part, start)
        };
        let parts = parts.into_iter().map(place).collect();
        Ok(Self { parts, buffer: Buffer::new(device, len, "the weights")? })
    }

    /// Replaces all values by those of `arena`.
    pub(super) fn upload(&mut self, device: &D, arena: &[f32]) -> Result<(), DeviceError> {
        let Self { parts, buffer } = self;
        parts.iter().try_for_each(|(part, place)| {
            device.upload(buffer.range_mut(*place..place + part.len()), &arena[part.clone()])
        })
    }

    /// Where a range of the arena is in the buffer.
    ///
    /// # Panics
    /// If it does not lie in one of the parts.
    pub fn place(&self, range: Range<usize>) -> Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        let after = self.parts.partition_point(|(part, _)| part.start <= range.start);
        let found = after.checked_sub(1).map(|at| &self.parts[at]).filter(|(part, _)| range.end <= part.end);
        let (part, place) = found.expect("these values are only on other ranks in f32");
        place + range.start - part.start..place + range.end - part.start
    }

    /// The values of a range of the arena.
    ///
    /// # Panics
    /// As [`Self::place`].
    pub fn range(&self, range: Range<usize>) -> D::View<'_, f32> {
        self.buffer.range(self.place(range))
    }

    /// As [`Self::range`], exclusively.
    ///
    /// # Panics
    /// As [`Self::place`].
    pub fn range_mut(&mut self, range: Range<usize>) -> D::ViewMut<'_, f32> {
        self.buffer.range_mut(self.place(range))
    }

    /// The whole buffer.
    pub fn buffer(&self) -> &Buffer<D, f32> {
        &self.buffer
    }

    /// The whole buffer, exclusively.
    pub fn buffer_mut(&mut self) -> &mut Buffer<D, f32> {
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;

    #[test]
    fn parts_lie_one_after_the_other() {
        let (cpu, arena) = (Cpu::default(), Vec::from_iter((0..512).map(|at| at as f32)));
        let mut values = Values::new(&cpu, vec![64..128, 192..320, 448..512]).unwrap();
        values.upload(&cpu, &arena).unwrap();
        assert_eq!(values.buffer().len(), 64 + 128 + 64);
        for range in [64..128, 70..71, 192..320, 200..310, 448..450, 511..512] {
            assert_eq!(values.range(range.clone()), &arena[range]);
        }
        assert!(values.range(5..5).is_empty());
    }

    #[test]
    #[should_panic = "only on other ranks"]
    fn a_range_lies_in_one_part() {
        let values = Values::new(&Cpu::default(), vec![64..128, 192..256]).unwrap();
        values.range(100..200);
    }
}
