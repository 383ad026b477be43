//! Layer normalisation on the CPU: one pass over the rows each way, in parallel over fixed blocks of them.

use rayon::prelude::*;

use super::{BackwardOperands, Forward, LayerNorm, Shape};
use crate::autograd::GradMut;
use crate::device::{Cpu, DeviceError};
use crate::ops::bias::cpu::add_partials;
use crate::simd::{sums, wide};

/// Rows of a block, and of one partial sum of the parameters' gradients.
const ROWS: usize = 64;

impl LayerNorm for Cpu {
    fn layernorm_scratch(shape: &Shape) -> usize {
        2 * shape.rows.div_ceil(ROWS) * shape.width
    }

    fn layernorm_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError> {
        let Forward { x, delta_sum, gamma, beta, eps, y, mean, rstd } = operands;
        let width = shape.width;
        let statistics = mean.par_chunks_mut(ROWS).zip(rstd.par_chunks_mut(ROWS));
        let blocks = y.par_chunks_mut(ROWS * width).zip(statistics);
        match delta_sum {
            Some((delta, sums)) => {
                let inputs = x.par_chunks(ROWS * width).zip(delta.par_chunks(ROWS * width));
                blocks.zip(inputs.zip(sums.par_chunks_mut(ROWS * width))).for_each(
                    |((y, (mean, rstd)), ((x, delta), sums))| {
                        wide(
                            #[inline(always)]
                            || {
                                let rows =
                                    sums.chunks_exact_mut(width).zip(y.chunks_exact_mut(width)).zip(mean).zip(rstd);
                                let inputs = x.chunks_exact(width).zip(delta.chunks_exact(width));
                                for ((((sums, y), mean), rstd), (x, delta)) in rows.zip(inputs) {
                                    for (sum, (x, delta)) in sums.iter_mut().zip(x.iter().zip(delta)) {
                                        *sum = x + delta;
                                    }
                                    (*mean, *rstd) = normalise(sums, gamma, beta, eps, y);
                                }
                            },
                        );
                    },
                );
            }
            None => blocks.zip(x.par_chunks(ROWS * width)).for_each(|((y, (mean, rstd)), x)| {
                wide(
                    #[inline(always)]
                    || {
                        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(mean).zip(rstd);
                        for (((x, y), mean), rstd) in rows {
                            (*mean, *rstd) = normalise(x, gamma, beta, eps, y);
                        }
                    },
                );
            }),
        }
        Ok(())
    }

    fn layernorm_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { dy, x, gamma, mean, rstd, dx, dgamma, dbeta, scratch } = operands;
        let width = shape.width;
        let (gammas, betas) = scratch.split_at_mut(scratch.len() / 2);
        let partials = gammas.par_chunks_mut(width).zip(betas.par_chunks_mut(width));
        let inputs = dy.par_chunks(ROWS * width).zip(x.par_chunks(ROWS * width));
        let statistics = mean.par_chunks(ROWS).zip(rstd.par_chunks(ROWS));
        let GradMut { view: dx, accumulate: accumulate_dx } = dx;
        let blocks = dx.par_chunks_mut(ROWS * width).zip(inputs).zip(statistics).zip(partials);
        blocks.for_each(|(((dx, (dy, x)), (mean, rstd)), (dgamma, dbeta))| {
            wide(
                #[inline(always)]
                || {
                    // Equal lengths, known to the compiler, avoid checks inside the loops.
                    let (gamma, dgamma, dbeta) = (&gamma[..width], &mut dgamma[..width], &mut dbeta[..width]);
                    dgamma.fill(0.0);
                    dbeta.fill(0.0);
                    let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width).zip(x.chunks_exact(width)));
                    for ((dx, (dy, x)), (&mean, &rstd)) in rows.zip(mean.iter().zip(rstd)) {
                        let (dx, dy, x) = (&mut dx[..width], &dy[..width], &x[..width]);
                        let totals = sums([dy, gamma, x], |[dy, gamma, x]| {
                            let g = dy * gamma;
                            [g, g * ((x - mean) * rstd)]
                        });
                        let [mean_g, mean_gx] = totals.map(|total| total / width as f32);
                        for i in 0..width {
                            let normal = (x[i] - mean) * rstd;
                            dgamma[i] += dy[i] * normal;
                            dbeta[i] += dy[i];
                            let ds = rstd * (dy[i] * gamma[i] - mean_g - normal * mean_gx);
                            dx[i] = if accumulate_dx { dx[i] + ds } else { ds };
                        }
                    }
                },
            );
        });
        add_partials(gammas, dgamma);
        add_partials(betas, dbeta);
        Ok(())
    }
}

/// `y = LN(x)` for one row, which stays in the L1 cache; returns its mean and `1 / √(variance + eps)`.
#[inline(always)]
fn normalise(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) -> (f32, f32) {
    let width = gamma.len() as f32;
    let [total] = sums([x], |[x]| [x]);
    let mean = total / width;
    let [squares] = sums([x], |[x]| [(x - mean) * (x - mean)]);
    let rstd = 1.0 / (squares / width + eps).sqrt();
    for ((y, x), (gamma, beta)) in y.iter_mut().zip(x).zip(gamma.iter().zip(beta)) {
        *y = (x - mean) * rstd * gamma + beta;
    }
    (mean, rstd)
}
