//! First tokens on the CPU.

use rayon::prelude::*;

use super::{FirstTokens, Shape};
use crate::device::{Cpu, DeviceError};

impl FirstTokens for Cpu {
    fn first_tokens_forward(&self, shape: &Shape, x: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        let &Shape { tokens, width, .. } = shape;
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(tokens * width)) {
            y.copy_from_slice(&x[..width]);
        }
        Ok(())
    }

    fn first_tokens_backward(&self, shape: &Shape, dy: &[f32], dx: &mut [f32]) -> Result<(), DeviceError> {
        let &Shape { tokens, width, .. } = shape;
        dx.par_chunks_mut(tokens * width).zip(dy.par_chunks(width)).for_each(|(dx, dy)| {
            let (first, others) = dx.split_at_mut(width);
            first.copy_from_slice(dy);
            others.fill(0.0);
        });
        Ok(())
    }
}
