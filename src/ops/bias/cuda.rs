//! Column sums on a GPU: `kernels/reduce.cu`.

use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, ViewMut, args};

/// Row blocks of [`column_sums`]: a function of the rows alone, so that sums have one order.
fn blocks(rows: usize) -> usize {
    rows.div_ceil(64).clamp(1, 256)
}

/// f32 elements of scratch for [`column_sums`].
pub fn column_sums_scratch_len(rows: usize, width: usize) -> usize {
    blocks(rows) * width
}

/// Rows of activations at an address, of which `width` columns count.
#[derive(Clone, Copy)]
pub struct Rows {
    pub address: u64,
    pub rows: usize,
    pub width: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// `sums[c] (+)= Σ_r x[r, c]` in a fixed order; width and stride are multiples of a pack.
pub fn column_sums<T: ActType>(
    device: &Cuda<T>,
    x: Rows,
    (sums, accumulate): (ViewMut<'_, f32>, bool),
    scratch: &ViewMut<'_, f32>,
) -> Result<(), DeviceError> {
    let Rows { address, rows, width, stride } = x;
    let blocks = blocks(rows);
    let columns = width.div_ceil(32 * T::PACK);
    let config = LaunchConfig { blocks: [columns as u32, blocks as u32, 1], threads: [32, 8, 1], shared: 0 };
    let args = args![address, scratch.address(), rows as i32, width as i32, stride];
    device.launch_typed("reduce", "column_sums", config, args)?;
    add_partials(device, scratch.address(), (blocks, width, width), (sums, accumulate))
}

/// `sums (+)=` the `rows` rows of `width` partial sums, in a fixed order; a row begins `stride` after the one before.
pub fn add_partials<T: ActType>(
    device: &Cuda<T>,
    partials: u64,
    (rows, width, stride): (usize, usize, usize),
    (sums, accumulate): (ViewMut<'_, f32>, bool),
) -> Result<(), DeviceError> {
    let args = args![partials, sums.address(), rows as i32, width as i32, stride as i32, i32::from(accumulate)];
    let config = LaunchConfig { threads: [32, 8, 1], ..LaunchConfig::blocks(width.div_ceil(32), 32) };
    device.launch("reduce", "add_partials", config, args)
}
