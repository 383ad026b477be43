//! Matrix products on the CPU, on all threads of the calling rayon pool.

use super::{BackwardOperands, Forward, Linear, Shape};
use crate::device::product::{How, Strides, product};
use crate::device::{Cpu, DeviceError};
use crate::ops::bias;
use crate::ops::gelu::{self, Gelu};

fn overwrite(cpu: &Cpu) -> How {
    How { operands: cpu.operands(), scale: 1.0, accumulate: false, parallel: true }
}

impl Linear for Cpu {
    fn linear_scratch(shape: &Shape) -> usize {
        bias::cpu::column_sums_scratch_len(shape.rows, shape.outputs)
    }

    fn linear_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError> {
        let Forward { x, weight, bias, gelu, y } = operands;
        let Shape { rows, inputs, outputs } = *shape;
        let (sizes, how) = ((rows, outputs, inputs), overwrite(self));
        let (x, weight) = ((x, Strides::row_major(inputs)), (weight, Strides::row_major(inputs).transposed()));
        match (gelu, bias) {
            (Some((kind, pre)), Some(bias)) => {
                product(sizes, (&mut *pre, Strides::row_major(outputs)), x, weight, how);
                gelu::cpu::bias_gelu_forward(kind, pre, bias, y);
            }
            (Some((kind, pre)), None) => {
                product(sizes, (&mut *pre, Strides::row_major(outputs)), x, weight, how);
                gelu::cpu::forward(kind, pre, y);
            }
            (None, bias) => {
                product(sizes, (&mut *y, Strides::row_major(outputs)), x, weight, how);
                if let Some(bias) = bias {
                    bias::cpu::add_rows(y, bias);
                }
            }
        }
        Ok(())
    }

    fn linear_gelu(&self, kind: Gelu, pre: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        gelu::cpu::forward(kind, pre, y);
        Ok(())
    }

    fn linear_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { x, weight, gelu, dy, dx, x_gelu, dweight: (dweight, accumulate), dbias, scratch } =
            operands;
        let Shape { rows, inputs, outputs } = *shape;
        if let Some((kind, pre)) = gelu {
            gelu::cpu::backward(kind, pre, dy);
        }
        if let Some((dbias, accumulate)) = dbias {
            bias::cpu::column_sums(dy, outputs, dbias, accumulate, scratch);
        }
        let how = overwrite(self);
        let (dy, x) = ((&*dy, Strides::row_major(outputs)), (x, Strides::row_major(inputs)));
        if let Some(dx) = dx {
            product((rows, inputs, outputs), (&mut *dx, x.1), dy, (weight, Strides::row_major(inputs)), how);
            if let Some((kind, pre)) = x_gelu {
                gelu::cpu::backward(kind, pre, dx);
            }
        }
        let sizes = (outputs, inputs, rows);
        product(sizes, (dweight, Strides::row_major(inputs)), (dy.0, dy.1.transposed()), x, How { accumulate, ..how });
        Ok(())
    }
}
