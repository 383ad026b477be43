//! Normalisation and pooling on the CPU, in parallel over samples.

use rayon::prelude::*;

use super::{BackwardOperands, Forward, Shape};
use crate::device::Cpu;
use crate::ops::simd::{dot, sum, wide};

/// `y[b] = Σ_t LN(x[b, t] + delta[b, t]) / tokens`, with what the backward pass needs.
pub fn forward(shape: Shape, operands: Forward<'_, Cpu>) {
    let Shape { tokens, width, .. } = shape;
    let share = 1.0 / tokens as f32;
    let Forward { x, delta, gamma, beta, eps, y, normal, mean, rstd } = operands;
    let inputs = x.par_chunks(tokens * width).zip(delta.par_chunks(tokens * width));
    let statistics = mean.par_chunks_mut(tokens).zip(rstd.par_chunks_mut(tokens));
    let outputs = y.par_chunks_mut(width).zip(normal.par_chunks_mut(width));
    inputs.zip(statistics).zip(outputs).for_each(|(((x, delta), (mean, rstd)), (y, normal))| {
        wide(
            #[inline(always)]
            || {
                // Of a length that the compiler knows to be that of a row, so that the loops check no index.
                let normal = &mut normal[..width];
                normal.fill(0.0);
                let rows = x.chunks_exact(width).zip(delta.chunks_exact(width));
                for ((x, delta), (mean, rstd)) in rows.zip(mean.iter_mut().zip(rstd)) {
                    let s = |i: usize| x[i] + delta[i];
                    *mean = sum(width, s) / width as f32;
                    let variance = sum(width, |i| (s(i) - *mean) * (s(i) - *mean)) / width as f32;
                    *rstd = 1.0 / (variance + eps).sqrt();
                    let (mean, rstd) = (*mean, *rstd);
                    for (i, normal) in normal.iter_mut().enumerate() {
                        *normal += (s(i) - mean) * rstd;
                    }
                }
                for ((y, normal), (gamma, beta)) in y.iter_mut().zip(normal).zip(gamma.iter().zip(beta)) {
                    *normal *= share;
                    *y = *normal * gamma + beta;
                }
            },
        );
    });
}

/// `ds`, `dgamma (+)= Σ_b dy ∘ m`, `dbeta (+)= Σ_b dy`.
pub fn backward(shape: Shape, operands: BackwardOperands<'_, Cpu>) {
    let Shape { tokens, width, .. } = shape;
    let share = 1.0 / tokens as f32;
    let BackwardOperands { dy, x, delta, gamma, normal, mean, rstd, ds, dgamma, dbeta, .. } = operands;
    let inputs = x.par_chunks(tokens * width).zip(delta.par_chunks(tokens * width));
    let statistics = mean.par_chunks(tokens).zip(rstd.par_chunks(tokens));
    let outputs = ds.par_chunks_mut(tokens * width).zip(dy.par_chunks(width));
    inputs.zip(statistics).zip(outputs).for_each(|(((x, delta), (mean, rstd)), (ds, dy))| {
        wide(
            #[inline(always)]
            || {
                let (dy, gamma) = (&dy[..width], &gamma[..width]);
                let mean_g = dot(dy, gamma) * share / width as f32;
                let rows = x.chunks_exact(width).zip(delta.chunks_exact(width)).zip(ds.chunks_exact_mut(width));
                for (((x, delta), ds), (mean, rstd)) in rows.zip(mean.iter().zip(rstd)) {
                    let n = |i: usize| (x[i] + delta[i] - mean) * rstd;
                    let g = |i: usize| dy[i] * gamma[i] * share;
                    let mean_gn = sum(width, |i| g(i) * n(i)) / width as f32;
                    for (i, ds) in ds.iter_mut().enumerate() {
                        *ds = rstd * (g(i) - mean_g - n(i) * mean_gn);
                    }
                }
            },
        );
    });
    let ((dgamma, add_gamma), (dbeta, add_beta)) = (dgamma, dbeta);
    for (sums, add) in [(&mut *dgamma, add_gamma), (&mut *dbeta, add_beta)] {
        if !add {
            sums.fill(0.0);
        }
    }
    for (dy, normal) in dy.chunks_exact(width).zip(normal.chunks_exact(width)) {
        for ((dgamma, dbeta), (dy, normal)) in dgamma.iter_mut().zip(&mut *dbeta).zip(dy.iter().zip(normal)) {
            *dgamma += dy * normal;
            *dbeta += dy;
        }
    }
}
