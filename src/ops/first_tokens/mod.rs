//! The first token of each sequence: `y[b] = x[b, 0]`; backwards `dx[b, 0] = dy[b]`, and zero for the other tokens.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, Op, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// `[batch, tokens, width] -> [batch, 1, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Features of a token.
    pub width: usize,
}

/// Devices that have `first_tokens`.
pub trait FirstTokens: Device {
    /// `x: [batch, tokens, width] -> y: [batch, 1, width]`.
    fn first_tokens_forward(
        &self,
        shape: &Shape,
        x: Self::View<'_, Self::Act>,
        y: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;

    /// `dx` from `dy`.
    fn first_tokens_backward(
        &self,
        shape: &Shape,
        dy: Self::View<'_, Self::Act>,
        dx: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;
}

struct FirstTokensOp<D: Device> {
    shape: Shape,
    x: Var<D::Act>,
    y: Var<D::Act>,
    /// The gradients of `y` and of `x`.
    back: Option<(Slot<D::Act>, Slot<D::Act>)>,
}

impl<D: FirstTokens> Tape<D> {
    /// `x: [batch, tokens, width] -> [batch, 1, width]`.
    ///
    /// # Panics
    /// If `x` is not of rank 3.
    pub fn first_tokens(&mut self, x: Var<D::Act>) -> Var<D::Act> {
        let &[batch, tokens, width] = self.shape(x) else { panic!("sequences are [batch, tokens, width]") };
        let y = self.result(&[batch, 1, width], true);
        self.record(FirstTokensOp { shape: Shape { batch, tokens, width }, x, y, back: None }, &[x.id()]);
        y
    }
}

impl<D: FirstTokens> Op<D> for FirstTokensOp<D> {
    fn name(&self) -> &'static str {
        "first_tokens"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, tokens, width } = self.shape;
        let work = |rows: usize| Work { flops: 0, bytes: act_bytes::<D>(rows * width) };
        Cost { forward: work(2 * batch), backward: work(self.back.map_or(0, |_| batch * (1 + tokens))) }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        device.first_tokens_forward(&self.shape, on.read(self.x.slot()), on.write(self.y.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        self.back = plan.grad(self.y).and_then(|dy| Some((dy, plan.input_grad(self.x)?)));
        self.back.is_some()
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some((dy, dx)) = self.back else { return Ok(()) };
        device.first_tokens_backward(&self.shape, on.read(dy), on.write(dx))
    }
}
