//! Pooling on the CPU, in parallel over samples.

use rayon::prelude::*;

use super::{Pool, Shape};
use crate::device::{Cpu, DeviceError};

impl Pool for Cpu {
    fn pool_forward(&self, shape: &Shape, x: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        let &Shape { tokens, width, .. } = shape;
        y.par_chunks_mut(width).zip(x.par_chunks(tokens * width)).for_each(|(y, x)| {
            y.fill(0.0);
            for token in x.chunks_exact(width) {
                y.iter_mut().zip(token).for_each(|(y, x)| *y += x);
            }
            y.iter_mut().for_each(|y| *y /= tokens as f32);
        });
        Ok(())
    }

    fn pool_backward(&self, shape: &Shape, dy: &[f32], dx: &mut [f32]) -> Result<(), DeviceError> {
        let &Shape { tokens, width, .. } = shape;
        let factor = 1.0 / tokens as f32;
        dx.par_chunks_mut(tokens * width).zip(dy.par_chunks(width)).for_each(|(dx, dy)| {
            for token in dx.chunks_exact_mut(width) {
                token.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * factor);
            }
        });
        Ok(())
    }
}
