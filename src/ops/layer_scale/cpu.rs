//! Layer scale on the CPU, in parallel over fixed blocks of rows.

use rayon::prelude::*;

use super::{BackwardOperands, LayerScale, Shape};
use crate::device::{Cpu, DeviceError};
use crate::ops::bias::cpu::{ROWS, add_partials, column_sums_scratch_len};
use crate::simd::wide;

impl LayerScale for Cpu {
    fn layer_scale_scratch(shape: &Shape) -> usize {
        column_sums_scratch_len(shape.rows, shape.width)
    }

    fn layer_scale_forward(&self, shape: &Shape, x: &[f32], gamma: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        let width = shape.width;
        y.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).for_each(|(y, x)| {
            wide(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        for ((y, x), gamma) in y.iter_mut().zip(x).zip(gamma) {
                            *y = x * gamma;
                        }
                    }
                },
            );
        });
        Ok(())
    }

    fn layer_scale_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { dy, x, gamma, dx, dgamma, scratch } = operands;
        let width = shape.width;
        let inputs = dy.par_chunks(ROWS * width).zip(x.par_chunks(ROWS * width));
        let outputs = dx.par_chunks_mut(ROWS * width).zip(scratch.par_chunks_mut(width));
        inputs.zip(outputs).for_each(|((dy, x), (dx, partial))| {
            wide(
                #[inline(always)]
                || {
                    partial.fill(0.0);
                    let rows = dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
                    for ((dy, x), dx) in rows {
                        for i in 0..width {
                            partial[i] = dy[i].mul_add(x[i], partial[i]);
                            dx[i] = dy[i] * gamma[i];
                        }
                    }
                },
            );
        });
        add_partials(&scratch[..Self::layer_scale_scratch(shape)], dgamma);
        Ok(())
    }
}
