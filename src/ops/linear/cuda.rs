//! Matrix products on a GPU: cuBLASLt with a bias and, where it can, the GELU in the product's epilogue.

use super::{BackwardOperands, Forward, Linear, Shape};
use crate::autograd::{Activation, GradMut};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, DType, Epilogue, Gemm, Operand, View, ViewMut};
use crate::ops::bias::cuda::{Rows, column_sums, column_sums_scratch_len};
use crate::ops::gelu;

/// Whether cuBLASLt's tanh-GELU epilogue applies: rows of the saved input must be multiples of 16 bytes.
fn gelu_in_epilogue<T: ActType>(kind: Activation, width: usize) -> bool {
    kind == Activation::GeluTanh && T::DTYPE == DType::Bf16 && width.is_multiple_of(T::PACK)
}

impl<T: ActType> Linear for Cuda<T> {
    fn linear_scratch(shape: &Shape) -> usize {
        column_sums_scratch_len(shape.rows, shape.outputs)
    }

    fn linear_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError> {
        let Forward { x, weight, bias, gelu, y } = operands;
        let &Shape { rows, inputs, outputs } = shape;
        let (x, weight) = (Operand::plain(x.address()), Operand::transposed(weight.address()));
        let run = |d: &ViewMut<'_, T>, epilogue| {
            let gemm = Gemm::new([rows, outputs, inputs], T::DTYPE, x, weight, d.address());
            self.driver().gemm(&Gemm { epilogue, ..gemm })
        };
        let biased = bias.map_or(Epilogue::None, |bias| Epilogue::Bias(bias.address()));
        match (gelu, bias) {
            (None, _) => run(&y, biased),
            (Some((kind, pre)), Some(bias)) if gelu_in_epilogue::<T>(kind, outputs) => {
                run(&y, Epilogue::GeluBias { bias: bias.address(), pre: pre.address() })
            }
            (Some((kind, pre)), _) => {
                run(&pre, biased)?;
                gelu::cuda::forward(self, kind, pre.as_view(), &y)
            }
        }
    }

    fn linear_gelu(&self, kind: Activation, pre: View<'_, T>, y: ViewMut<'_, T>) -> Result<(), DeviceError> {
        gelu::cuda::forward(self, kind, pre, &y)
    }

    fn linear_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { x, weight, gelu, dy, dx, x_gelu, dweight, dbias, scratch } = operands;
        let &Shape { rows, inputs, outputs } = shape;
        if let Some((kind, pre)) = gelu {
            gelu::cuda::backward(self, kind, pre, &dy)?;
        }
        if let Some(dbias) = dbias {
            let rows = Rows { x: dy.as_view(), rows, width: outputs, stride: outputs };
            column_sums(self, rows, dbias, &scratch)?;
        }
        let dy = dy.address();
        if let Some(dx) = dx {
            let fused = x_gelu.as_ref().filter(|(kind, _)| gelu_in_epilogue::<T>(*kind, inputs));
            let epilogue = fused.map_or(Epilogue::None, |(_, pre)| Epilogue::GeluSlope { pre: pre.address() });
            let (dy, weight) = (Operand::plain(dy), Operand::plain(weight.address()));
            let gemm = Gemm::new([rows, inputs, outputs], T::DTYPE, dy, weight, dx.address());
            self.driver().gemm(&Gemm { epilogue, ..gemm })?;
            if let (Some((kind, pre)), Epilogue::None) = (x_gelu, epilogue) {
                gelu::cuda::backward(self, kind, pre, &dx)?;
            }
        }
        let GradMut { view: dweight, accumulate } = dweight;
        let (dy, x) = (Operand::transposed(dy), Operand::plain(x.address()));
        let gemm = Gemm::new([outputs, inputs, rows], T::DTYPE, dy, x, dweight.address());
        self.driver().gemm(&Gemm { result: DType::F32, accumulate, ..gemm })
    }
}
