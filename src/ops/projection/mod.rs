//! The projection into the joint space: `y = x W`, with `W: [inputs, outputs]`, as OpenCLIP stores it, and no bias.
//!
//! In f32 on every device: it is cheap (one row per sample), and the temperature would amplify rounding errors.
//! Backwards: `dx = dy Wᵀ`, `dW = xᵀ dy`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::autograd::{Access, Backward, Cost, GradMut, Op, ParamGrad, ParamId, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// `[rows, inputs] -> [rows, outputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows.
    pub rows: usize,
    /// Features of a row of `x`.
    pub inputs: usize,
    /// Features of a row of `y`.
    pub outputs: usize,
}

/// The operands of the backward products.
pub struct BackwardOperands<'a, D: Device> {
    /// `[rows, inputs]`.
    pub x: D::View<'a, f32>,
    /// `[inputs, outputs]`.
    pub weight: D::View<'a, f32>,
    /// `[rows, outputs]`.
    pub dy: D::View<'a, f32>,
    /// `[rows, inputs]`, if `x` needs a gradient.
    pub dx: Option<D::ViewMut<'a, f32>>,
    /// `[inputs, outputs]`.
    pub dweight: GradMut<D::ViewMut<'a, f32>>,
}

/// Devices that have the projection.
pub trait Projection: Device {
    /// `x: [rows, inputs]`, `weight: [inputs, outputs] -> y: [rows, outputs]`.
    fn projection_forward(
        &self,
        shape: &Shape,
        x: Self::View<'_, f32>,
        weight: Self::View<'_, f32>,
        y: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;

    /// The gradients of `x` and the weight from `dy`.
    fn projection_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError>;
}

struct ProjectionOp {
    shape: Shape,
    weight: ParamId,
    x: Var<f32>,
    y: Var<f32>,
    back: Option<Planned>,
}

struct Planned {
    dy: Slot<f32>,
    dx: Option<Slot<f32>>,
    dweight: ParamGrad,
}

impl<D: Projection> Tape<D> {
    /// `x: [rows, inputs] -> [rows, outputs]`, with a weight `[inputs, outputs]`.
    pub fn projection(&mut self, x: Var<f32>, weight: ParamId) -> Var<f32> {
        let (rows, inputs) = self.rows(x);
        let outputs = self.layout().get(weight).len / inputs;
        let y = self.result(&[rows, outputs], true);
        let op = ProjectionOp { shape: Shape { rows, inputs, outputs }, weight, x, y, back: None };
        self.record(op, &[x.id()]);
        y
    }
}

impl<D: Projection> Op<D> for ProjectionOp {
    fn name(&self) -> &'static str {
        "projection"
    }

    fn cost(&self) -> Cost {
        let Shape { rows, inputs, outputs } = self.shape;
        let work = |products: usize| Work {
            flops: (products * 2 * rows * inputs * outputs) as u64,
            bytes: (products * 4 * (rows * (inputs + outputs) + inputs * outputs)) as u64,
        };
        let products = |back: &Planned| if back.dx.is_some() { 2 } else { 1 };
        Cost { forward: work(1), backward: work(self.back.as_ref().map_or(0, products)) }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let (x, weight) = (on.read(self.x.slot()), on.master(self.weight));
        device.projection_forward(&self.shape, x, weight, on.write(self.y.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        let Some(dy) = plan.grad(self.y) else { return false };
        plan.read(self.x.slot());
        self.back = Some(Planned { dy, dx: plan.input_grad(self.x), dweight: plan.param(self.weight) });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let operands = BackwardOperands {
            x: on.read(self.x.slot()),
            weight: on.master(self.weight),
            dy: on.read(back.dy),
            dx: back.dx.map(|dx| on.write(dx)),
            dweight: on.grad(back.dweight),
        };
        device.projection_backward(&self.shape, operands)
    }
}
