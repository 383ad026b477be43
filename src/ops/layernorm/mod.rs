//! Layer normalisation over the last axis, fused with the residual sum before it (Ba, Kiros and Hinton 2016).
//!
//! `s = x + delta` (or just `x`), `y = (s - mean(s)) · rstd · gamma + beta` with `rstd = 1 / sqrt(var(s) + eps)`.
//!
//! Backwards, with `ŝ = (s - mean) · rstd` and `g = dy ∘ gamma`:
//! `ds = rstd · (g - mean(g) - ŝ · mean(g ∘ ŝ)) + ds_residual`, `dgamma = Σ_rows dy ∘ ŝ`, `dbeta = Σ_rows dy`;
//! `x` and `delta` both get `ds`, as one buffer: the residual stream's gradient, updated in place.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, GradMut, Op, ParamGrad, ParamId, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// Scale, shift and epsilon of a layer normalisation.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// `[width]`.
    pub gamma: ParamId,
    /// `[width]`.
    pub beta: ParamId,
    /// Added to the variance.
    pub eps: f32,
}

/// `[rows, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows.
    pub rows: usize,
    /// Features of a row.
    pub width: usize,
}

/// The operands of the forward pass.
pub struct Forward<'a, D: Device> {
    /// `[rows, width]`.
    pub x: D::View<'a, D::Act>,
    /// The residual branch to add, and where to store the sum; `[rows, width]` each.
    pub delta_sum: Option<(D::View<'a, D::Act>, D::ViewMut<'a, D::Act>)>,
    /// `[width]`.
    pub gamma: D::View<'a, f32>,
    /// `[width]`.
    pub beta: D::View<'a, f32>,
    /// Added to the variance.
    pub eps: f32,
    /// `[rows, width]`.
    pub y: D::ViewMut<'a, D::Act>,
    /// Out: the mean of each row, `[rows]`.
    pub mean: D::ViewMut<'a, f32>,
    /// Out: `1 / sqrt(var + eps)` of each row, `[rows]`.
    pub rstd: D::ViewMut<'a, f32>,
}

/// The operands of the backward pass.
pub struct BackwardOperands<'a, D: Device> {
    /// `[rows, width]`.
    pub dy: D::View<'a, D::Act>,
    /// What was normalised (the sum, if there is one), `[rows, width]`.
    pub x: D::View<'a, D::Act>,
    /// `[width]`.
    pub gamma: D::View<'a, f32>,
    /// As the forward pass left it, `[rows]`.
    pub mean: D::View<'a, f32>,
    /// As the forward pass left it, `[rows]`.
    pub rstd: D::View<'a, f32>,
    /// `[rows, width]`; accumulates into the residual stream's gradient, if there is one.
    pub dx: GradMut<D::ViewMut<'a, D::Act>>,
    /// `[width]`.
    pub dgamma: GradMut<D::ViewMut<'a, f32>>,
    /// `[width]`.
    pub dbeta: GradMut<D::ViewMut<'a, f32>>,
    /// [`LayerNorm::layernorm_scratch`] elements.
    pub scratch: D::ViewMut<'a, f32>,
}

/// Devices that have layer normalisation.
pub trait LayerNorm: Device {
    /// f32 elements of scratch that the backward pass needs.
    fn layernorm_scratch(shape: &Shape) -> usize;

    /// `y`, the statistics and, with a residual branch, the sum.
    fn layernorm_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError>;

    /// `dx`, `dgamma` and `dbeta` from `dy`.
    fn layernorm_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError>;
}

struct LayerNormOp<D: Device> {
    shape: Shape,
    norm: Norm,
    x: Var<D::Act>,
    delta: Option<Var<D::Act>>,
    /// The residual stream after this op: `x + delta`, or an alias of `x`.
    sum: Option<Var<D::Act>>,
    y: Var<D::Act>,
    mean: Slot<f32>,
    rstd: Slot<f32>,
    back: Option<Planned<D>>,
}

struct Planned<D: Device> {
    dy: Slot<D::Act>,
    dx: Slot<D::Act>,
    accumulate: bool,
    dgamma: ParamGrad,
    dbeta: ParamGrad,
    scratch: Slot<f32>,
}

impl<D: LayerNorm> Tape<D> {
    /// `y = LN(x)`, `[..., width] -> [..., width]`.
    pub fn layernorm(&mut self, x: Var<D::Act>, norm: Norm) -> Var<D::Act> {
        self.record_layernorm(x, None, None, norm)
    }

    /// `(s, LN(s))` with `s = x + delta`, or `s = x` without a `delta`: the residual stream, and the input of a branch.
    /// All are `[..., width]`.
    pub fn residual_layernorm(
        &mut self,
        x: Var<D::Act>,
        delta: Option<Var<D::Act>>,
        norm: Norm,
    ) -> (Var<D::Act>, Var<D::Act>) {
        let sum = match delta {
            Some(_) => self.result_like(x),
            None => self.alias(x),
        };
        (sum, self.record_layernorm(x, delta, Some(sum), norm))
    }

