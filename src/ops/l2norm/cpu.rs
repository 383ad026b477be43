//! L2 normalisation on the CPU; the tensors are small (one row per sample).

use super::L2Norm;
use crate::device::{Cpu, DeviceError};
use crate::simd::dot;

const EPS: f32 = 1e-8;

impl L2Norm for Cpu {
    fn l2norm_forward(&self, width: usize, x: &[f32], y: &mut [f32], norm: &mut [f32]) -> Result<(), DeviceError> {
        for ((x, y), norm) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(norm) {
            *norm = dot(x, x).sqrt();
            let factor = 1.0 / (*norm + EPS);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * factor);
        }
        Ok(())
    }

    fn l2norm_backward(
        &self,
        width: usize,
        dy: &[f32],
        x: &[f32],
        norm: &[f32],
        dx: &mut [f32],
    ) -> Result<(), DeviceError> {
        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width).zip(x.chunks_exact(width)));
        for ((dx, (dy, x)), norm) in rows.zip(norm) {
            let factor = 1.0 / (norm + EPS);
            let along = if *norm > 0.0 { dot(x, dy) * factor * factor / norm } else { 0.0 };
            for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
                *dx = dy * factor - x * along;
            }
        }
        Ok(())
    }
}
