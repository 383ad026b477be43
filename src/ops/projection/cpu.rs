//! The projection on the CPU, on all threads of the calling rayon pool.

use super::{BackwardOperands, Projection, Shape};
use crate::device::product::{How, Operands, Strides, product};
use crate::device::{Cpu, DeviceError};

const OVERWRITE: How = How { operands: Operands::F32, scale: 1.0, accumulate: false, parallel: true };

impl Projection for Cpu {
    fn projection_forward(&self, shape: &Shape, x: &[f32], weight: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        let &Shape { rows, inputs, outputs } = shape;
        let wide = Strides::row_major(outputs);
        product((rows, outputs, inputs), (y, wide), (x, Strides::row_major(inputs)), (weight, wide), OVERWRITE);
        Ok(())
    }

    fn projection_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { x, weight, dy, dx, dweight: (dweight, accumulate) } = operands;
        let &Shape { rows, inputs, outputs } = shape;
        let (narrow, wide) = (Strides::row_major(inputs), Strides::row_major(outputs));
        if let Some(dx) = dx {
            product((rows, inputs, outputs), (dx, narrow), (dy, wide), (weight, wide.transposed()), OVERWRITE);
        }
        let how = How { accumulate, ..OVERWRITE };
        product((inputs, outputs, rows), (dweight, wide), (x, narrow.transposed()), (dy, wide), how);
        Ok(())
    }
}
