//! Matrix product with a weight, an optional bias and an optional GELU: `y = gelu(x Wᵀ + b)`.
//!
//! Backwards, with `h = x Wᵀ + b` saved if there is a GELU: `dh = dy ∘ gelu'(h)`, `dx = dh W`, `dW = dhᵀ x`,
//! `db = Σ_rows dh`. If `x` is itself a GELU that nothing else reads, the product for `dx` multiplies by its derivative
//! in its epilogue, which saves a pass over memory.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Activation, Backward, Cost, GradMut, Op, ParamGrad, ParamId, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// The parameters of a linear layer; the weight is `[outputs, inputs]`, as in PyTorch's `Linear`.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// `[outputs, inputs]`.
    pub weight: ParamId,
    /// `[outputs]`.
    pub bias: Option<ParamId>,
}

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

/// The operands of the forward product.
pub struct Forward<'a, D: Device> {
    /// `[rows, inputs]`.
    pub x: D::View<'a, D::Act>,
    /// `[outputs, inputs]`.
    pub weight: D::View<'a, D::Act>,
    /// `[outputs]`.
    pub bias: Option<D::View<'a, D::Act>>,
    /// The GELU and where to save its input, `[rows, outputs]`.
    pub gelu: Option<(Activation, D::ViewMut<'a, D::Act>)>,
    /// `[rows, outputs]`.
    pub y: D::ViewMut<'a, D::Act>,
}

