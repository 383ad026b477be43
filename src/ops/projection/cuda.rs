//! The projection on a GPU, by cuBLASLt in f32.

use super::{BackwardOperands, Projection, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, DType, Epilogue, Gemm, Operand, View, ViewMut};

/// `d = a b`, or `d += a b`, all in f32.
fn gemm((m, n, k): (usize, usize, usize), a: Operand, b: Operand, d: u64, accumulate: bool) -> Gemm {
    let (operands, result, epilogue) = (DType::F32, DType::F32, Epilogue::None);
    Gemm { m, n, k, a, b, operands, d, result, accumulate, epilogue }
}

impl<T: ActType> Projection for Cuda<T> {
    fn projection_forward(
        &self,
        shape: &Shape,
        x: View<'_, f32>,
        weight: View<'_, f32>,
        y: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let &Shape { rows, inputs, outputs } = shape;
        let (x, weight) = (Operand::plain(x.address()), Operand::plain(weight.address()));
        self.driver().gemm(&gemm((rows, outputs, inputs), x, weight, y.address(), false))
    }

    fn projection_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { x, weight, dy, dx, dweight: (dweight, accumulate) } = operands;
        let &Shape { rows, inputs, outputs } = shape;
        let dy = Operand::plain(dy.address());
        if let Some(dx) = dx {
            let weight = Operand::transposed(weight.address());
            self.driver().gemm(&gemm((rows, inputs, outputs), dy, weight, dx.address(), false))?;
        }
        let x = Operand::transposed(x.address());
        self.driver().gemm(&gemm((inputs, outputs, rows), x, dy, dweight.address(), accumulate))
    }
}
