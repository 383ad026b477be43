//! Column sums on a GPU: `kernels/reduce.cu`.

use crate::autograd::GradMut;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args};

/// Row blocks of sums over columns: a function of the rows alone, so that sums have one order.
pub(in crate::ops) fn blocks(rows: usize) -> usize {
    rows.div_ceil(64).clamp(1, 256)
}

/// f32 elements of scratch for [`column_sums`].
pub fn column_sums_scratch_len(rows: usize, width: usize) -> usize {
    blocks(rows) * width
}

/// The first `width` columns of `rows` rows; a row begins `stride` elements after the one before.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    /// The elements, from the first row on.
    pub x: View<'a, T>,
    /// The number of rows.
    pub rows: usize,
    /// The number of columns.
    pub width: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// `sums[c] (+)= Σ_r x[r, c]` in a fixed order. If width or stride is no multiple of a pack, elements are read one by
/// one.
///
/// # Errors
/// If a launch fails.
pub fn column_sums<T: ActType>(
    device: &Cuda<T>,
    x: Rows<'_, T>,
    sums: GradMut<ViewMut<'_, f32>>,
    scratch: &ViewMut<'_, f32>,
) -> Result<(), DeviceError> {
    let Rows { x, rows, width, stride } = x;
    let blocks = blocks(rows);
    let (kernel, columns) = match width.is_multiple_of(T::PACK) && stride.is_multiple_of(T::PACK) {
        true => ("column_sums", T::PACK),
        false => ("column_sums_any", 1),
    };
    let config = LaunchConfig::blocks_2d([width.div_ceil(32 * columns), blocks], [32, 8]);
    device.launch_typed("reduce", kernel, config, args![x, scratch, rows, width, Arg::size(stride)])?;
    add_partials(device, Rows { x: scratch.as_view(), rows: blocks, width, stride: width }, sums)
}

/// `sums (+)=` the rows of partial sums, in a fixed order.
///
/// # Errors
/// If the launch fails.
pub fn add_partials<T: ActType>(
    device: &Cuda<T>,
    partials: Rows<'_, f32>,
    sums: GradMut<ViewMut<'_, f32>>,
) -> Result<(), DeviceError> {
    let Rows { x, rows, width, stride } = partials;
    let config = LaunchConfig::blocks_2d([width.div_ceil(32), 1], [32, 8]);
    device.launch("reduce", "add_partials", config, args![x, sums.view, rows, width, stride, sums.accumulate])
}
