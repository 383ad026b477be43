//! The mean over the tokens of each sequence, with CLS (as in FLIP) or without it (as in OpenCLIP), in f32, like
//! everything from here to the loss. With a residual branch it is the mean of `x + delta`; both get the same gradient.

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
    /// Tokens at the start of each sequence that are left out.
    pub skip: usize,
}

/// Devices that have pooling.
pub trait Pool: Device {
    /// `x`, `delta: [batch, tokens, width] -> y: [batch, width]`.
    fn pool_forward(
        &self,
        shape: &Shape,
        x: Self::View<'_, Self::Act>,
        delta: Option<Self::View<'_, Self::Act>>,
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
    delta: Option<Var<D::Act>>,
    y: Var<f32>,
    back: Option<(Slot<f32>, Slot<D::Act>)>,
}

impl<D: Pool> Tape<D> {
    /// `x: [batch, tokens, width] -> [batch, width]`, the mean over the tokens from number `skip` on.
    ///
    /// # Panics
    /// If `x` is not of rank 3, or no token is left.
    pub fn pool(&mut self, x: Var<D::Act>, skip: usize) -> Var<f32> {
        self.residual_pool(x, None, skip)
    }

    /// As [`Tape::pool`], of `x + delta`.
    ///
    /// # Panics
    /// As [`Tape::pool`].
    pub fn residual_pool(&mut self, x: Var<D::Act>, delta: Option<Var<D::Act>>, skip: usize) -> Var<f32> {
        let &[batch, tokens, width] = self.shape(x) else { panic!("sequences are [batch, tokens, width]") };
        assert!(skip < tokens, "nothing is left of {tokens} tokens without the first {skip}");
        let y = self.result(&[batch, width], true);
        let op = PoolOp { shape: Shape { batch, tokens, width, skip }, x, delta, y, back: None };
        self.record(op, &[x.id(), delta.unwrap_or(x).id()]);
        y
    }
}

impl<D: Pool> Op<D> for PoolOp<D> {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, tokens, width, skip } = self.shape;
        let work = |tokens: usize| Work {
            flops: 0,
            bytes: act_bytes::<D>(batch * tokens * width) + 4 * (batch * width) as u64,
        };
        let inputs = 1 + usize::from(self.delta.is_some());
        // Backwards the tokens that are left out get zeros.
        Cost { forward: work(inputs * (tokens - skip)), backward: self.back.map_or(Work::default(), |_| work(tokens)) }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let delta = self.delta.map(|delta| on.read(delta.slot()));
        device.pool_forward(&self.shape, on.read(self.x.slot()), delta, on.write(self.y.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        self.back = plan.grad(self.y).and_then(|dy| Some((dy, plan.input_grad(self.x)?)));
        if let (Some((_, dx)), Some(delta)) = (self.back, self.delta) {
            plan.pass_grad(delta, dx);
        }
        self.back.is_some()
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some((dy, dx)) = self.back else { return Ok(()) };
        device.pool_backward(&self.shape, on.read(dy), on.write(dx))
    }
}
