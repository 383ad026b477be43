//! Layer normalisation on a GPU: `kernels/layernorm.cu`.

use super::{BackwardOperands, Forward, LayerNorm, Shape};
use crate::device::DeviceError;
use crate::device::cuda::kernels::layernorm::{BF16, F32, STRIDE, WARPS};
use crate::device::cuda::{ActType, Cuda, LaunchConfig, args};
use crate::ops::bias::cuda::{Rows, add_partials};

/// Packs per lane that the kernels were compiled for.
fn instances<T: ActType>() -> &'static [usize] {
    if T::PACK == 8 { BF16.as_flattened() } else { F32.as_flattened() }
}

/// The smallest instance for which a warp holds a row.
fn packs<T: ActType>(width: usize) -> Result<usize, DeviceError> {
    Cuda::<T>::check_width("layernorm", width)?;
    let too_wide =
        || DeviceError::Unsupported { what: format!("layernorm: a width of {width}; at most 2048 on a GPU") };
    instances::<T>().iter().copied().find(|packs| 32 * packs * T::PACK >= width).ok_or_else(too_wide)
}

/// Blocks of the backward pass: a function of the rows alone, so that sums have one order. At 8 rows per warp, writing
/// and reading the partial sums costs a sixteenth of the rows' traffic.
fn blocks(rows: usize) -> usize {
    rows.div_ceil(8 * WARPS).clamp(1, 528)
}

impl<T: ActType> LayerNorm for Cuda<T> {
    fn layernorm_scratch(shape: &Shape) -> usize {
        blocks(shape.rows) * 2 * shape.width
    }

    fn layernorm_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError> {
        let &Shape { rows, width } = shape;
        let Forward { x, delta_sum, gamma, beta, eps, y, mean, rstd } = operands;
        let (delta, sum) = delta_sum.unzip();
        let kernel = format!("layernorm_forward_{}_{}", T::SUFFIX, packs::<T>(width)?);
        let args = args![x, delta, sum, gamma, beta, y, mean, rstd, rows, width, eps];
        self.launch("layernorm", &kernel, LaunchConfig::blocks(rows.div_ceil(WARPS), 32 * WARPS as u32), args)
    }

    fn layernorm_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let &Shape { rows, width } = shape;
        let BackwardOperands { dy, x, gamma, mean, rstd, dx, dgamma, dbeta, scratch } = operands;
        let packs = packs::<T>(width)?;
        let kernel = format!("layernorm_backward_{}_{packs}", T::SUFFIX);
        let blocks = blocks(rows);
        let shared = 2 * WARPS * packs * T::PACK / 4 * STRIDE * 16;
        let config = LaunchConfig::blocks(blocks, 32 * WARPS as u32).with_shared(shared);
        let args = args![dy, x, gamma, mean, rstd, dx.view, dx.accumulate, scratch, rows, width];
        self.launch("layernorm", &kernel, config, args)?;
        // A row of partial sums holds those of gamma, then those of beta.
        let gammas = Rows { x: scratch.as_view(), rows: blocks, width, stride: 2 * width };
        add_partials(self, gammas, dgamma)?;
        add_partials(self, Rows { x: gammas.x.split_at(width).1, ..gammas }, dbeta)
    }
}
