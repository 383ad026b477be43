//! f32 to the type of activations, `y = x`, and the gradient back: for what works on activations after the pooling.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, Op, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// Devices that have casts.
pub trait Cast: Device {
    /// `y = x`, rounded.
    fn cast_forward(&self, x: Self::View<'_, f32>, y: Self::ViewMut<'_, Self::Act>) -> Result<(), DeviceError>;

    /// `dx = dy`.
    fn cast_backward(&self, dy: Self::View<'_, Self::Act>, dx: Self::ViewMut<'_, f32>) -> Result<(), DeviceError>;
}

struct CastOp<D: Device> {
    len: usize,
    x: Var<f32>,
    y: Var<D::Act>,
    /// The gradients of `y` and of `x`.
    back: Option<(Slot<D::Act>, Slot<f32>)>,
}

impl<D: Cast> Tape<D> {
    /// `x: [batch, width]` as activations, `[batch, 1, width]`.
    ///
    /// # Panics
    /// If `x` is not of rank 2.
    pub fn cast(&mut self, x: Var<f32>) -> Var<D::Act> {
        let &[batch, width] = self.shape(x) else { panic!("pooled tokens are [batch, width]") };
        let y = self.result(&[batch, 1, width], true);
        self.record(CastOp { len: batch * width, x, y, back: None }, &[x.id()]);
        y
    }
}

impl<D: Cast> Op<D> for CastOp<D> {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn cost(&self) -> Cost {
        let work = Work { flops: 0, bytes: act_bytes::<D>(self.len) + 4 * self.len as u64 };
        Cost { forward: work, backward: self.back.map_or(Work::default(), |_| work) }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        device.cast_forward(on.read(self.x.slot()), on.write(self.y.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        self.back = plan.grad(self.y).and_then(|dy| Some((dy, plan.input_grad(self.x)?)));
        self.back.is_some()
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some((dy, dx)) = self.back else { return Ok(()) };
        device.cast_backward(on.read(dy), on.write(dx))
    }
}
