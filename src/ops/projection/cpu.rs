//! The projection on the CPU, on all threads of the calling rayon pool.

use super::{BackwardOperands, Projection, Shape};
use crate::autograd::GradMut;
use crate::device::gemm::{GemmOptions, Operands, Strides, gemm};
use crate::device::{Cpu, DeviceError};

const OVERWRITE: GemmOptions = GemmOptions { operands: Operands::F32, scale: 1.0, accumulate: false, parallel: true };

impl Projection for Cpu {
    fn projection_forward(&self, shape: &Shape, x: &[f32], weight: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        let &Shape { rows, inputs, outputs } = shape;
        let wide = Strides::row_major(outputs);
        gemm((rows, outputs, inputs), (y, wide), (x, Strides::row_major(inputs)), (weight, wide), OVERWRITE);
        Ok(())
    }

    fn projection_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { x, weight, dy, dx, dweight: GradMut { view: dweight, accumulate } } = operands;
        let &Shape { rows, inputs, outputs } = shape;
        let (narrow, wide) = (Strides::row_major(inputs), Strides::row_major(outputs));
        if let Some(dx) = dx {
            gemm((rows, inputs, outputs), (dx, narrow), (dy, wide), (weight, wide.transposed()), OVERWRITE);
        }
        let options = GemmOptions { accumulate, ..OVERWRITE };
        gemm((inputs, outputs, rows), (dweight, wide), (x, narrow.transposed()), (dy, wide), options);
        Ok(())
    }
}