/// The operands of the backward products.
pub struct BackwardOperands<'a, D: Device> {
    /// `[rows, inputs]`.
    pub x: D::View<'a, D::Act>,
    /// `[outputs, inputs]`.
    pub weight: D::View<'a, D::Act>,
    /// The GELU and its saved input, `[rows, outputs]`, unless `dy` is the gradient of that input already.
    pub gelu: Option<(Activation, D::View<'a, D::Act>)>,
    /// In: the gradient of `y`, `[rows, outputs]`. Out, with a GELU: the gradient of its input.
    pub dy: D::ViewMut<'a, D::Act>,
    /// `[rows, inputs]`, if `x` needs a gradient.
    pub dx: Option<D::ViewMut<'a, D::Act>>,
    /// The GELU that computed `x`, and its input, `[rows, inputs]`: `dx` becomes the gradient of that input.
    pub x_gelu: Option<(Activation, D::View<'a, D::Act>)>,
    /// `[outputs, inputs]`.
    pub dweight: GradMut<D::ViewMut<'a, f32>>,
    /// `[outputs]`.
    pub dbias: Option<GradMut<D::ViewMut<'a, f32>>>,
    /// [`Linear::linear_scratch`] elements.
    pub scratch: D::ViewMut<'a, f32>,
}

/// Devices that have linear layers.
pub trait Linear: Device {
    /// f32 elements of scratch that the backward pass needs.
    fn linear_scratch(shape: &Shape) -> usize;

    /// `y`, and with a GELU its input.
    fn linear_forward(&self, shape: &Shape, operands: Forward<'_, Self>) -> Result<(), DeviceError>;

    /// `y = gelu(pre)` from the input that [`Self::linear_forward`] saved.
    fn linear_gelu(
        &self,
        kind: Activation,
        pre: Self::View<'_, Self::Act>,
        y: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;

    /// The gradients of `x`, the weight and the bias from `dy`.
    fn linear_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError>;
}

struct LinearOp<D: Device> {
    shape: Shape,
    weights: Weights,
    gelu: Option<(Activation, Slot<D::Act>)>,
    x: Var<D::Act>,
    y: Var<D::Act>,
    back: Option<Planned<D>>,
}

struct Planned<D: Device> {
    dy: Slot<D::Act>,
    /// Multiply `dy` by the derivative of the GELU first.
    through_gelu: bool,
    dx: Option<Slot<D::Act>>,
    x_gelu: Option<(Activation, Slot<D::Act>)>,
    dweight: ParamGrad,
    dbias: Option<ParamGrad>,
    scratch: Slot<f32>,
}

impl<D: Linear> Tape<D> {
    /// `x: [..., inputs] -> [..., outputs]`.
    pub fn linear(&mut self, x: Var<D::Act>, weights: Weights, gelu: Option<Activation>) -> Var<D::Act> {
        let (rows, inputs) = self.rows(x);
        let outputs = self.layout().get(weights.weight).len / inputs;
        let mut shape = self.shape(x).to_vec();
        shape.last_mut().into_iter().for_each(|width| *width = outputs);
        let y = self.result(&shape, true);
        let gelu: Option<(Activation, Slot<D::Act>)> = gelu.map(|kind| (kind, self.buffer(rows * outputs)));
        if let Some((kind, pre)) = gelu {
            self.is_activation_of(y, kind, pre);
            self.recomputable_from(y.slot(), pre);
        }
        let shape = Shape { rows, inputs, outputs };
        self.record(LinearOp { shape, weights, gelu, x, y, back: None }, &[x.id()]);
        y
    }
}

impl<D: Linear> Op<D> for LinearOp<D> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cost(&self) -> Cost {
        let Shape { rows, inputs, outputs } = self.shape;
        let flops = 2 * (rows * inputs * outputs) as u64;
        let [x, y, weight] = [rows * inputs, rows * outputs, inputs * outputs].map(act_bytes::<D>);
        let pre = if self.gelu.is_some() { y } else { 0 };
        let forward = Work { flops, bytes: x + weight + y + pre };
        let Some(back) = &self.back else { return Cost { forward, backward: Work::default() } };
        let passes = [
            // `dy` becomes the gradient of the GELU's input in place.
            (back.through_gelu, 3 * y),
            (back.dbias.is_some(), y),
            (back.dx.is_some(), y + weight + x),
            (back.x_gelu.is_some(), x),
            (true, y + x + (inputs * outputs * 4) as u64),
        ];
        let bytes = passes.iter().filter(|(made, _)| *made).map(|(_, bytes)| bytes).sum();
        let backward = Work { flops: flops * if back.dx.is_some() { 2 } else { 1 }, bytes };
        Cost { forward, backward }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let operands = Forward {
            x: on.read(self.x.slot()),
            weight: on.weight(self.weights.weight),
            bias: self.weights.bias.map(|bias| on.weight(bias)),
            gelu: self.gelu.map(|(kind, pre)| (kind, on.write(pre))),
            y: on.write(self.y.slot()),
        };
        device.linear_forward(&self.shape, operands)
    }

    fn recompute(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        match self.gelu {
            Some((kind, pre)) => device.linear_gelu(kind, on.read(pre), on.write(self.y.slot())),
            None => self.forward(device, on),
        }
    }

    fn recompute_work(&self) -> Work {
        Work { flops: 0, bytes: 2 * act_bytes::<D>(self.shape.rows * self.shape.outputs) }
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        let through_gelu = self.gelu.is_some() && !plan.grad_is_of_activation_input(self.y);
        let dy = match self.gelu.filter(|_| through_gelu) {
            Some((_, pre)) => {
                plan.read(pre);
                plan.grad_in_place(self.y)
            }
            None => plan.grad(self.y),
        };
        let Some(dy) = dy else { return false };
        plan.read(self.x.slot());
        let x_gelu = plan.fuse_activation(self.x);
        self.back = Some(Planned {
            dy,
            through_gelu,
            dx: plan.input_grad(self.x),
            x_gelu,
            dweight: plan.param(self.weights.weight),
            dbias: self.weights.bias.map(|bias| plan.param(bias)),
            scratch: plan.scratch(D::linear_scratch(&self.shape)),
        });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let operands = BackwardOperands {
            x: on.read(self.x.slot()),
            weight: on.weight(self.weights.weight),
            gelu: self.gelu.filter(|_| back.through_gelu).map(|(kind, pre)| (kind, on.read(pre))),
            dy: on.write(back.dy),
            dx: back.dx.map(|dx| on.write(dx)),
            x_gelu: back.x_gelu.map(|(kind, pre)| (kind, on.read(pre))),
            dweight: on.grad(back.dweight),
            dbias: back.dbias.map(|dbias| on.grad(dbias)),
            scratch: on.write(back.scratch),
        };
        device.linear_backward(&self.shape, operands)
    }
}
