//! Layer normalisation on the CPU: one pass over the rows each way, in parallel over fixed blocks of them.

use rayon::prelude::*;

use crate::ops::bias::cpu::add_partials;
use crate::simd::{sums, wide};

/// Rows of a block, and of one partial sum of the parameters' gradients.
const ROWS: usize = 64;

/// `sum = x + delta` where there is a `delta`, then `y = LN(sum)` or `y = LN(x)`; `x, y: [rows, width]`, `mean, rstd: [rows]`.
#[allow(clippy::too_many_arguments, reason = "the operands of one formula")]
pub fn forward(
    x: &[f32],
    delta: Option<&[f32]>,
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    sum_out: Option<&mut [f32]>,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    let width = gamma.len();
    let statistics = mean.par_chunks_mut(ROWS).zip(rstd.par_chunks_mut(ROWS));
    let blocks = y.par_chunks_mut(ROWS * width).zip(statistics);
    match (delta, sum_out) {
        (Some(delta), Some(sums)) => {
            let inputs = x.par_chunks(ROWS * width).zip(delta.par_chunks(ROWS * width));
            blocks.zip(inputs.zip(sums.par_chunks_mut(ROWS * width))).for_each(
                |((y, (mean, rstd)), ((x, delta), sums))| {
                    wide(
                        #[inline(always)]
                        || {
                            let rows = sums.chunks_exact_mut(width).zip(y.chunks_exact_mut(width)).zip(mean).zip(rstd);
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
        _ => blocks.zip(x.par_chunks(ROWS * width)).for_each(|((y, (mean, rstd)), x)| {
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
}

/// `y = LN(x)` for one row, which stays in the first-level cache; returns its mean and `1 / √(variance + eps)`.
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

/// f32 elements of scratch for [`backward`].
pub fn backward_scratch_len(rows: usize, width: usize) -> usize {
    2 * rows.div_ceil(ROWS) * width
}

/// `dx (+)= dLN(dy)`, `dgamma (+)= Σ dy ∘ x̂`, `dbeta (+)= Σ dy`; `x` is what was normalised.
#[allow(clippy::too_many_arguments, reason = "the operands of one formula")]
pub fn backward(
    dy: &[f32],
    x: &[f32],
    gamma: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dx: &mut [f32],
    accumulate_dx: bool,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    accumulate: bool,
    scratch: &mut [f32],
) {
    let width = gamma.len();
    let (gammas, betas) = scratch.split_at_mut(scratch.len() / 2);
    let partials = gammas.par_chunks_mut(width).zip(betas.par_chunks_mut(width));
    let inputs = dy.par_chunks(ROWS * width).zip(x.par_chunks(ROWS * width));
    let statistics = mean.par_chunks(ROWS).zip(rstd.par_chunks(ROWS));
    let blocks = dx.par_chunks_mut(ROWS * width).zip(inputs).zip(statistics).zip(partials);
    blocks.for_each(|(((dx, (dy, x)), (mean, rstd)), (dgamma, dbeta))| {
        wide(
            #[inline(always)]
            || {
                // Of one length for the compiler, too: no checks inside the loops.
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
    add_partials(gammas, dgamma, accumulate);
    add_partials(betas, dbeta, accumulate);
}
