//! Memory that has one owner and one element type, so that views of it are safe.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Blocks, Device, DeviceError, Elem, Pending};

/// A block of a device's memory with elements of type `T`.
pub struct Buffer<D: Device, T> {
    memory: D::Memory,
    len: usize,
    elem: PhantomData<T>,
}

impl<D: Device, T: Elem> Buffer<D, T> {
    /// `len` zeros. `purpose` goes into the error.
    ///
    /// # Errors
    /// If there is too little memory.
    pub fn new(device: &D, len: usize, purpose: &str) -> Result<Self, DeviceError> {
        let memory = device.allocate(len * size_of::<T>(), purpose)?;
        Ok(Self { memory, len, elem: PhantomData })
    }

    /// As [`Self::new`], for `len` elements that are written before they are read.
    ///
    /// # Errors
    /// If there is too little memory.
    pub fn unwritten(device: &D, len: usize, purpose: &str) -> Result<Self, DeviceError> {
        let memory = device.allocate_unwritten(len * size_of::<T>(), purpose)?;
        Ok(Self { memory, len, elem: PhantomData })
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// All elements.
    pub fn view(&self) -> D::View<'_, T> {
        self.range(0..self.len)
    }

    /// All elements, exclusively.
    pub fn view_mut(&mut self) -> D::ViewMut<'_, T> {
        self.range_mut(0..self.len)
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// If `range` does not lie in the buffer.
    pub fn range(&self, range: Range<usize>) -> D::View<'_, T> {
        self.check::<T>(range.start * size_of::<T>(), range.len());
        // SAFETY: the range lies in the block and is aligned. `&self` excludes `range_mut`; a caller of `alias_mut`
        // keeps away from its elements.
        unsafe { D::view(&self.memory, range.start * size_of::<T>(), range.len()) }
    }

    /// The elements of `range`, exclusively.
    ///
    /// # Panics
    /// If `range` does not lie in the buffer.
    pub fn range_mut(&mut self, range: Range<usize>) -> D::ViewMut<'_, T> {
        // SAFETY: `&mut self` excludes every other view.
        unsafe { self.alias_mut(range.start * size_of::<T>(), range.len()) }
    }

    /// The elements of `range`, exclusively, as the blocks of all ranks: `block` elements each, which are whole words.
    ///
    /// # Panics
    /// If `range` does not lie in the buffer.
    pub fn blocks_mut(&mut self, range: Range<usize>, block: usize) -> Blocks<'_, D> {
        let bytes = |elements: usize| elements * size_of::<T>();
        debug_assert!(bytes(block).is_multiple_of(4), "blocks are whole words");
        let (len, block) = (bytes(range.len()), bytes(block));
        Blocks { view: self.cast_mut(bytes(range.start), len), len, block }
    }

    /// Exclusive views of several ranges at once.
    ///
    /// # Panics
    /// If two ranges overlap, or one does not lie in the buffer.
    pub fn ranges_mut(
        &mut self,
        ranges: impl Iterator<Item = Range<usize>> + Clone,
    ) -> impl Iterator<Item = D::ViewMut<'_, T>> {
        let mut others = ranges.clone();
        while let Some(range) = others.next() {
            let apart = |other: Range<usize>| range.end <= other.start || other.end <= range.start;
            assert!(others.clone().all(apart), "exclusive ranges overlap");
        }
        let this = &*self;
        // SAFETY: `&mut self` excludes all other views, and these do not overlap.
        ranges.map(move |range| unsafe { this.alias_mut(range.start * size_of::<T>(), range.len()) })
    }

    /// Replaces all elements by `values`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn upload(&mut self, device: &D, values: &[T]) -> Result<(), DeviceError> {
        device.upload(self.view_mut(), values)
    }

    /// All elements on the host.
    ///
    /// # Errors
    /// If the device fails.
    pub fn download(&self, device: &D) -> Result<Vec<T>, DeviceError> {
        self.download_range(device, 0..self.len)
    }

    /// The elements of `range` on the host.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If `range` does not lie in the buffer.
    pub fn download_range(&self, device: &D, range: Range<usize>) -> Result<Vec<T>, DeviceError> {
        let mut values = vec![T::zeroed(); range.len()];
        device.download(&mut values, self.range(range))?;
        Ok(values)
    }

    /// `len` elements of type `U` from byte `offset` on.
    ///
    /// # Panics
    /// If they do not lie in the buffer, or are not aligned.
    pub fn cast<U: Elem>(&self, offset: usize, len: usize) -> D::View<'_, U> {
        self.check::<U>(offset, len);
        // SAFETY: as in `range`; every bit pattern is a `U`.
        unsafe { D::view(&self.memory, offset, len) }
    }

    /// `len` elements of type `U` from byte `offset` on, exclusively.
    ///
    /// # Panics
    /// If they do not lie in the buffer, or are not aligned.
    pub fn cast_mut<U: Elem>(&mut self, offset: usize, len: usize) -> D::ViewMut<'_, U> {
        // SAFETY: `&mut self` excludes every other view; every bit pattern is a `U`.
        unsafe { self.alias_mut(offset, len) }
    }

    /// As [`Self::cast_mut`], through a shared reference.
    ///
    /// # Safety
    /// While this view lives there is no other of any of its elements.
    ///
    /// # Panics
    /// As [`Self::cast_mut`].
    pub(crate) unsafe fn alias_mut<U: Elem>(&self, offset: usize, len: usize) -> D::ViewMut<'_, U> {
        self.check::<U>(offset, len);
        // SAFETY: the range lies in the block and is aligned; the caller excludes other views.
        unsafe { D::view_mut(&self.memory, offset, len) }
    }

    fn check<U: Elem>(&self, offset: usize, len: usize) {
        let fits = len.checked_mul(size_of::<U>()).and_then(|bytes| bytes.checked_add(offset));
        assert!(fits.is_some_and(|end| end <= self.bytes()), "a view reaches beyond its buffer");
        assert!(offset.is_multiple_of(align_of::<U>()), "a view is not aligned");
    }
}

