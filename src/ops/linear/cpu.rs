//! Matrix products on the CPU, on all threads of the calling rayon pool.

use super::{BackwardOperands, Forward, Linear, Shape};
use crate::autograd::Activation;
use crate::device::gemm::{Epilogue, Gemm, GemmOptions, Strides, gemm};
use crate::device::{Cpu, DeviceError};
use crate::ops::bias;
use crate::ops::gelu;

fn overwrite(cpu: &Cpu) -> GemmOptions {
    GemmOptions { operands: cpu.operands(), scale: 1.0, accumulate: false, parallel: true }
}

impl Linear for Cpu {
    fn linear_scratch(shape: &Shape) -> usize {
        bias::cpu::column_sums_scratch_len(shape.rows, shape.outputs)
    }

    fn linear_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError> {
        let Forward { x, weight, bias, gelu, y } = operands;
        let Shape { rows, inputs, outputs } = *shape;
        let x = (x, Strides::row_major(inputs));
        let weight = (weight, Strides::row_major(inputs).transposed());
        let with_bias = |column: usize, h: &mut [f32]| {
            if let Some(bias) = bias {
                bias::cpu::add(h, &bias[column..]);
            }
        };
        let (c, aux, epilogue): (_, _, &Epilogue) = match gelu {
            Some((kind, pre)) => (pre, y, &move |_, column, pre, y| {
                with_bias(column, pre);
                gelu::cpu::piece(kind, pre, y);
            }),
            None => (y, &mut [], &|_, column, y, _| with_bias(column, y)),
        };
        Gemm {
            sizes: (rows, outputs, inputs),
            c: (c, outputs),
            a: x,
            b: weight,
            options: overwrite(self),
            aux,
            epilogue: Some(epilogue),
        }
        .run();
        Ok(())
    }

    fn linear_gelu(&self, kind: Activation, pre: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        gelu::cpu::forward(kind, pre, y);
        Ok(())
    }

    fn linear_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { x, weight, gelu, dy, dx, x_gelu, dweight, dbias, scratch } = operands;
        let Shape { rows, inputs, outputs } = *shape;
        if let Some((kind, pre)) = gelu {
            gelu::cpu::backward(kind, pre, dy);
        }
        if let Some(dbias) = dbias {
            bias::cpu::column_sums(dy, outputs, dbias, scratch);
        }
        let options = overwrite(self);
        let (dy, x) = ((&*dy, Strides::row_major(outputs)), (x, Strides::row_major(inputs)));
        if let Some(dx) = dx {
            let weight = (weight, Strides::row_major(inputs));
            let epilogue = |row: usize, column: usize, dx: &mut [f32], _: &mut [f32]| {
                if let Some((kind, pre)) = x_gelu {
                    gelu::cpu::piece_backward(kind, &pre[row * inputs + column..], dx);
                }
            };
            Gemm {
                sizes: (rows, inputs, outputs),
                c: (dx, inputs),
                a: dy,
                b: weight,
                options,
                aux: &mut [],
                epilogue: Some(&epilogue),
            }
            .run();
        }
        let options = GemmOptions { accumulate: dweight.accumulate, ..options };
        let (dweight, dy) = ((dweight.view, Strides::row_major(inputs)), (dy.0, dy.1.transposed()));
        gemm((outputs, inputs, rows), dweight, dy, x, options);
        Ok(())
    }
}
