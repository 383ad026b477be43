//! One row per sequence: the mean over its tokens (FLIP's images), or one token (text: token 0, or CLIP's end of text); the
//! result is f32, as all that follows to the loss.

pub mod cpu;
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, Op, Slot, Tape, Var, Work};
use crate::device::{Cpu, Device, DeviceError};

/// `[batch, tokens, width] -> [batch, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub batch: usize,
    pub tokens: usize,
    pub width: usize,
}

/// Which tokens count.
#[derive(Clone, Copy, Debug)]
pub enum Pooling {
    /// The mean over all tokens, CLS included.
    Mean,
    First,
    /// The token with this index, `[batch]`.
    At(Slot<u32>),
}

/// [`Pooling`] with the index in hand.
pub enum Place<'a, D: Device> {
    Mean,
    First,
    At(D::View<'a, u32>),
}

/// Devices that pool.
pub trait Pool: Device {
    fn pool_forward(
        &self,
        shape: &Shape,
        place: Place<'_, Self>,
        x: Self::View<'_, Self::Act>,
        y: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;
    fn pool_backward(
        &self,
        shape: &Shape,
        place: Place<'_, Self>,
        dy: Self::View<'_, f32>,
        dx: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;
}

struct PoolOp<D: Device> {
    shape: Shape,
    pooling: Pooling,
    x: Var<D::Act>,
    y: Var<f32>,
    back: Option<(Slot<f32>, Slot<D::Act>)>,
}

impl<D: Pool> Tape<D> {
    /// `x: [batch, tokens, width] -> [batch, width]`.
    pub fn pool(&mut self, x: Var<D::Act>, pooling: Pooling) -> Var<f32> {
        let &[batch, tokens, width] = self.shape(x) else { panic!("what is pooled is [batch, tokens, width]") };
        let y = self.result(&[batch, width], true);
        let op = PoolOp { shape: Shape { batch, tokens, width }, pooling, x, y, back: None };
        match pooling {
            Pooling::At(index) => self.record(op, &[x.id(), index.id()]),
            Pooling::Mean | Pooling::First => self.record(op, &[x.id()]),
        }
        y
    }
}

impl<D: Pool> PoolOp<D> {
    fn place<'a>(&self, on: &Access<'a, D>) -> Place<'a, D> {
        match self.pooling {
            Pooling::Mean => Place::Mean,
            Pooling::First => Place::First,
            Pooling::At(index) => Place::At(on.read(index)),
        }
    }
}

impl<D: Pool> Op<D> for PoolOp<D> {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, tokens, width } = self.shape;
        let row = 4 * (batch * width) as u64;
        let read = if matches!(self.pooling, Pooling::Mean) { tokens } else { 1 };
        let forward = Work { flops: 0, bytes: act_bytes::<D>(batch * width * read) + row };
        let backward = match self.back {
            Some(_) => Work { flops: 0, bytes: act_bytes::<D>(batch * width * tokens) + row },
            None => Work::default(),
        };
        Cost { forward, backward }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        device.pool_forward(&self.shape, self.place(on), on.read(self.x.slot()), on.write(self.y.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        self.back = plan.grad(self.y).and_then(|dy| Some((dy, plan.give(self.x)?)));
        if let (Some(_), Pooling::At(index)) = (self.back, self.pooling) {
            plan.read(index);
        }
        self.back.is_some()
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some((dy, dx)) = self.back else { return Ok(()) };
        device.pool_backward(&self.shape, self.place(on), on.read(dy), on.write(dx))
    }
}

impl Pool for Cpu {
    fn pool_forward(&self, shape: &Shape, place: Place<'_, Self>, x: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        match place {
            Place::Mean => cpu::mean_forward(*shape, x, y),
            Place::First => cpu::token_forward(*shape, |_| 0, x, y),
            Place::At(index) => cpu::token_forward(*shape, |sample| index[sample] as usize, x, y),
        }
        Ok(())
    }

    fn pool_backward(
        &self,
        shape: &Shape,
        place: Place<'_, Self>,
        dy: &[f32],
        dx: &mut [f32],
    ) -> Result<(), DeviceError> {
        match place {
            Place::Mean => cpu::mean_backward(*shape, dy, dx),
            Place::First => cpu::token_backward(*shape, |_| 0, dy, dx),
            Place::At(index) => cpu::token_backward(*shape, |sample| index[sample] as usize, dy, dx),
        }
        Ok(())
    }
}