    fn record_layernorm(
        &mut self,
        x: Var<D::Act>,
        delta: Option<Var<D::Act>>,
        sum: Option<Var<D::Act>>,
        norm: Norm,
    ) -> Var<D::Act> {
        let (rows, width) = self.rows(x);
        let y = self.result_like(x);
        let (mean, rstd) = (self.buffer(rows), self.buffer(rows));
        let input = sum.unwrap_or(x).slot();
        self.recomputable_from(y.slot(), input);
        self.always_save(mean);
        self.always_save(rstd);
        if sum.is_some() {
            self.always_save(input);
        }
        let op = LayerNormOp { shape: Shape { rows, width }, norm, x, delta, sum, y, mean, rstd, back: None };
        let delta = delta.unwrap_or(x);
        self.record(op, &[x.id(), delta.id()]);
        y
    }
}

impl<D: Device> LayerNormOp<D> {
    /// What is normalised.
    fn input(&self) -> Slot<D::Act> {
        self.sum.unwrap_or(self.x).slot()
    }
}

impl<D: LayerNorm> LayerNormOp<D> {
    /// The forward pass, from `x` and, if there is one, the branch to add.
    fn normalise(
        &self,
        device: &D,
        on: &Access<D>,
        x: Slot<D::Act>,
        delta_sum: Option<(Slot<D::Act>, Slot<D::Act>)>,
    ) -> Result<(), DeviceError> {
        let operands = Forward {
            x: on.read(x),
            delta_sum: delta_sum.map(|(delta, sum)| (on.read(delta), on.write(sum))),
            gamma: on.master(self.norm.gamma),
            beta: on.master(self.norm.beta),
            eps: self.norm.eps,
            y: on.write(self.y.slot()),
            mean: on.write(self.mean),
            rstd: on.write(self.rstd),
        };
        device.layernorm_forward(&self.shape, operands)
    }

    /// Bytes of a tensor, and of both statistics.
    fn sizes(&self) -> (u64, u64) {
        (act_bytes::<D>(self.shape.rows * self.shape.width), 8 * self.shape.rows as u64)
    }
}

impl<D: LayerNorm> Op<D> for LayerNormOp<D> {
    fn name(&self) -> &'static str {
        "layernorm"
    }

    fn cost(&self) -> Cost {
        let (tensor, statistics) = self.sizes();
        let forward = if self.delta.is_some() { 4 } else { 2 };
        let backward = match &self.back {
            None => 0,
            Some(back) => 3 + u64::from(back.accumulate),
        };
        Cost {
            forward: Work { flops: 0, bytes: forward * tensor + statistics },
            backward: Work { flops: 0, bytes: backward * tensor + statistics },
        }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let delta_sum = self.delta.zip(self.sum).map(|(delta, sum)| (delta.slot(), sum.slot()));
        self.normalise(device, on, self.x.slot(), delta_sum)
    }

    /// From the saved sum, which is rounded already: same bits, including the statistics.
    fn recompute(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        self.normalise(device, on, self.input(), None)
    }

    fn recompute_work(&self) -> Work {
        let (tensor, statistics) = self.sizes();
        Work { flops: 0, bytes: 2 * tensor + statistics }
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        let dsum = self.sum.and_then(|sum| plan.grad_in_place(sum));
        let dy = plan.grad(self.y);
        let (dx, accumulate) = match (dsum, dy) {
            (Some(dsum), _) => (dsum, true),
            (None, Some(_)) => (plan.scratch(self.shape.rows * self.shape.width), false),
            (None, None) => return false,
        };
        plan.pass_grad(self.x, dx);
        if let Some(delta) = self.delta {
            plan.pass_grad(delta, dx);
        }
        let Some(dy) = dy else { return false };
        plan.read(self.input());
        plan.read(self.mean);
        plan.read(self.rstd);
        self.back = Some(Planned {
            dy,
            dx,
            accumulate,
            dgamma: plan.param(self.norm.gamma),
            dbeta: plan.param(self.norm.beta),
            scratch: plan.scratch(D::layernorm_scratch(&self.shape)),
        });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let operands = BackwardOperands {
            dy: on.read(back.dy),
            x: on.read(self.input()),
            gamma: on.master(self.norm.gamma),
            mean: on.read(self.mean),
            rstd: on.read(self.rstd),
            dx: GradMut { view: on.write(back.dx), accumulate: back.accumulate },
            dgamma: on.grad(back.dgamma),
            dbeta: on.grad(back.dbeta),
            scratch: on.write(back.scratch),
        };
        device.layernorm_backward(&self.shape, operands)
    }
}
