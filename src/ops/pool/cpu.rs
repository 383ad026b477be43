//! Pooling on the CPU, in parallel over samples.

use rayon::prelude::*;

use super::{Pool, Shape};
use crate::device::{Cpu, DeviceError};

impl Pool for Cpu {
    fn pool_forward(&self, shape: &Shape, x: &[f32], delta: Option<&[f32]>, y: &mut [f32]) -> Result<(), DeviceError> {
        let &Shape { tokens, width, skip, .. } = shape;
        let pooled = |sample: usize| (sample * tokens + skip) * width..(sample + 1) * tokens * width;
        y.par_chunks_mut(width).enumerate().for_each(|(sample, y)| {
            y.fill(0.0);
            for x in [Some(x), delta].into_iter().flatten() {
                for token in x[pooled(sample)].chunks_exact(width) {
                    y.iter_mut().zip(token).for_each(|(y, x)| *y += x);
                }
            }
            y.iter_mut().for_each(|y| *y /= (tokens - skip) as f32);
        });
        Ok(())
    }

    fn pool_backward(&self, shape: &Shape, dy: &[f32], dx: &mut [f32]) -> Result<(), DeviceError> {
        let &Shape { tokens, width, skip, .. } = shape;
        let factor = 1.0 / (tokens - skip) as f32;
        dx.par_chunks_mut(tokens * width).zip(dy.par_chunks(width)).for_each(|(dx, dy)| {
            let (skipped, pooled) = dx.split_at_mut(skip * width);
            skipped.fill(0.0);
            for token in pooled.chunks_exact_mut(width) {
                token.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * factor);
            }
        });
        Ok(())
    }
}