impl<D: Device> Buffer<D, f32> {
    /// Starts a download of the elements of `range`, ordered after all work so far; returns at once.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If `range` does not lie in the buffer.
    pub fn download_async(&self, device: &D, range: Range<usize>) -> Result<Pending, DeviceError> {
        device.download_async(self.range(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;

    #[test]
    fn ranges_are_views_of_one_block() {
        let cpu = Cpu::default();
        let mut buffer = Buffer::<Cpu, f32>::new(&cpu, 6, "a test").unwrap();
        for (index, view) in buffer.ranges_mut([4..6, 0..3].into_iter()).enumerate() {
            view.fill(1.0 + index as f32);
        }
        assert_eq!(buffer.download(&cpu).unwrap(), [2.0, 2.0, 2.0, 0.0, 1.0, 1.0]);
        assert_eq!(buffer.cast::<u32>(16, 1), [1f32.to_bits()]);
        assert_eq!(buffer.range(6..6), [0.0; 0]);
    }

    #[test]
    #[should_panic = "exclusive ranges overlap"]
    fn exclusive_ranges_do_not_overlap() {
        let mut buffer = Buffer::<Cpu, u8>::new(&Cpu::default(), 9, "a test").unwrap();
        buffer.ranges_mut([0..3, 5..9, 2..4].into_iter()).for_each(drop);
    }

    #[test]
    #[should_panic = "a view reaches beyond its buffer"]
    fn a_view_ends_with_its_buffer() {
        let buffer = Buffer::<Cpu, f32>::new(&Cpu::default(), 3, "a test").unwrap();
        buffer.range(1..4);
    }

    #[test]
    #[should_panic = "a view is not aligned"]
    fn a_cast_is_aligned() {
        let buffer = Buffer::<Cpu, u8>::new(&Cpu::default(), 9, "a test").unwrap();
        buffer.cast::<f32>(2, 1);
    }
}
