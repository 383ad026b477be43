//! Normalisation and pooling on a GPU: `kernels/pooled_norm.cu`.

use super::{BackwardOperands, Forward, PooledNorm, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{Activation, Cuda, Grid, args};
use crate::ops::bias::cuda::add_partials;
use crate::ops::layernorm::cuda::packs;

/// As in the kernels: threads of a block, and tokens of a block of the backward pass.
const THREADS: u32 = 128;
const TOKENS: usize = 16;

/// Partial sums of the parameters' gradients: a function of the samples alone, so that sums have one order.
fn partials(batch: usize) -> usize {
    batch.div_ceil(16).clamp(1, 256)
}

impl<T: Activation> PooledNorm for Cuda<T> {
    fn pooled_norm_scratch(shape: &Shape) -> usize {
        partials(shape.batch) * 2 * shape.width
    }

    fn pooled_norm_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError> {
        let Forward { x, delta, gamma, beta, eps, y, normal, mean, rstd } = operands;
        let kernel = format!("pooled_norm_forward_{}_{}", T::SUFFIX, packs::<T>("pooled_norm", shape.width)?);
        let (x, delta, gamma, beta) = (x.address(), delta.address(), gamma.address(), beta.address());
        let (y, normal, mean, rstd) = (y.address(), normal.address(), mean.address(), rstd.address());
        let [tokens, width] = [shape.tokens, shape.width].map(|size| size as i32);
        let args = args![x, delta, gamma, beta, y, normal, mean, rstd, tokens, width, eps];
        self.launch("pooled_norm", &kernel, Grid::line(shape.batch, THREADS), args)
    }

    fn pooled_norm_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { dy, x, delta, gamma, normal, mean, rstd, ds, dgamma, dbeta, scratch } = operands;
        let &Shape { batch, tokens, width } = shape;
        let kernel = format!("pooled_norm_backward_{}_{}", T::SUFFIX, packs::<T>("pooled_norm", width)?);
        let (x, delta, gamma, dy) = (x.address(), delta.address(), gamma.address(), dy.address());
        let [samples, per_sample, wide] = [batch, tokens, width].map(|size| size as i32);
        let args = args![dy, x, delta, gamma, mean.address(), rstd.address(), ds.address(), per_sample, wide];
        self.launch("pooled_norm", &kernel, Grid::line(batch * tokens.div_ceil(TOKENS), THREADS), args)?;

        let (rows, scratch) = (partials(batch), scratch.address());
        let columns = width.div_ceil(4 * THREADS as usize);
        let grid = Grid { blocks: [columns as u32, rows as u32, 1], threads: [THREADS, 1, 1], shared: 0 };
        let args = args![dy, normal.address(), scratch, samples, wide];
        self.launch("pooled_norm", "pooled_norm_parameters", grid, args)?;
        add_partials(self, scratch, (rows, width, 2 * width), dgamma)?;
        add_partials(self, scratch + 4 * width as u64, (rows, width, 2 * width), dbeta)
    }
}
