//! Layer scale (Touvron et al. 2021, "Going deeper with image transformers"): each feature of a residual branch times a
//! trained factor, `y = x ∘ gamma`.
//!
//! Backwards: `dx = dy ∘ gamma`, `dgamma = Σ_rows dy ∘ x`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, GradMut, Op, ParamGrad, ParamId, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// `[rows, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows.
    pub rows: usize,
    /// Features of a row.
    pub width: usize,
}

/// The operands of the backward pass.
pub struct BackwardOperands<'a, D: Device> {
    /// `[rows, width]`.
    pub dy: D::View<'a, D::Act>,
    /// `[rows, width]`.
    pub x: D::View<'a, D::Act>,
    /// `[width]`.
    pub gamma: D::View<'a, f32>,
    /// `[rows, width]`.
    pub dx: D::ViewMut<'a, D::Act>,
    /// `[width]`.
    pub dgamma: GradMut<D::ViewMut<'a, f32>>,
    /// [`LayerScale::layer_scale_scratch`] elements.
    pub scratch: D::ViewMut<'a, f32>,
}

/// Devices that have layer scale.
pub trait LayerScale: Device {
    /// f32 elements of scratch that the backward pass needs.
    fn layer_scale_scratch(shape: &Shape) -> usize;

    /// `x: [rows, width]`, `gamma: [width] -> y: [rows, width]`.
    fn layer_scale_forward(
        &self,
        shape: &Shape,
        x: Self::View<'_, Self::Act>,
        gamma: Self::View<'_, f32>,
        y: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;

    /// `dx` and `dgamma` from `dy`.
    fn layer_scale_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError>;
}

struct LayerScaleOp<D: Device> {
    shape: Shape,
    gamma: ParamId,
    x: Var<D::Act>,
    y: Var<D::Act>,
    back: Option<Planned<D>>,
}

struct Planned<D: Device> {
    dy: Slot<D::Act>,
    dx: Slot<D::Act>,
    dgamma: ParamGrad,
    scratch: Slot<f32>,
}

impl<D: LayerScale> Tape<D> {
    /// `x: [..., width]`, `gamma: [width] -> [..., width]`.
    pub fn layer_scale(&mut self, x: Var<D::Act>, gamma: ParamId) -> Var<D::Act> {
        let (rows, width) = self.rows(x);
        let y = self.result_like(x);
        self.recomputable_from(y.slot(), x.slot());
        self.record(LayerScaleOp { shape: Shape { rows, width }, gamma, x, y, back: None }, &[x.id()]);
        y
    }
}

impl<D: LayerScale> Op<D> for LayerScaleOp<D> {
    fn name(&self) -> &'static str {
        "layer_scale"
    }

    fn cost(&self) -> Cost {
        let tensor = act_bytes::<D>(self.shape.rows * self.shape.width);
        let work = |tensors: u64| Work { flops: 0, bytes: tensors * tensor };
        Cost { forward: work(2), backward: work(if self.back.is_some() { 3 } else { 0 }) }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let (x, gamma) = (on.read(self.x.slot()), on.master(self.gamma));
        device.layer_scale_forward(&self.shape, x, gamma, on.write(self.y.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        let Some(dy) = plan.grad(self.y) else { return false };
        plan.read(self.x.slot());
        let Shape { rows, width } = self.shape;
        let dx = plan.input_grad(self.x).unwrap_or_else(|| plan.scratch(rows * width));
        let scratch = plan.scratch(D::layer_scale_scratch(&self.shape));
        self.back = Some(Planned { dy, dx, dgamma: plan.param(self.gamma), scratch });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let operands = BackwardOperands {
            dy: on.read(back.dy),
            x: on.read(self.x.slot()),
            gamma: on.master(self.gamma),
            dx: on.write(back.dx),
            dgamma: on.grad(back.dgamma),
            scratch: on.write(back.scratch),
        };
        device.layer_scale_backward(&self.shape, operands)
    }
}
