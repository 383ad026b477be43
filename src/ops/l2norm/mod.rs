//! L2 normalisation of each row, as in FLIP: `y = x / (|x| + 1e-8)`, in f32.
//!
//! Backwards, with `n = |x|`, `s = n + 1e-8`: `dx = dy / s - x · (x · dy) / (n s²)` (the second term is zero where `n`
//! is).

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::autograd::{Access, Backward, Cost, Op, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// Devices that have L2 normalisation.
pub trait L2Norm: Device {
    /// `x: [rows, width] -> y: [rows, width]`, `norm: [rows]`.
    fn l2norm_forward(
        &self,
        width: usize,
        x: Self::View<'_, f32>,
        y: Self::ViewMut<'_, f32>,
        norm: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;

    /// `dx` from `dy`, the input and its norms.
    fn l2norm_backward(
        &self,
        width: usize,
        dy: Self::View<'_, f32>,
        x: Self::View<'_, f32>,
        norm: Self::View<'_, f32>,
        dx: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;
}

struct L2NormOp {
    width: usize,
    rows: usize,
    x: Var<f32>,
    y: Var<f32>,
    norm: Slot<f32>,
    back: Option<(Slot<f32>, Slot<f32>)>,
}

impl<D: L2Norm> Tape<D> {
    /// `x: [rows, width] -> [rows, width]`, each row of length 1.
    pub fn l2norm(&mut self, x: Var<f32>) -> Var<f32> {
        let (rows, width) = self.rows(x);
        let y = self.result(&[rows, width], true);
        let norm = self.buffer(rows);
        self.record(L2NormOp { width, rows, x, y, norm, back: None }, &[x.id()]);
        y
    }
}

impl<D: L2Norm> Op<D> for L2NormOp {
    fn name(&self) -> &'static str {
        "l2norm"
    }

    fn cost(&self) -> Cost {
        let tensor = 4 * (self.rows * self.width) as u64;
        let backward = if self.back.is_some() { 3 * tensor } else { 0 };
        Cost { forward: Work { flops: 0, bytes: 2 * tensor }, backward: Work { flops: 0, bytes: backward } }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        device.l2norm_forward(self.width, on.read(self.x.slot()), on.write(self.y.slot()), on.write(self.norm))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        self.back = plan.grad(self.y).and_then(|dy| Some((dy, plan.input_grad(self.x)?)));
        if self.back.is_some() {
            plan.read(self.x.slot());
            plan.read(self.norm);
        }
        self.back.is_some()
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some((dy, dx)) = self.back else { return Ok(()) };
        let (x, norm) = (on.read(self.x.slot()), on.read(self.norm));
        device.l2norm_backward(self.width, on.read(dy), x, norm, on.write(dx))
    }
}
