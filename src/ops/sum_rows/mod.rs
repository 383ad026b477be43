//! Sums over rows in a fixed binary tree: neighbours are added, then neighbouring sums, level by level; the last of an
//! odd number moves up unchanged. Ranks add up what they receive of each other's gradients in this order.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

pub(crate) use self::cpu::sum_rows;
use crate::device::{Device, DeviceError};

/// Devices that add up rows.
pub trait SumRows: Device {
    /// `into` is the sum of the rows of `rows`, `[count, into.len()]`, of which there is at least one. The length of a
    /// row is a multiple of 4.
    fn sum_rows(
        &self,
        into: Self::ViewMut<'_, f32>,
        rows: Self::View<'_, f32>,
        count: usize,
    ) -> Result<(), DeviceError>;
}

/// Adds up `rows` in the tree, `width` numbers each; the sums are the first `width` afterwards.
pub(crate) fn sum_in_place(rows: &mut [f32], width: usize) {
    let mut distance = width;
    while distance < rows.len() {
        for pair in rows.chunks_mut(2 * distance).filter(|pair| pair.len() > distance) {
            let (left, right) = pair.split_at_mut(distance);
            left.iter_mut().zip(right).take(width).for_each(|(left, right)| *left += *right);
        }
        distance *= 2;
    }
}
