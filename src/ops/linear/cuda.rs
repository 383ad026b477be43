//! Matrix products on a GPU: cuBLASLt with a bias and, where it can, the GELU in the product's epilogue.

use super::{BackwardOperands, Forward, Linear, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, DType, Epilogue, Gemm, Operand, View, ViewMut};
use crate::ops::bias::cuda::{Rows, column_sums, column_sums_scratch_len};
use crate::ops::gelu::{self, Gelu};

/// Whether cuBLASLt's tanh-GELU epilogues serve: the saved input needs rows of a multiple of 16 bytes.
fn gelu_in_epilogue<T: ActType>(kind: Gelu, width: usize) -> bool {
    kind == Gelu::Tanh && T::DTYPE == DType::Bf16 && width.is_multiple_of(T::PACK)
}

impl<T: ActType> Linear for Cuda<T> {
    fn linear_scratch(shape: &Shape) -> usize {
        column_sums_scratch_len(shape.rows, shape.outputs)
    }

    fn linear_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError> {
        let Forward { x, weight, bias, gelu, y } = operands;
        let &Shape { rows, inputs, outputs } = shape;
        let product = |d: u64, epilogue| Gemm {
            m: rows,
            n: outputs,
            k: inputs,
            a: Operand::plain(x.address()),
            b: Operand::transposed(weight.address()),
            operands: T::DTYPE,
            d,
            result: T::DTYPE,
            accumulate: false,
            epilogue,
        };
        let biased = bias.map_or(Epilogue::None, |bias| Epilogue::Bias(bias.address()));
        match (gelu, bias) {
            (None, _) => self.driver().gemm(&product(y.address(), biased)),
            (Some((kind, pre)), Some(bias)) if gelu_in_epilogue::<T>(kind, outputs) => {
                let epilogue = Epilogue::GeluBias { bias: bias.address(), pre: pre.address() };
                self.driver().gemm(&product(y.address(), epilogue))
            }
            (Some((kind, pre)), _) => {
                self.driver().gemm(&product(pre.address(), biased))?;
                gelu::cuda::forward(self, kind, pre.address(), y.address(), y.len())
            }
        }
    }

    fn linear_gelu(&self, kind: Gelu, pre: View<'_, T>, y: ViewMut<'_, T>) -> Result<(), DeviceError> {
        gelu::cuda::forward(self, kind, pre.address(), y.address(), y.len())
    }

    fn linear_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { x, weight, gelu, dy, dx, x_gelu, dweight: (dweight, accumulate), dbias, scratch } =
            operands;
        let &Shape { rows, inputs, outputs } = shape;
        if let Some((kind, pre)) = gelu {
            gelu::cuda::backward(self, kind, pre.address(), dy.address(), dy.len())?;
        }
        if let Some(dbias) = dbias {
            Self::check_width("linear", outputs)?;
            let rows = Rows { address: dy.address(), rows, width: outputs, stride: outputs };
            column_sums(self, rows, dbias, &scratch)?;
        }
        let (x, dy) = (x.address(), dy.address());
        if let Some(dx) = dx {
            let fused = x_gelu.as_ref().filter(|(kind, _)| gelu_in_epilogue::<T>(*kind, inputs));
            let epilogue = fused.map_or(Epilogue::None, |(_, pre)| Epilogue::GeluSlope { pre: pre.address() });
            self.driver().gemm(&Gemm {
                m: rows,
                n: inputs,
                k: outputs,
                a: Operand::plain(dy),
                b: Operand::plain(weight.address()),
                operands: T::DTYPE,
                d: dx.address(),
                result: T::DTYPE,
                accumulate: false,
                epilogue,
            })?;
            if let (Some((kind, pre)), Epilogue::None) = (x_gelu, epilogue) {
                gelu::cuda::backward(self, kind, pre.address(), dx.address(), dx.len())?;
            }
        }
        self.driver().gemm(&Gemm {
            m: outputs,
            n: inputs,
            k: rows,
            a: Operand::transposed(dy),
            b: Operand::plain(x),
            operands: T::DTYPE,
            d: dweight.address(),
            result: DType::F32,
            accumulate,
            epilogue: Epilogue::None,
        })
    }
}
