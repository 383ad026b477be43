//! The projection on a GPU, by cuBLASLt in f32.

use super::{BackwardOperands, Projection, Shape};
use crate::autograd::GradMut;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, DType, Gemm, Operand, View, ViewMut};

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
        self.driver().gemm(&Gemm::new([rows, outputs, inputs], DType::F32, x, weight, y.address()))
    }

    fn projection_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { x, weight, dy, dx, dweight: GradMut { view: dweight, accumulate } } = operands;
        let &Shape { rows, inputs, outputs } = shape;
        let dy = Operand::plain(dy.address());
        if let Some(dx) = dx {
            let weight = Operand::transposed(weight.address());
            self.driver().gemm(&Gemm::new([rows, inputs, outputs], DType::F32, dy, weight, dx.address()))?;
        }
        let x = Operand::transposed(x.address());
        let gemm = Gemm::new([inputs, outputs, rows], DType::F32, x, dy, dweight.address());
        self.driver().gemm(&Gemm { accumulate, ..gemm })
    }
}
