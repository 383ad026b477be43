//! The end of a tower: the last residual sum, its layer normalisation, and the mean over tokens, as one op. Neither the sum
//! nor what is normalised is stored; the result is f32, as all that follows to the loss.
//!
//! `s = x + delta`, `n = (s - mean(s)) · rstd` with `rstd = 1 / sqrt(var(s) + eps)`, `m[b] = Σ_t n[b, t] / tokens`,
//! `y[b] = m[b] ∘ gamma + beta`.
//!
//! Backwards, with `g[b] = dy[b] ∘ gamma / tokens`: `ds[b, t] = rstd · (g - mean(g) - n · mean(g ∘ n))`, which is the gradient
//! of `x` and of `delta`; `dgamma = Σ_b dy[b] ∘ m[b]`, `dbeta = Σ_b dy[b]`.

pub mod cpu;
mod cuda;

use super::act_bytes;
use super::layernorm::Norm;
use crate::autograd::{Access, Backward, Cost, Op, ParamGrad, Slot, Tape, Var, Work};
use crate::device::{Cpu, Device, DeviceError};

/// `[batch, tokens, width] -> [batch, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub batch: usize,
    pub tokens: usize,
    pub width: usize,
}

/// The operands of the forward pass.
pub struct Forward<'a, D: Device> {
    pub x: D::View<'a, D::Act>,
    pub delta: D::View<'a, D::Act>,
    pub gamma: D::View<'a, f32>,
    pub beta: D::View<'a, f32>,
    pub eps: f32,
    pub y: D::ViewMut<'a, f32>,
    /// `m`, `[batch, width]`.
    pub normal: D::ViewMut<'a, f32>,
    /// Of each token, `[batch, tokens]`.
    pub mean: D::ViewMut<'a, f32>,
    pub rstd: D::ViewMut<'a, f32>,
}

/// The operands of the backward pass.
pub struct BackwardOperands<'a, D: Device> {
    pub dy: D::View<'a, f32>,
    pub x: D::View<'a, D::Act>,
    pub delta: D::View<'a, D::Act>,
    pub gamma: D::View<'a, f32>,
    pub normal: D::View<'a, f32>,
    pub mean: D::View<'a, f32>,
    pub rstd: D::View<'a, f32>,
    pub ds: D::ViewMut<'a, D::Act>,
    pub dgamma: (D::ViewMut<'a, f32>, bool),
    pub dbeta: (D::ViewMut<'a, f32>, bool),
    pub scratch: D::ViewMut<'a, f32>,
}

/// Devices that normalise and pool.
pub trait PooledNorm: Device {
    /// f32 elements of scratch that the backward pass needs.
    fn pooled_norm_scratch(shape: &Shape) -> usize;
    fn pooled_norm_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError>;
    fn pooled_norm_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError>;
}

struct PooledNormOp<D: Device> {
    shape: Shape,
    norm: Norm,
    x: Var<D::Act>,
    delta: Var<D::Act>,
    y: Var<f32>,
    normal: Slot<f32>,
    mean: Slot<f32>,
    rstd: Slot<f32>,
    back: Option<Planned<D>>,
}

struct Planned<D: Device> {
    dy: Slot<f32>,
    ds: Slot<D::Act>,
    dgamma: ParamGrad,
    dbeta: ParamGrad,
    scratch: Slot<f32>,
}

impl<D: PooledNorm> Tape<D> {
    /// The mean over tokens of `LN(x + delta)`; `x, delta: [batch, tokens, width] -> [batch, width]`.
    pub fn pooled_norm(&mut self, x: Var<D::Act>, delta: Var<D::Act>, norm: Norm) -> Var<f32> {
        let &[batch, tokens, width] = self.shape(x) else { panic!("what is pooled is [batch, tokens, width]") };
        let y = self.result(&[batch, width], true);
        let normal = self.buffer(batch * width);
        let (mean, rstd) = (self.buffer(batch * tokens), self.buffer(batch * tokens));
        let shape = Shape { batch, tokens, width };
        self.record(PooledNormOp { shape, norm, x, delta, y, normal, mean, rstd, back: None }, &[x.id(), delta.id()]);
        y
    }
}

impl<D: PooledNorm> Op<D> for PooledNormOp<D> {
    fn name(&self) -> &'static str {
        "pooled_norm"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, tokens, width } = self.shape;
        // Besides the sequences: statistics, and some rows of f32 a sample. Backwards these are its gradient, which the parameters'
        // pass reads again, and what was pooled.
        let work = |sequences: usize, rows: usize| Work {
            flops: 0,
            bytes: act_bytes::<D>(sequences * batch * tokens * width)
                + (batch * (8 * tokens + 4 * rows * width)) as u64,
        };
        Cost { forward: work(2, 2), backward: self.back.as_ref().map_or(Work::default(), |_| work(3, 3)) }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let operands = Forward {
            x: on.read(self.x.slot()),
            delta: on.read(self.delta.slot()),
            gamma: on.master(self.norm.gamma),
            beta: on.master(self.norm.beta),
            eps: self.norm.eps,
            y: on.write(self.y.slot()),
            normal: on.write(self.normal),
            mean: on.write(self.mean),
            rstd: on.write(self.rstd),
        };
        device.pooled_norm_forward(&self.shape, operands)
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        let Some(dy) = plan.grad(self.y) else { return false };
        let Shape { batch, tokens, width } = self.shape;
        let ds = plan.scratch(batch * tokens * width);
        for input in [self.x, self.delta] {
            plan.read(input.slot());
            plan.hand_on(input, ds);
        }
        for kept in [self.normal, self.mean, self.rstd] {
            plan.read(kept);
        }
        let (dgamma, dbeta) = (plan.param(self.norm.gamma), plan.param(self.norm.beta));
        let scratch = plan.scratch(D::pooled_norm_scratch(&self.shape));
        self.back = Some(Planned { dy, ds, dgamma, dbeta, scratch });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let operands = BackwardOperands {
            dy: on.read(back.dy),
            x: on.read(self.x.slot()),
            delta: on.read(self.delta.slot()),
            gamma: on.master(self.norm.gamma),
            normal: on.read(self.normal),
            mean: on.read(self.mean),
            rstd: on.read(self.rstd),
            ds: on.write(back.ds),
            dgamma: (on.grad(back.dgamma), back.dgamma.accumulate),
            dbeta: (on.grad(back.dbeta), back.dbeta.accumulate),
            scratch: on.write(back.scratch),
        };
        device.pooled_norm_backward(&self.shape, operands)
    }
}

impl PooledNorm for Cpu {
    fn pooled_norm_scratch(_: &Shape) -> usize {
        0
    }

    fn pooled_norm_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError> {
        cpu::forward(*shape, operands);
        Ok(())
    }

    fn pooled_norm_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        cpu::backward(*shape, operands);
        Ok(())
    }
}
