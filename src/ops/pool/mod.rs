//! The mean over the tokens of each sequence, CLS included, in f32, like everything from here to the loss.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, Op, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// `[batch, tokens, width] -> [batch, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Features of a token.
    pub width: usize,
}

/// Devices that have pooling.
pub trait Pool: Device {
    /// `x: [batch, tokens, width] -> y: [batch, width]`.
    fn pool_forward(
        &self,
        shape: &Shape,
        x: Self::View<'_, Self::Act>,
        y: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;

    /// `dx` from `dy`.
    fn pool_backward(
        &self,
        shape: &Shape,
        dy: Self::View<'_, f32>,
        dx: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;
}

struct PoolOp<D: Device> {
    shape: Shape,
    x: Var<D::Act>,
    y: Var<f32>,
    back: Option<(Slot<f32>, Slot<D::Act>)>,
}

impl<D: Pool> Tape<D> {
    /// `x: [batch, tokens, width] -> [batch, width]`.
    ///
    /// # Panics
    /// If `x` is not of rank 3.
    pub fn pool(&mut self, x: Var<D::Act>) -> Var<f32> {
        let &[batch, tokens, width] = self.shape(x) else { panic!("sequences are [batch, tokens, width]") };
        let y = self.result(&[batch, width], true);
        self.record(PoolOp { shape: Shape { batch, tokens, width }, x, y, back: None }, &[x.id()]);
        y
    }
}

impl<D: Pool> Op<D> for PoolOp<D> {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, tokens, width } = self.shape;
        let work = Work { flops: 0, bytes: act_bytes::<D>(batch * tokens * width) + 4 * (batch * width) as u64 };
        Cost { forward: work, backward: self.back.map_or(Work::default(), |_| work) }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        device.pool_forward(&self.shape, on.read(self.x.slot()), on.write(self.y.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        self.back = plan.grad(self.y).and_then(|dy| Some((dy, plan.input_grad(self.x)?)));
        self.back.is_some()
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some((dy, dx)) = self.back else { return Ok(()) };
        device.pool_backward(&self.shape, on.read(dy), on.write(dx))
    }
}
