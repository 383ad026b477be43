//! Layer normalisation on a GPU: `kernels/layernorm.cu`.

use super::{BackwardOperands, Forward, LayerNorm, Shape};
use crate::device::DeviceError;
use crate::device::cuda::kernels::layernorm::{BF16, F32, STRIDE, WARPS};
use crate::device::cuda::{ActType, Cuda, LaunchConfig, args};
use crate::ops::bias::cuda::add_partials;

/// Packs per lane that the kernels were compiled for.
fn instances<T: ActType>() -> &'static [usize] {
    if T::PACK == 8 { BF16.as_flattened() } else { F32.as_flattened() }
}

/// The least instance that holds a row in one warp.
fn packs<T: ActType>(width: usize) -> Result<usize, DeviceError> {
    Cuda::<T>::check_width("layernorm", width)?;
    let too_wide =
        || DeviceError::Unsupported { what: format!("layernorm: a width of {width}; at most 2048 on a GPU") };
    instances::<T>().iter().copied().find(|packs| 32 * packs * T::PACK >= width).ok_or_else(too_wide)
}

/// Blocks of the backward pass: a function of the rows alone, so that sums have one order. At 8 rows per warp the partial sums,
/// written and read, are a sixteenth of what the rows move.
fn blocks(rows: usize) -> usize {
    rows.div_ceil(8 * WARPS).clamp(1, 528)
}

impl<T: ActType> LayerNorm for Cuda<T> {
    fn layernorm_scratch(shape: &Shape) -> usize {
        blocks(shape.rows) * 2 * shape.width
    }

    fn layernorm_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError> {
        let Forward { x, delta_sum, gamma, beta, eps, y, mean, rstd } = operands;
        let (delta, sum) = delta_sum.map_or((0, 0), |(delta, sum)| (delta.address(), sum.address()));
        let kernel = format!("layernorm_forward_{}_{}", T::SUFFIX, packs::<T>(shape.width)?);
        let [rows, width] = [shape.rows, shape.width].map(|size| size as i32);
        let (gamma, beta, mean, rstd) = (gamma.address(), beta.address(), mean.address(), rstd.address());
        let args = args![x.address(), delta, sum, gamma, beta, y.address(), mean, rstd, rows, width, eps];
        self.launch("layernorm", &kernel, LaunchConfig::blocks(shape.rows.div_ceil(WARPS), 32 * WARPS as u32), args)
    }

    fn layernorm_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { dy, x, gamma, mean, rstd, dx: (dx, add), dgamma, dbeta, scratch } = operands;
        let &Shape { rows, width } = shape;
        let packs = packs::<T>(width)?;
        let kernel = format!("layernorm_backward_{}_{packs}", T::SUFFIX);
        let blocks = blocks(rows);
        let shared = 2 * WARPS * packs * T::PACK / 4 * STRIDE * 16;
        let config = LaunchConfig::blocks(blocks, 32 * WARPS as u32).with_shared(shared);
        let (gamma, mean, rstd, partials) = (gamma.address(), mean.address(), rstd.address(), scratch.address());
        let (add, rows, wide) = (i32::from(add), rows as i32, width as i32);
        let args = args![dy.address(), x.address(), gamma, mean, rstd, dx.address(), add, partials, rows, wide];
        self.launch("layernorm", &kernel, config, args)?;
        add_partials(self, partials, (blocks, width, 2 * width), dgamma)?;
        add_partials(self, partials + 4 * width as u64, (blocks, width, 2 * width), dbeta)
    }
}
